"""A stack of frames and their files become one array in the modality's unit.

Native little endian goes from the file straight into the volume; everything else goes through
pydicom's decoders, frame by frame. What a file says about itself must agree with what the gate saw
before anything is decoded.

Source: PS3.3 C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), PS3.5 8.1.1 (unused bits), A.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.domain.errors import JobFailed
from node.domain.frames import Frame
from node.domain.geometry import Geometry, Stack
from node.infer.codestream import coded_size

VoxelArray: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
Plane: TypeAlias = NDArray[np.integer]

# what pydicom, gdcm, pylibjpeg, pillow and pyjpegls raise over a frame that they cannot decode
_DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_IMAGE_PIXEL = (
    "SOPInstanceUID",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # (7FE0,0010), little endian
_RLE_GAIN = 64  # two bytes stand for at most 128 (PS3.5 G.3)
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """Voxels in the modality's unit, such as Hounsfield units, on a regular lattice.

    Args:
        array: Shape (slice, row, column); int16 where that holds every value exactly, else float32.
    """

    array: VoxelArray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"an array of {self.array.shape} on a grid of {self.geometry.shape}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One frame and the slice that it becomes."""

    slice_index: int
    frame: Frame

    @property
    def frame_index(self) -> int:
        """0-based place in the pixel data of its instance."""
        return (self.frame.frame_number or 1) - 1


def read_volume(stack: Stack, files: Mapping[str, Path]) -> Volume:
    """The voxels of a stack, each frame with its own rescale.

    Args:
        files: SOP Instance UID -> Part 10 file.
    Raises:
        JobFailed: A file is missing (another attempt may find it), or contradicts the stack or
            cannot be decoded (permanent); the instance is named.
    """
    by_instance: dict[str, list[_Wanted]] = {}
    for index, frame in enumerate(stack.frames):
        by_instance.setdefault(frame.sop_instance_uid, []).append(_Wanted(index, frame))
    slab = _Slab(stack)
    for sop_instance_uid, wanted in by_instance.items():
        if sop_instance_uid not in files:
            raise JobFailed(f"no file of instance {sop_instance_uid}")
        _read_instance(files[sop_instance_uid], wanted, slab)
    return Volume(array=slab.finish(), geometry=stack.geometry)


class _Slab:
    """The volume while it fills: stored values while one integer rescale may do, else float32."""

    def __init__(self, stack: Stack) -> None:
        rescales = {(frame.slope, frame.intercept) for frame in stack.frames}
        for slope, intercept in rescales:
            if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
                raise JobFailed(f"rescale slope {slope} and intercept {intercept}", permanent=True)
        self._frames = stack.frames
        self._shape = stack.geometry.shape
        self._slope, self._intercept = next(iter(rescales))
        self._is_whole = (
            len(rescales) == 1 and self._slope.is_integer() and self._intercept.is_integer()
        )
        self._stored: Plane | None = None
        self._floats = np.empty(() if self._is_whole else self._shape, np.float32)

    def room_for(self, index: int, dtype: np.dtype[np.integer]) -> Plane | None:
        """The slice itself, where stored values of this type can be read into it as they are."""
        if not self._is_whole:
            return None
        if self._stored is None:
            self._stored = np.empty(self._shape, dtype)
        return self._stored[index] if self._stored.dtype == dtype else None

    def put(self, index: int, plane: Plane) -> None:
        """Take the stored values of one slice."""
        plane = plane.astype(plane.dtype.newbyteorder("="), copy=False)
        if not self._is_whole:
            frame = self._frames[index]
            self._floats[index] = plane * frame.slope + frame.intercept
            return
        room = self.room_for(index, plane.dtype)
        if room is None and self._stored is not None:
            # signed and unsigned slices in one series: a type that holds both
            self._stored = self._stored.astype(np.promote_types(self._stored.dtype, plane.dtype))
            room = self._stored[index]
        if room is not None:
            room[...] = plane

    def finish(self) -> VoxelArray:
        """Apply the rescale that all slices share."""
        stored, slope, intercept = self._stored, int(self._slope), int(self._intercept)
        if stored is None:
            return self._floats
        ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
        if min(ends) < _INT16.min or max(ends) > _INT16.max:
            floats = np.empty(self._shape, np.float32)
            for index, plane in enumerate(stored):
                floats[index] = plane * float(slope) + float(intercept)
            return floats
        # the result fits, so arithmetic modulo 2**16 is exact and can happen in place
        whole = stored.view(np.int16) if stored.itemsize == 2 else stored.astype(np.int16)
        if slope != 1:
            whole *= _modular(slope)
        if intercept:
            whole += _modular(intercept)
        return whole


def _modular(number: int) -> np.int16:
    return np.uint16(number % (1 << 16)).view(np.int16)


def _read_instance(path: Path, wanted: Sequence[_Wanted], slab: _Slab) -> None:
    sop_instance_uid = wanted[0].frame.sop_instance_uid
    try:
        file = path.open("rb")
    except OSError as error:
        raise JobFailed(f"the file of instance {sop_instance_uid} is gone") from error
    with file:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(_IMAGE_PIXEL))
            pixels = _agreed(header, wanted)
            syntax = UID(str(header.file_meta.TransferSyntaxUID))
            if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
                _read_native(file, pixels, wanted, slab, is_implicit=syntax.is_implicit_VR)
            else:
                file.seek(0)
                _decode(dcmread(file), syntax, pixels, wanted, slab)
        except (InvalidDicomError, *_DECODE_ERRORS) as error:
            sentence = f"instance {sop_instance_uid} cannot be decoded ({type(error).__name__})"
            raise JobFailed(sentence, permanent=True) from error


