"""The structural walk: does this byte string hold one whole data set, to its last byte?

Only element headers are touched; values, pixel data above all, are stepped over. What all readers
take alike is taken, and noted where the Standard forbids it; what they read differently, or cannot
read, is refused (PS3.5 chapter 7, Annex A). ``tests/receive/test_tolerance.py`` asks dcmtk, GDCM
and pydicom.

====================================================  =======================================
odd value length                                      taken
zeros, a line end or an item delimiter at the end     taken, noted
groups 0000 to 0007 in a data set                     taken, noted
tags out of order, the same element again             taken, noted
a delimiter with a length, or where none is needed    taken, noted
no value representation, as in implicit VR            taken, noted
items in explicit VR where implicit is due            taken, noted
UN of undefined length in big endian                  taken, noted, its length written (CP-246)
text in a sequence, implicit VR                       taken, noted, as bytes
a second element of one tag with another value        refused: readers differ in which one counts
an attribute behind the pixel data                    refused: readers of headers do not see it
a length beyond its container, reserved lengths       refused
an unknown value representation                       refused
a missing item or sequence delimiter                  refused
anything else behind the last element                 refused: it may be a cut element
nesting deeper than 128, too many elements            refused
a value that is longer than its VR allows by far      refused: whoever reads it would keep it
====================================================  =======================================
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import Struct, pack
from typing import NoReturn, TypeAlias

from pydicom._dicom_dict import DicomDictionary

from node.domain.errors import InstanceRejected, Status
from node.domain.received import Note
from node.receive.syntaxes import EXPLICIT_BIG_UID, IMPLICIT_LITTLE_UID

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

MAX_DEPTH = 128
# what reading a header takes is about 500 bytes for each: an enhanced image has 60 for each frame
MAX_ELEMENTS = 600_000
# of the top level, of which everybody keeps each: images have hundreds
MAX_TOP_ELEMENTS = 10_000
# what explicit VR can say of these at all (PS3.5 7.1.2); implicit VR and other VRs could say more
MAX_VALUE_BYTES = 0xFFFF

# float, double and integer pixels: where a header ends
FIRST_PIXELS, PIXEL_DATA = 0x7FE00008, 0x7FE00010

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_TAG = 0x00080000
_DELIMITERS = 0xFFFE0000
_FIRST_BULK = 0x54000000  # waveforms, overlays, pixels
_SHORTEST_HEADER = 8
_PADDING = b"\0\r\n\x1a"  # and the end-of-file mark of CP/M and DOS
_PIECE_BYTES = 1 << 16

_SHORT = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # PS3.5 7.1.2
)
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAY_BE_UNDEFINED = frozenset((b"SQ", b"UN"))
_ENCAPSULATED = frozenset((b"OB", b"OW"))

SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))
# what the pixels mean and where they lie stands in these: they are whole, or the image is refused
_DECISIVE_SEQUENCES = frozenset(
    (0x00283000, 0x00409096, 0x00540016, 0x52009229, 0x52009230)
)  # Modality LUT, Real World Value Mapping, Radiopharmaceutical, Functional Groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How element headers are written."""

    is_implicit: bool
    is_little_endian: bool


IMPLICIT_LITTLE = Encoding(is_implicit=True, is_little_endian=True)
EXPLICIT_LITTLE = Encoding(is_implicit=False, is_little_endian=True)
EXPLICIT_BIG = Encoding(is_implicit=False, is_little_endian=False)


