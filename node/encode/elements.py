"""Data elements as explicit little-endian bytes, and the source whose elements are copied.

What was read from a file and not yet looked at is copied byte for byte: no character set is
decoded, no date reformatted, no number rounded. Only the byte order of binary numbers changes,
where the source was big endian.

Source: PS3.5 7.1.2 (explicit VR), 7.5 (nested data sets), 6.2.2 (UN), 7.8 (private elements).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pydicom import uid
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from node.domain.carried import is_carried, is_text_for_sequence
from node.domain.errors import JobRefused
from node.domain.grid import Stack

_WORD_BYTES = {"AT": 2, "US": 2, "SS": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4}
_WORD_BYTES |= {"FD": 8, "OD": 8, "SV": 8, "UV": 8, "OV": 8}
_NUL_PADDED = frozenset({"UI", "OB", "UN"})
# transfer syntax -> Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)
_LOSSY_METHODS: dict[str, str] = {
    uid.JPEGBaseline8Bit: "ISO_10918_1",
    uid.JPEGExtended12Bit: "ISO_10918_1",
    uid.JPEGLSNearLossless: "ISO_14495_1",
    uid.JPEG2000: "ISO_15444_1",
    uid.JPEG2000MC: "ISO_15444_1",
    uid.HTJ2K: "ISO_15444_15",
}


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element: tag, VR, length and value, padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    group_element = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr not in EXPLICIT_VR_LENGTH_32 and len(value) > 0xFFFF:
        vr = "UN"
    if vr in EXPLICIT_VR_LENGTH_32:
        return group_element + vr.encode() + struct.pack("<HI", 0, len(value)) + value
    return group_element + vr.encode() + struct.pack("<H", len(value)) + value


def item(content: bytes) -> bytes:
    """One sequence item of defined length around encoded elements."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def attribute(keyword: str, value: bytes) -> bytes:
    """One element of the dictionary's VR."""
    return element(*_tag_and_vr(keyword), value)


@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = Tag(keyword)
    return tag, dictionary_VR(tag)


def sequence(keyword: str, *items: bytes) -> bytes:
    """A sequence element around the encoded elements of each item."""
    return attribute(keyword, b"".join(map(item, items)))


def encoded_elements(dataset: Dataset) -> Iterator[tuple[int, bytes]]:
    """Every element of a data set of our own, in order of tags."""
    for tag in sorted(dataset.keys()):
        yield int(tag), _written(dataset[tag], None)


def encoded_dataset(dataset: Dataset) -> bytes:
    return b"".join(data for _, data in encoded_elements(dataset))


def copied_element(source: Dataset, keyword: str) -> bytes | None:
    """An element of a source header, its value exactly as received; None where it is absent."""
    tag, _ = _tag_and_vr(keyword)
    return _copied(source, tag) if tag in source and not _is_text(source, tag) else None


def copied_elements(source: Dataset, keywords: Iterable[str]) -> dict[int, bytes]:
    """Those elements that the source has, by tag."""
    found = ((_tag_and_vr(keyword)[0], copied_element(source, keyword)) for keyword in keywords)
    return {int(tag): data for tag, data in found if data is not None}


def _copied(source: Dataset, tag: BaseTag) -> bytes:
    found: DataElement | RawDataElement = source.get_item(tag)
    if isinstance(found, DataElement) and found.VR == "SQ":
        return element(tag, "SQ", _copied_items(found.value))
    if isinstance(found, DataElement):
        return _written(found, source.get("SpecificCharacterSet"))
    vr = _explicit_vr(found)
    if vr == "SQ":
        decoded = convert_raw_data_element(found, encoding="iso8859", ds=source)
        return element(tag, "SQ", _copied_items(decoded.value))
    value = found.value or b""
    if not found.is_little_endian:
        value = _swapped(value, _WORD_BYTES.get(vr, 1))
    return element(tag, vr, value)


def _copied_items(items: Iterable[Dataset] | None) -> bytes:
    """Items of a sequence of the source, private elements left behind."""
    return b"".join(
        item(
            b"".join(
                _copied(nested, tag)
                for tag in sorted(nested.keys())
                if is_carried(tag) and not _is_text(nested, tag)
            )
        )
        for nested in items or ()
    )


def _is_text(source: Dataset, tag: BaseTag) -> bool:
    """Whether text stands where the dictionary has a sequence: no reader could read the copy."""
    found: DataElement | RawDataElement = source.get_item(tag)
    vr = _explicit_vr(found) if isinstance(found, RawDataElement) else str(found.VR)
    return is_text_for_sequence(source, tag, vr)


def _explicit_vr(raw: RawDataElement) -> str:
    """The VR that the file gave, or the dictionary's for implicit VR and for UN of known text."""
    if raw.VR not in (None, "UN"):
        return str(raw.VR)
    try:
        known = dictionary_VR(raw.tag)
    except KeyError:
        return "UN"
    if raw.VR == "UN" and known == "SQ":
        return "UN"
    return known


def _swapped(value: bytes, word_bytes: int) -> bytes:
    if word_bytes == 1:
        return value
    words = (value[at : at + word_bytes] for at in range(0, len(value), word_bytes))
    return b"".join(word[::-1] for word in words)


def _written(decoded: DataElement, character_set: str | list[str] | None) -> bytes:
    """An element that exists only as a decoded value, encoded by pydicom."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, decoded, convert_encodings(character_set))
    return bytes(buffer.getvalue())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Input headers with the stack that was made of them.

    Args:
        instances: All inputs, ordered as their frames lie in the stack, others behind them, so that
            nothing depends on the order of arrival.
    """

    instances: tuple[Dataset, ...]
    by_uid: dict[str, Dataset]
    stack: Stack

    @classmethod
    def of(cls, headers: Sequence[Dataset], stack: Stack) -> Source:
        """Order the headers.

        Raises:
            JobFailed: A frame of the stack belongs to none of them, or has no place in the patient.
        """
        by_uid = {str(header.SOPInstanceUID): header for header in headers}
        named = [frame.sop_instance_uid for frame in stack.frames]
        missing = sorted(set(named) - set(by_uid))
        if missing:
            raise JobRefused(f"source header of {missing[0]} is missing")
        unplaced = [f for f in stack.frames if f.position_mm is None or f.orientation is None]
        if unplaced or not stack.grid.frame_of_reference_uid:
            raise JobRefused("the source has no place in a Frame of Reference")
        ordered = [*dict.fromkeys(named), *sorted(set(by_uid) - set(named))]
        return cls(instances=tuple(by_uid[each] for each in ordered), by_uid=by_uid, stack=stack)

    @property
    def first(self) -> Dataset:
        """The instance of slice 0: its patient and study attributes are the result's."""
        return self.instances[0]

    def uniform(self, keyword: str) -> bytes | None:
        """An attribute as one element, where all instances have it with one value."""
        values = {copied_element(instance, keyword) for instance in self.instances}
        return values.pop() if len(values) == 1 else None

    def first_lossy(self) -> tuple[Dataset, str] | None:
        """An instance whose pixels went through a lossy compression, and the method if known."""
        for instance in self.instances:
            meta = getattr(instance, "file_meta", None)
            syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
            flag = copied_element(instance, "LossyImageCompression") or b""
            if flag.rstrip(b" \0").endswith(b"01") or syntax in _LOSSY_METHODS:
                return instance, _LOSSY_METHODS.get(syntax, "")
        return None
