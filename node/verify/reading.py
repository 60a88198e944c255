"""A SEG as its bytes say it: header by pydicom, frames and bits taken apart here.

Source: PS3.10 7.1, PS3.5 8.1.1 (one-bit pixels).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from node.domain.errors import ResultRefused
from node.verify.groups import SegFrame, read_frames

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