# under all other transfer syntaxes in explicit VR little endian
_ENCODINGS = {IMPLICIT_LITTLE_UID: IMPLICIT_LITTLE, EXPLICIT_BIG_UID: EXPLICIT_BIG}


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How element headers are written under a transfer syntax, once it is inflated."""
    return _ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)


@dataclass(frozen=True, slots=True)
class Element:
    """Where a value lies; ``vr`` is empty in implicit VR."""

    vr: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The top level of a data set; its values are read from where the walk found them.

    Args:
        fragments: Of encapsulated pixel data, without the offset table; None where it is native.
        elements: By tag; of an element that comes twice the first.
        notes: What the Standard does not allow and was taken.
        rewrites: Bytes to be put at these offsets of the kept data set, so that readers who do not
            know CP-246 find the end of an element; the data set says the same with them.
    """

    data: Buffer
    encoding: Encoding
    elements: dict[int, Element]
    fragments: tuple[Element, ...] | None = None
    notes: frozenset[Note] = frozenset()
    rewrites: tuple[tuple[int, bytes], ...] = ()

    def value(self, tag: int) -> bytes:
        """The encoded value, cut at ``MAX_VALUE_BYTES``; empty where the element is absent."""
        element = self.elements.get(tag)
        if element is None:
            return b""
        length = min(element.length, MAX_VALUE_BYTES)
        return bytes(self.data[element.offset : element.offset + length])

    def text(self, tag: int) -> str:
        """A value of the default character repertoire, padding removed."""
        return self.value(tag).rstrip(b" \0").lstrip(b" ").decode("latin-1")


def walk(
    data: Buffer,
    encoding: Encoding,
    *,
    max_elements: int = MAX_ELEMENTS,
    found: dict[int, Element] | None = None,
) -> Structure:
    """Walk a data set from the start of the buffer to its end.

    Args:
        found: Gets the elements of the top level as they are found: after a refusal it holds what
            stood before the fault, so that a cut file can still say which series it belongs to.
    Raises:
        InstanceRejected: 0xC000; the bytes are not one whole data set in this encoding.
    """
    walker = _Walker(data, encoding, max_elements, {} if found is None else found)
    if not len(data):
        _refuse("the data set is empty")
    walker.data_set(0, len(data), False, encoding.is_implicit, 0)
    _check_lengths(walker.elements)
    return Structure(
        data=data,
        encoding=encoding,
        elements=walker.elements,
        fragments=None if walker.fragments is None else tuple(walker.fragments),
        notes=frozenset(walker.notes),
        rewrites=tuple(walker.rewrites),
    )


def walk_head(data: Buffer, encoding: Encoding) -> Structure | None:
    """What stands in front of the pixels, by the beginning of a data set that was walked before.

    Returns:
        Its last element is the first of the pixels, which may be cut; None where the beginning does
        not reach as far.
    """
    walker = _Walker(data, encoding, MAX_ELEMENTS, ends_in_pixels=True)
    try:
        walker.data_set(0, len(data), False, encoding.is_implicit, 0)
    except InstanceRejected:
        return None
    if not any(tag >= FIRST_PIXELS for tag in walker.elements):
        return None
    return Structure(
        data=data, encoding=encoding, elements=walker.elements, notes=frozenset(walker.notes)
    )


def is_zero(data: Buffer, start: int, end: int) -> bool:
    """Whether nothing but zeros stands there; a piece at a time is copied."""
    return not any(
        bytes(data[at : min(at + _PIECE_BYTES, end)]).strip(b"\0")
        for at in range(start, end, _PIECE_BYTES)
    )


def _check_lengths(elements: Mapping[int, Element]) -> None:
    """Refuse a value of text or numbers that nobody should have to keep, whatever VR it claims."""
    for tag, element in elements.items():
        if element.length <= MAX_VALUE_BYTES or tag >= _FIRST_BULK or (tag >> 16) & 1:
            continue
        entry = DicomDictionary.get(tag)
        vr = entry[0].encode() if entry is not None else element.vr
        if vr in _SHORT:
            _refuse(f"a value of {element.length} bytes", tag)


def _refuse(reason: str, tag: int | None = None) -> NoReturn:
    where = "" if tag is None else f" at ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    raise InstanceRejected(
        f"the data set cannot be read: {reason}{where}",
        dimse_status=Status.CANNOT_UNDERSTAND,
        offending_tags=[] if tag is None else [tag],
    )


