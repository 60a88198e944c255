"""A SEG as its bytes say it: header by pydicom, frames and bits taken apart here.

A whole body has twenty thousand items of four macros each, and most macros repeat: over segments
the position, over slices the segment. Each is taken apart once, here and not by pydicom, whose data
sets would be the longest part of a verification.

Source: PS3.10 7.1, PS3.5 8.1.1 (one-bit pixels), 7.1.2 and 7.5.1 (Explicit VR Little Endian,
sequences of defined length), PS3.3 C.7.6.16.2 (macros).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from node.domain.errors import ResultRefused

T = TypeVar("T")
Element = tuple[bytes, bytes]  # VR and value
Elements = Mapping[int, Element]

_PIXEL_DATA_HEADER = struct.Struct("<HH2sHI")
_PIXEL_DATA = 0x7FE00010
_ITEM = 0xFFFEE000
_UNDEFINED = 0xFFFFFFFF
_TAG_AND_LENGTH = struct.Struct("<HHI")
_TAG_VR_LENGTH = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<I")
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_INTEGERS = {b"US": "H", b"UL": "I", b"SS": "h", b"SL": "i"}

UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    struct.error,
    NotImplementedError,
    ValueError,
    TypeError,
    KeyError,
)
"""What pydicom raises where bytes are no DICOM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegFrame:
    """What one item of the Per-Frame Functional Groups Sequence says; absent parts are None."""

    number: int
    segment_number: int | None
    position_mm: tuple[float, ...] | None
    dimension_indices: tuple[int, ...]
    references: tuple[Reference, ...]
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One source image of a frame, with the codes that say what it was used for."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    purpose: str
    derivation: str


