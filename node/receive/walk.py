"""The structural walk: does this byte string hold one whole data set, to its last byte?

Only element headers are touched; values, pixel data above all, are stepped over. What the walk
tolerates and what it refuses (PS3.5 chapter 7, Annex A):

====================================================  =========
odd value length                                      tolerated
a length beyond its container, reserved lengths       refused
an unknown value representation                       refused
duplicate tags, tags out of order                     refused
a missing item or sequence delimiter                  refused
group 0000, 0002, 0004, 0006 in a data set            refused
nesting deeper than 128, too many elements            refused
====================================================  =========
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from struct import Struct
from typing import NoReturn, TypeAlias

from pydicom._dicom_dict import DicomDictionary

from node.domain.errors import InstanceRejected
from node.receive.statuses import CANNOT_UNDERSTAND

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

MAX_DEPTH = 128
MAX_ELEMENTS = 4_000_000

PIXEL_DATA = 0x7FE00010

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_TAG = 0x00080000

_SHORT = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # PS3.5 7.1.2
)
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAY_BE_UNDEFINED = frozenset((b"SQ", b"UN"))
_ENCAPSULATED = frozenset((b"OB", b"OW"))

_SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How element headers are written."""

    is_implicit: bool
    is_little_endian: bool


IMPLICIT_LITTLE = Encoding(is_implicit=True, is_little_endian=True)
EXPLICIT_LITTLE = Encoding(is_implicit=False, is_little_endian=True)
EXPLICIT_BIG = Encoding(is_implicit=False, is_little_endian=False)


@dataclass(frozen=True, slots=True)
class Element:
    """Where a value lies; ``vr`` is empty in implicit VR."""

    vr: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The top level of a whole data set.

    Args:
        fragments: Of encapsulated pixel data, without the offset table; None where it is native.
        elements: By tag.
    """

    encoding: Encoding
    elements: dict[int, Element]
    fragments: tuple[Element, ...] | None


def walk(
    data: Buffer,
    encoding: Encoding,
    *,
    start: int = 0,
    max_elements: int = MAX_ELEMENTS,
    found: dict[int, Element] | None = None,
) -> Structure:
    """Walk a data set from ``start`` to the end of the buffer.

    Args:
        found: Gets the elements of the top level as they are found: after a refusal it holds what
            stood before the fault, so that a cut file can still say which series it belongs to.
    Raises:
        InstanceRejected: 0xC000; the bytes are not one whole data set in this encoding.
    """
    walker = _Walker(data, encoding, max_elements, {} if found is None else found)
    end = len(data)
    if start >= end:
        _refuse("the data set is empty")
    walker.data_set(start, end, open_ended=False, is_implicit=encoding.is_implicit, depth=0)
    fragments = None if walker.fragments is None else tuple(walker.fragments)
    return Structure(encoding=encoding, elements=walker.elements, fragments=fragments)


def _refuse(reason: str, tag: int | None = None) -> NoReturn:
    where = "" if tag is None else f" at ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    raise InstanceRejected(
        f"the data set cannot be read: {reason}{where}",
        dimse_status=CANNOT_UNDERSTAND,
        offending_tags=[] if tag is None else [tag],
    )


@dataclass(slots=True)
class _Walker:
    data: Buffer
    encoding: Encoding
    max_elements: int
    elements: dict[int, Element] = field(default_factory=dict)
    fragments: list[Element] | None = None
    count: int = 0

    def data_set(
        self, position: int, limit: int, *, open_ended: bool, is_implicit: bool, depth: int
    ) -> int:
        """Walk elements up to ``limit``, or to an item delimiter if open-ended; where it ends."""
        order = "<" if self.encoding.is_little_endian else ">"
        header = Struct(f"{order}HH2sH").unpack_from
        long_header = Struct(f"{order}HHI").unpack_from
        long_length = Struct(f"{order}I").unpack_from
        data, top, last = self.data, depth == 0, -1
        while position < limit:
            if position + 8 > limit:
                _refuse("an element header is cut off", max(last, 0))
            if is_implicit:
                group, element, length = long_header(data, position)
                tag, vr, value = group << 16 | element, b"", position + 8
                if tag == _ITEM_END and open_ended:
                    return self._delimiter_end(tag, length, value)
            else:
                group, element, vr, length = header(data, position)
                tag, value = group << 16 | element, position + 8
                if tag == _ITEM_END and open_ended:
                    return self._delimiter_end(tag, long_length(data, position + 4)[0], value)
                if vr in _LONG:
                    value += 4
                    if value > limit:
                        _refuse("an element header is cut off", tag)
                    (length,) = long_length(data, position + 8)
                elif vr not in _SHORT:
                    _refuse("unknown value representation", tag)
            self._check_order(tag, last)
            last = tag
            if length == _UNDEFINED:
                position = self._undefined(tag, vr, value, limit, is_implicit, depth)
                length = position - value
            else:
                position = value + length
                if position > limit:
                    _refuse("a value is longer than what is left", tag)
                if length and (vr == b"SQ" or (is_implicit and tag in _SEQUENCE_TAGS)):
                    self._sequence(value, position, False, is_implicit, depth + 1, tag)
            if top:
                self.elements[tag] = Element(vr, value, length)
        if open_ended:
            _refuse("an item delimiter is missing", max(last, 0))
        return position

    def _check_order(self, tag: int, last: int) -> None:
        self.count += 1
        if self.count > self.max_elements:
            _refuse("too many elements", tag)
        if tag <= last:
            _refuse("duplicate tag" if tag == last else "tags out of order", tag)
        if tag < _FIRST_TAG or tag >> 16 == 0xFFFE:
            _refuse("a tag that cannot stand in a data set", tag)

    def _undefined(
        self, tag: int, vr: bytes, value: int, limit: int, is_implicit: bool, depth: int
    ) -> int:
        if tag == PIXEL_DATA and (vr in _ENCAPSULATED):
            return self._encapsulated(value, limit, depth)
        if not is_implicit and vr not in _MAY_BE_UNDEFINED:
            _refuse("undefined length where none may be", tag)
        # PS3.5 6.2.2: UN of undefined length holds a sequence in implicit VR little endian
        return self._sequence(value, limit, True, is_implicit or vr == b"UN", depth + 1, tag)

    def _sequence(
        self, position: int, limit: int, open_ended: bool, is_implicit: bool, depth: int, tag: int
    ) -> int:
        if depth > MAX_DEPTH:
            _refuse(f"sequences nested deeper than {MAX_DEPTH}", tag)
        while position < limit:
            item, length, value = self._item_header(position, limit, tag)
            if item == _SEQUENCE_END and open_ended:
                return self._delimiter_end(item, length, value)
            if item != _ITEM:
                _refuse("a sequence holds something else than items", tag)
            self.count += 1
            if length == _UNDEFINED:
                position = self.data_set(
                    value, limit, open_ended=True, is_implicit=is_implicit, depth=depth
                )
                continue
            position = value + length
            if position > limit:
                _refuse("an item is longer than its sequence", tag)
            self.data_set(value, position, open_ended=False, is_implicit=is_implicit, depth=depth)
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
                return self._delimiter_end(item, length, value)
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

    def _delimiter_end(self, tag: int, length: int, value: int) -> int:
        if length:
            _refuse("a delimiter with a length", tag)
        return value