@dataclass(slots=True)
class _Walker:
    data: Buffer
    encoding: Encoding
    max_elements: int
    elements: dict[int, Element] = field(default_factory=dict)
    ends_in_pixels: bool = False
    fragments: list[Element] | None = None
    count: int = 0
    notes: set[Note] = field(default_factory=set)
    rewrites: list[tuple[int, bytes]] = field(default_factory=list)

    def data_set(
        self, position: int, limit: int, open_ended: bool, is_implicit: bool, depth: int
    ) -> int:
        """Walk elements up to ``limit``, or to an item delimiter if open-ended; where it ends.

        One long loop on purpose: a call for each of millions of elements would cost a third of the
        time. Only what is irregular leaves it.
        """
        order = "<" if self.encoding.is_little_endian else ">"
        header = Struct(f"{order}HH2sH").unpack_from
        long_header = Struct(f"{order}HHI").unpack_from
        long_length = Struct(f"{order}I").unpack_from
        data, top, last, start = self.data, depth == 0, _FIRST_TAG - 1, position
        # below the top level elements are remembered from the first irregularity on
        seen = self.elements if top else None
        while position < limit:
            if position + _SHORTEST_HEADER > limit:
                return self._end_behind(position, limit, top and not open_ended, last)
            if is_implicit:
                group, element, length = long_header(data, position)
                tag, vr, value = group << 16 | element, b"", position + 8
                if tag == _ITEM_END:
                    if open_ended:
                        return self._delimiter_end(length, value)
                    return self._end_behind(value, limit, top or value == limit, tag)
            else:
                group, element, vr, length = header(data, position)
                tag, value = group << 16 | element, position + 8
                if vr in LONG_VRS:
                    value += 4
                    if value > limit:
                        _refuse("an element header is cut off", tag)
                    (length,) = long_length(data, position + 8)
                elif vr not in _SHORT:
                    if tag == _ITEM_END:
                        if open_ended:
                            return self._delimiter_end(long_length(data, position + 4)[0], value)
                        return self._end_behind(value, limit, top or value == limit, tag)
                    if top and is_zero(self.data, position, limit):
                        return self._end_behind(position, limit, top, last)
                    vr, length = self._without_vr(tag, vr, length, is_first=last < _FIRST_TAG)
            self.count += 1
            if self.count > self.max_elements:
                _refuse("too many elements", tag)
            is_regular = last < tag < _DELIMITERS
            if is_regular:
                last = tag
            else:
                if tag == 0 and not length and top and is_zero(self.data, position, limit):
                    return self._end_behind(position, limit, top, last)
                self._check_possible(tag, length, is_first=top and last < _FIRST_TAG)
                if seen is None:  # once more from the start, remembering
                    seen, position, last = {}, start, _FIRST_TAG - 1
                    continue
            if length == _UNDEFINED:
                position = self._undefined(tag, vr, value, limit, is_implicit, depth)
                length = position - value
            else:
                position = value + length
                if position > limit:
                    if not (top and self.ends_in_pixels and tag >= FIRST_PIXELS):
                        _refuse("a value is longer than what is left", tag)
                    position = limit
                elif length and (vr == b"SQ" or (is_implicit and tag in SEQUENCE_TAGS)):
                    try:
                        self._sequence(value, position, False, is_implicit, depth + 1, tag)
                    except InstanceRejected as fault:
                        self._other_content(fault, value, position, is_implicit, depth, tag)
            if seen is not None:
                if top and len(seen) >= MAX_TOP_ELEMENTS:
                    _refuse("too many elements", tag)
                if is_regular:
                    seen[tag] = Element(vr, value, length)
                else:
                    self._weigh(tag, Element(vr, value, length), seen, is_implicit, top)
        if open_ended:
            _refuse("an item delimiter is missing", max(last, 0))
        return position

    # --- what the Standard does not foresee -------------------------------------------------------

    def _end_behind(self, position: int, limit: int, may_be: bool, tag: int) -> int:
        """The end, where nothing but padding stands from ``position`` on."""
        rest = limit - position
        is_short = rest < _SHORTEST_HEADER
        if not may_be or not (
            not bytes(self.data[position:limit]).strip(_PADDING)
            if is_short
            else is_zero(self.data, position, limit)
        ):
            if tag == _ITEM_END:
                _refuse("a tag that cannot stand in a data set", tag)
            _refuse("an element header is cut off", tag if tag >= _FIRST_TAG else 0)
        self.notes.add(Note.STRAY_DELIMITER if tag == _ITEM_END else Note.BYTES_BEHIND)
        if rest:
            self.notes.add(Note.BYTES_BEHIND)
        return limit

    def _without_vr(self, tag: int, vr: bytes, length: int, *, is_first: bool) -> tuple[bytes, int]:
        """An element header as implicit VR has it; only a short value, whose length cannot be a VR.

        By the first element readers tell how all others are encoded.
        """
        is_possible = (tag in DicomDictionary or (tag >> 16) & 1) and tag not in _PIXELS
        if length or is_first or b"AA" <= vr <= b"ZZ" or not is_possible:
            _refuse("unknown value representation", tag)
        self.notes.add(Note.NO_VR)
        return b"", int.from_bytes(vr, "little" if self.encoding.is_little_endian else "big")

    def _check_possible(self, tag: int, length: int, *, is_first: bool) -> None:
        if tag >> 16 == 0xFFFE:
            _refuse("a tag that cannot stand in a data set", tag)
        if not tag and not length:
            _refuse("zeros between elements", tag)
        if tag >> 16 == 0 and is_first and not self.encoding.is_little_endian:
            # pydicom takes it for a command set, which is little endian wherever it stands
            _refuse("a command set in big endian", tag)

    def _weigh(
        self, tag: int, element: Element, seen: dict[int, Element], is_implicit: bool, top: bool
    ) -> None:
        """Take an element that stands where none should, or refuse it."""
        before = seen.setdefault(tag, element)
        if before is not element:
            if not self._is_equal(before, element):
                _refuse("an element comes twice with different values", tag)
            self.notes.add(Note.REPEATED)
        elif tag < _FIRST_TAG:
            self.notes.add(Note.LOW_GROUP)
        elif tag < _DELIMITERS:
            is_private = (tag >> 16) & 1
            has_pixels = any(pixels in seen for pixels in _PIXELS if pixels != tag)
            if top and not is_private and has_pixels:
                _refuse("an attribute behind the pixel data", tag)
            if is_implicit and not is_private and tag not in DicomDictionary:
                _refuse("tags out of order", tag)
            self.notes.add(Note.OUT_OF_ORDER)

    def _is_equal(self, one: Element, other: Element) -> bool:
        return (one.vr, one.length) == (other.vr, other.length) and all(
            self.data[one.offset + at : one.offset + min(at + _PIECE_BYTES, one.length)]
            == self.data[other.offset + at : other.offset + min(at + _PIECE_BYTES, one.length)]
            for at in range(0, one.length, _PIECE_BYTES)
        )

    def _other_content(
        self,
        fault: InstanceRejected,
        value: int,
        end: int,
        is_implicit: bool,
        depth: int,
        tag: int,
    ) -> None:
        """A sequence of known length that does not parse: text, or items in explicit VR."""
        if not is_implicit:
            raise fault
        first = 0
        if end - value >= _SHORTEST_HEADER:
            first = self._item_header(value, end, tag)[0]
        if first not in (_ITEM, _SEQUENCE_END):
            if tag in _DECISIVE_SEQUENCES:
                raise fault
            self.notes.add(Note.TEXT_FOR_SEQUENCE)
            return
        if depth:
            raise fault
        self._again(fault, lambda: self._sequence(value, end, False, False, 1, tag))

    def _again(self, fault: InstanceRejected, attempt: Callable[[], int]) -> int:
        """What another encoding makes of items that could not be read in the one that is due."""
        try:
            end = attempt()
        except InstanceRejected:
            raise fault from None
        self.notes.add(Note.OTHER_ENCODING)
        return end

    # --- sequences and pixel data -------------------------------------------------------------------

    def _undefined(
        self, tag: int, vr: bytes, value: int, limit: int, is_implicit: bool, depth: int
    ) -> int:
        if self.ends_in_pixels and depth == 0 and tag >= FIRST_PIXELS:
            return limit
        if tag == PIXEL_DATA and (vr in _ENCAPSULATED):
            return self._encapsulated(value, limit, depth)
        if not is_implicit and vr not in _MAY_BE_UNDEFINED:
            _refuse("undefined length where none may be", tag)
        if vr == b"UN":
            return self._unknown(value, limit, depth + 1, tag)
        return self._sequence(value, limit, True, is_implicit, depth + 1, tag)

    def _unknown(self, value: int, limit: int, depth: int, tag: int) -> int:
        """UN of undefined length holds items in implicit VR little endian. Source: PS3.5 6.2.2."""
        try:
            if self.encoding.is_little_endian:
                return self._sequence(value, limit, True, True, depth, tag)
            return self._little_inside(value, limit, depth, tag)
        except InstanceRejected as fault:
            if depth > 1:
                raise
            return self._again(fault, lambda: self._sequence(value, limit, True, False, depth, tag))

    def _little_inside(self, value: int, limit: int, depth: int, tag: int) -> int:
        inner = _Walker(self.data, IMPLICIT_LITTLE, self.max_elements, count=self.count)
        end = inner._sequence(value, limit, True, True, depth, tag)
        self.count = inner.count
        if tag in SEQUENCE_TAGS:
            _refuse("a sequence of unknown value representation in big endian", tag)
        self.notes |= {*inner.notes, Note.UN_IN_BIG_ENDIAN}
        self.rewrites.append((value - 4, pack(">I", end - value)))
        return end

    def _sequence(
        self, position: int, limit: int, open_ended: bool, is_implicit: bool, depth: int, tag: int
    ) -> int:
        if depth > MAX_DEPTH:
            _refuse(f"sequences nested deeper than {MAX_DEPTH}", tag)
        while position < limit:
            item, length, value = self._item_header(position, limit, tag)
            if item == _SEQUENCE_END and (open_ended or value == limit):
                if not open_ended:
                    self.notes.add(Note.STRAY_DELIMITER)
                return self._delimiter_end(length, value)
            if item != _ITEM:
                _refuse("a sequence holds something else than items", tag)
            self.count += 1
            if length == _UNDEFINED:
                position = self.data_set(value, limit, True, is_implicit, depth)
                continue
            position = value + length
            if position > limit:
                _refuse("an item is longer than its sequence", tag)
            self.data_set(value, position, False, is_implicit, depth)
        if open_ended:
            _refuse("a sequence delimiter is missing", tag)
        return position

    def _encapsulated(self, position: int, limit: int, depth: int) -> int:
        """Fragments of pixel data up to their delimiter. Source: PS3.5 A.4."""
        fragments: list[Element] = []
        while position < limit:
            item, length, value = self._item_header(position, limit, PIXEL_DATA)
            if item == _SEQUENCE_END:
                if depth == 0:
                    self.fragments = fragments[1:]
                return self._delimiter_end(length, value)
            position = value + length
            if item != _ITEM or position > limit:
                _refuse("a fragment of pixel data is cut off", PIXEL_DATA)
            fragments.append(Element(b"", value, length))
            self.count += 1
            if self.count > self.max_elements:
                _refuse("too many fragments", PIXEL_DATA)
        _refuse("a sequence delimiter is missing", PIXEL_DATA)

    def _item_header(self, position: int, limit: int, tag: int) -> tuple[int, int, int]:
        if position + 8 > limit:
            _refuse("an item header is cut off", tag)
        layout = "<HHI" if self.encoding.is_little_endian else ">HHI"
        group, element, length = Struct(layout).unpack_from(self.data, position)
        return group << 16 | element, length, position + 8

    def _delimiter_end(self, length: int, value: int) -> int:
        """A delimiter has no value, whatever length it claims: no reader steps over one."""
        if length:
            self.notes.add(Note.STRAY_DELIMITER)
        return value
