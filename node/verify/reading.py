"""A SEG as its bytes say it: header by pydicom, frames and bits taken apart here.

Source: PS3.10 7.1, PS3.5 8.1.1 (one-bit pixels), PS3.3 C.7.6.16 (functional groups).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag

from node.domain.errors import ResultRefused

_PIXEL_DATA_HEADER = struct.Struct("<HH2sHI")
_PIXEL_DATA = 0x7FE00010

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
    """Header, frames and packed bits of one file."""

    header: Dataset
    frames: tuple[SegFrame, ...]
    bits: memoryview

    def plane(self, index: int, rows: int, columns: int) -> NDArray[np.bool_]:
        """The voxels of frame ``index``, 0-based, shape (rows, columns)."""
        start = index * rows * columns
        stop = start + rows * columns
        octets = np.frombuffer(self.bits[start // 8 : (stop + 7) // 8], np.uint8)
        unpacked = np.unpackbits(octets, bitorder="little")
        return unpacked[start % 8 :][: rows * columns].astype(np.bool_).reshape(rows, columns)


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
    return SegFile(header, _Frames().read(header), bits)


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


class _Frames:
    """Reads functional groups; macros repeat over segments, so equal bytes are decoded once."""

    def __init__(self) -> None:
        self._decoded: dict[tuple[int, bytes], list[Dataset]] = {}
        self._references: dict[int, tuple[Reference, ...]] = {}

    def read(self, header: Dataset) -> tuple[SegFrame, ...]:
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        return tuple(self._frame(n, own, shared[0]) for n, own in enumerate(per_frame, 1))

    def _frame(self, number: int, own: Dataset, shared: Dataset) -> SegFrame:
        position = self._attribute(own, shared, "PlanePositionSequence", "ImagePositionPatient")
        segment = self._attribute(
            own, shared, "SegmentIdentificationSequence", "ReferencedSegmentNumber"
        )
        indices = self._attribute(own, shared, "FrameContentSequence", "DimensionIndexValues")
        orientation = self._attribute(
            own, shared, "PlaneOrientationSequence", "ImageOrientationPatient"
        )
        spacing = self._attribute(own, shared, "PixelMeasuresSequence", "PixelSpacing")
        return SegFrame(
            number=number,
            segment_number=int(str(segment)) if segment is not None else None,
            position_mm=_numbers(position),
            dimension_indices=tuple(int(n) for n in _numbers(indices) or ()),
            references=self._frame_references(own, shared),
            orientation=_numbers(orientation),
            pixel_spacing_mm=_numbers(spacing),
        )

    def _frame_references(self, own: Dataset, shared: Dataset) -> tuple[Reference, ...]:
        derivations = self._macro(own, shared, "DerivationImageSequence")
        if id(derivations) not in self._references:
            self._references[id(derivations)] = _references(derivations)
        return self._references[id(derivations)]

    def _attribute(self, own: Dataset, shared: Dataset, macro: str, keyword: str) -> object:
        items = self._macro(own, shared, macro)
        return items[0].get(keyword) if items else None

    def _macro(self, own: Dataset, shared: Dataset, macro: str) -> list[Dataset]:
        tag = Tag(macro)
        holder = own if tag in own else shared
        if tag not in holder:
            return self._decoded.setdefault((int(tag), b""), [])
        return self._items(holder, tag)

    def _items(self, holder: Dataset, tag: BaseTag) -> list[Dataset]:
        found: DataElement | RawDataElement = holder.get_item(tag)
        if isinstance(found, DataElement):
            items = list(found.value or ())
            return self._decoded.setdefault((int(tag), str(id(found)).encode()), items)
        key = (int(tag), found.value or b"")
        if key not in self._decoded:
            element = convert_raw_data_element(found, encoding="iso8859", ds=holder)
            self._decoded[key] = list(element.value or ())
        return self._decoded[key]


def _references(derivations: list[Dataset]) -> tuple[Reference, ...]:
    return tuple(
        Reference(
            sop_class_uid=str(source.get("ReferencedSOPClassUID", "")),
            sop_instance_uid=str(source.get("ReferencedSOPInstanceUID", "")),
            frame_number=source.get("ReferencedFrameNumber"),
            purpose=code_of(source, "PurposeOfReferenceCodeSequence"),
            derivation=code_of(derivation, "DerivationCodeSequence"),
        )
        for derivation in derivations
        for source in derivation.get("SourceImageSequence") or []
    )


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


def _numbers(value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    many = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return tuple(float(number) for number in many)