@dataclass(frozen=True, slots=True)
class SegFile:
    header: Dataset
    frames: tuple[SegFrame, ...]
    bits: memoryview

    def plane(self, index: int, rows: int, columns: int) -> NDArray[np.bool_]:
        """The voxels of frame ``index``, 0-based, shape (rows, columns)."""
        start = index * rows * columns
        stop = start + rows * columns
        octets = np.frombuffer(self.bits[start // 8 : (stop + 7) // 8], np.uint8)
        unpacked = np.unpackbits(octets, bitorder="little")
        return unpacked[start % 8 :][: rows * columns].view(np.bool_).reshape(rows, columns)


def read_seg(data: bytes | memoryview) -> SegFile:
    """Take a file apart.

    Raises:
        ResultRefused: Pixel Data is not there, or not as long as it says.
        UNREADABLE: pydicom finds no DICOM in it; it decodes lazily, so any later look may do so.
    """
    view = memoryview(data).cast("B")
    stream = io.BufferedReader(_ViewReader(view))
    header = dcmread(stream, stop_before_pixels=True)
    bits = _pixel_bits(view, stream.tell())
    frames = read_frames(
        _groups(header, "PerFrameFunctionalGroupsSequence"),
        _groups(header, "SharedFunctionalGroupsSequence"),
    )
    return SegFile(header, frames, bits)


def _pixel_bits(view: memoryview, offset: int) -> memoryview:
    if len(view) < offset + _PIXEL_DATA_HEADER.size:
        raise ResultRefused(["the file ends before Pixel Data"])
    group, number, vr, _, length = _PIXEL_DATA_HEADER.unpack_from(view, offset)
    if (group << 16 | number) != _PIXEL_DATA or vr not in (b"OB", b"OW"):
        raise ResultRefused(["no Pixel Data of explicit VR follows the header"])
    bits = view[offset + _PIXEL_DATA_HEADER.size :]
    if len(bits) != length:
        raise ResultRefused([f"Pixel Data says {length} bytes, the file holds {len(bits)}"])
    return bits


class _ViewReader(io.RawIOBase):
    """Reads a view without copying the whole of it first."""

    name = "memory"  # pydicom asks a buffered reader for it

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._view[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _groups(header: Dataset, keyword: str) -> bytes:
    """The value of a sequence as it stands in the file."""
    tag = Tag(keyword)
    found: DataElement | RawDataElement | None = header.get_item(tag) if tag in header else None
    if found is None:
        return b""
    if not isinstance(found, RawDataElement):  # which pydicom had to take apart to find its end
        raise ResultRefused([f"{keyword} is of undefined length"])
    return found.value or b""


def code_of(holder: Dataset, keyword: str) -> str:
    """A coded entry as ``scheme:value``, or empty where it is absent."""
    items = holder.get(keyword) or []
    if len(items) != 1:
        return ""
    return f"{items[0].get('CodingSchemeDesignator', '')}:{items[0].get('CodeValue', '')}"


def plain_text_of(holder: Dataset, keyword: str) -> str:
    """ASCII text of ours, undecoded: pydicom would cut or warn where it is malformed."""
    tag = Tag(keyword)
    found: DataElement | RawDataElement | None = holder.get_item(tag) if tag in holder else None
    if isinstance(found, RawDataElement):
        return (found.value or b"").decode("ascii", "replace").strip(" ")
    return "" if found is None or found.value is None else str(found.value)


def read_frames(per_frame: bytes, shared: bytes) -> tuple[SegFrame, ...]:
    """Every frame, from the values of the two Functional Groups Sequences.

    Raises:
        ValueError, struct.error: The bytes are no sequence, or are of undefined length.
    """
    common = next(_items(shared), b"")
    macros = _Macros(_elements(common))
    return tuple(
        _frame(number, macros, _elements(own)) for number, own in enumerate(_items(per_frame), 1)
    )


def _frame(number: int, macros: _Macros, own: Elements) -> SegFrame:
    segments = macros.read(own, *_SEGMENT)
    if segments is not None and len(segments) != 1:
        raise ValueError("a frame of several segments")
    return SegFrame(
        number=number,
        segment_number=_whole(segments[0]) if segments else None,
        position_mm=macros.read(own, *_POSITION),
        dimension_indices=tuple(map(_whole, macros.read(own, *_INDICES) or ())),
        references=macros.read(own, *_DERIVATION) or (),
        orientation=macros.read(own, *_ORIENTATION),
        pixel_spacing_mm=macros.read(own, *_SPACING),
    )


class _Macros:
    """Macros of a frame, or those that all share; equal bytes are taken apart once."""

    def __init__(self, shared: Elements) -> None:
        self._shared = shared
        self._read: dict[tuple[int, bytes], Any] = {}

    def read(self, own: Elements, macro: int, take: Callable[[bytes], T | None]) -> T | None:
        """What ``take`` makes of the value of a macro; None where there is none."""
        _, value = own.get(macro) or self._shared.get(macro) or (b"SQ", b"")
        key = (macro, value)
        if key not in self._read:
            self._read[key] = take(value)
        found: T | None = self._read[key]
        return found


def _references(value: bytes) -> tuple[Reference, ...]:
    return tuple(
        Reference(
            sop_class_uid=_text(source, "ReferencedSOPClassUID"),
            sop_instance_uid=_text(source, "ReferencedSOPInstanceUID"),
            frame_number=_frame_number(source),
            purpose=_code(source, "PurposeOfReferenceCodeSequence"),
            derivation=_code(derivation, "DerivationCodeSequence"),
        )
        for derivation in map(_elements, _items(value))
        for source in map(_elements, _items(_value(derivation, "SourceImageSequence")))
    )


def _frame_number(source: Elements) -> int | None:
    numbers = _numbers(source, "ReferencedFrameNumber")
    if numbers is not None and len(numbers) != 1:
        raise ValueError("a reference to several frames at once")
    return _whole(numbers[0]) if numbers else None


def _code(holder: Elements, keyword: str) -> str:
    """A coded entry as ``scheme:value``, or empty where there is not just one."""
    items = [_elements(item) for item in _items(_value(holder, keyword))]
    if len(items) != 1:
        return ""
    return f"{_text(items[0], 'CodingSchemeDesignator')}:{_text(items[0], 'CodeValue')}"


def _numbers_in_first(keyword: str, value: bytes) -> tuple[float, ...] | None:
    first = next(_items(value), None)
    return None if first is None else _numbers(_elements(first), keyword)


def _numbers(holder: Elements, keyword: str) -> tuple[float, ...] | None:
    """The numbers of an element, whatever its VR; None where it is absent or empty."""
    vr, value = holder.get(_tag(keyword), (b"", b""))
    if not value:
        return None
    if vr in _INTEGERS:
        kind = _INTEGERS[vr]
        return struct.unpack(f"<{len(value) // struct.calcsize(kind)}{kind}", value)
    text = value.decode("ascii").strip(" \0")
    numbers = tuple(float(part) for part in text.split("\\")) if text else None
    if numbers is not None and not all(map(isfinite, numbers)):
        raise ValueError("a number that is none")
    return numbers


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError("a part of a number where a whole one must be")
    return int(number)


def _text(holder: Elements, keyword: str) -> str:
    return _value(holder, keyword).decode("ascii", "replace").strip(" \0")


def _value(holder: Elements, keyword: str) -> bytes:
    return holder.get(_tag(keyword), (b"", b""))[1]


@cache
def _tag(keyword: str) -> int:
    return int(Tag(keyword))


def _items(value: bytes) -> Iterator[bytes]:
    """The bodies of the items of a sequence."""
    at = 0
    while at < len(value):
        group, number, length = _TAG_AND_LENGTH.unpack_from(value, at)
        at += _TAG_AND_LENGTH.size
        if (group << 16 | number) != _ITEM:
            raise ValueError("no item where one must be")
        yield _part(value, at, length)
        at += length


def _elements(item: bytes) -> Elements:
    found: dict[int, Element] = {}
    at = 0
    while at < len(item):
        group, number, vr, length = _TAG_VR_LENGTH.unpack_from(item, at)
        at += _TAG_VR_LENGTH.size
        if vr in _LONG_VRS:
            (length,) = _LONG_LENGTH.unpack_from(item, at)
            at += _LONG_LENGTH.size
        found[group << 16 | number] = (vr, _part(item, at, length))
        at += length
    return found


def _part(data: bytes, at: int, length: int) -> bytes:
    if length == _UNDEFINED:
        raise ValueError("a sequence or an item of undefined length")
    if at + length > len(data):
        raise ValueError("an element is longer than what holds it")
    return data[at : at + length]


def _numbers_of(
    macro: str, keyword: str
) -> tuple[int, Callable[[bytes], tuple[float, ...] | None]]:
    return _tag(macro), partial(_numbers_in_first, keyword)


_SEGMENT = _numbers_of("SegmentIdentificationSequence", "ReferencedSegmentNumber")
_INDICES = _numbers_of("FrameContentSequence", "DimensionIndexValues")
_POSITION = _numbers_of("PlanePositionSequence", "ImagePositionPatient")
_ORIENTATION = _numbers_of("PlaneOrientationSequence", "ImageOrientationPatient")
_SPACING = _numbers_of("PixelMeasuresSequence", "PixelSpacing")
_DERIVATION = _tag("DerivationImageSequence"), _references