@dataclass(frozen=True, slots=True)
class _Pixels:
    """What the Image Pixel module of one instance says."""

    sop_instance_uid: str
    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool

    @property
    def dtype(self) -> np.dtype[np.integer]:
        return np.dtype(f"<{'i' if self.is_signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8

    def refused(self, reason: str) -> JobFailed:
        return JobFailed(f"instance {self.sop_instance_uid}: {reason}", permanent=True)


def _agreed(header: FileDataset, wanted: Sequence[_Wanted]) -> _Pixels:
    """The Image Pixel module, if it agrees with the frames that the gate judged."""
    pixels = _Pixels(
        sop_instance_uid=str(header.get("SOPInstanceUID", "")),
        frames=int(header.get("NumberOfFrames") or 1),
        rows=int(header.Rows),
        columns=int(header.Columns),
        bits_allocated=int(header.BitsAllocated),
        bits_stored=int(header.BitsStored),
        is_signed=bool(header.PixelRepresentation),
    )
    for item in wanted:
        if item.frame.sop_instance_uid != pixels.sop_instance_uid:
            raise pixels.refused(f"is not {item.frame.sop_instance_uid}, as the index says")
        if (item.frame.rows, item.frame.columns) != (pixels.rows, pixels.columns):
            raise pixels.refused(
                f"{pixels.rows} rows and {pixels.columns} columns are not the stack's"
            )
        if item.frame_index >= pixels.frames:
            raise pixels.refused(f"has no frame {item.frame_index + 1}")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise pixels.refused("has more than one sample per pixel")
    if (
        pixels.bits_allocated not in (8, 16, 32)
        or not 1 <= pixels.bits_stored <= pixels.bits_allocated
    ):
        raise pixels.refused(f"{pixels.bits_stored} bits stored in {pixels.bits_allocated}")
    if int(header.get("HighBit", pixels.bits_stored - 1)) != pixels.bits_stored - 1:
        raise pixels.refused("its high bit is not the highest of the bits stored (PS3.5 8.1.1)")
    return pixels


def _read_native(
    file: BinaryIO, pixels: _Pixels, wanted: Sequence[_Wanted], slab: _Slab, *, is_implicit: bool
) -> None:
    """Read frames as they lie in the file, which stands at the Pixel Data element."""
    element = file.read(8 if is_implicit else 12)
    if element[:4] != _PIXEL_DATA or len(element) < 8:
        raise pixels.refused("has no pixel data where they belong")
    length = int.from_bytes(element[-4:], "little")
    expected = pixels.frame_bytes * pixels.frames
    if length not in (expected, expected + expected % 2):
        raise pixels.refused(f"{length} bytes of pixel data where {expected} are due")
    start = file.tell()
    for item in wanted:
        file.seek(start + item.frame_index * pixels.frame_bytes)
        room = slab.room_for(item.slice_index, pixels.dtype)
        plane = np.empty((pixels.rows, pixels.columns), pixels.dtype) if room is None else room
        if file.readinto(plane.reshape(-1).view(np.uint8)) != pixels.frame_bytes:  # type: ignore[attr-defined]
            raise pixels.refused("its pixel data end early")
        _clear_unused_bits(plane, pixels)
        if room is None:
            slab.put(item.slice_index, plane)


def _clear_unused_bits(plane: Plane, pixels: _Pixels) -> None:
    """Bits above the highest stored one may hold anything, old overlays for instance."""
    unused = pixels.bits_allocated - pixels.bits_stored
    if unused:
        plane <<= unused
        plane >>= unused


def _decode(
    instance: FileDataset, syntax: UID, pixels: _Pixels, wanted: Sequence[_Wanted], slab: _Slab
) -> None:
    """Let pydicom's decoders make the frames of one instance."""
    if syntax.is_encapsulated:
        _check_code_streams(instance, syntax, pixels)
    elif len(instance.PixelData) not in _native_lengths(pixels):
        raise pixels.refused(f"{len(instance.PixelData)} bytes of native pixel data")
    in_order = sorted(wanted, key=lambda item: item.frame_index)
    planes = iter_pixels(instance, indices=[item.frame_index for item in in_order], raw=True)
    for item, plane in zip(in_order, planes, strict=True):
        if plane.shape != (pixels.rows, pixels.columns):
            raise pixels.refused(f"a decoded frame has the shape {plane.shape}")
        slab.put(item.slice_index, plane)


def _native_lengths(pixels: _Pixels) -> tuple[int, int]:
    expected = pixels.frame_bytes * pixels.frames
    return expected, expected + expected % 2


def _check_code_streams(instance: FileDataset, syntax: UID, pixels: _Pixels) -> None:
    """Refuse a frame that would decode to another size than the header's, or cannot reach it."""
    for number, code_stream in enumerate(
        generate_frames(instance.PixelData, number_of_frames=pixels.frames), 1
    ):
        size = coded_size(code_stream)
        if size is not None and size != (pixels.rows, pixels.columns, 1):
            raise pixels.refused(f"frame {number} is coded as {size}, rows x columns x samples")
        if syntax == RLELossless and len(code_stream) * _RLE_GAIN < pixels.frame_bytes:
            raise pixels.refused(f"frame {number} is too short for its rows and columns")
