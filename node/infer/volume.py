"""A stack of frames and their files become one array of one quantity.

Native little endian goes from the file straight into the volume; everything else goes through
pydicom's decoders, frame by frame. What a file says about itself must agree with what the gate saw
before anything is decoded. Padding is found among stored values, before any table or slope.

Source: PS3.3 C.7.6.3 (Image Pixel), C.7.5.1.1.2 (Pixel Padding), C.11.1 (Modality LUT), PS3.5 8.1.1
(unused bits), A.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.domain.errors import JobFailed, JobRefused, SeriesUnusable
from node.domain.frames import Frame
from node.domain.grid import Grid, Stack
from node.domain.pixels import PixelFormat, native_length_fits, pixel_format_of
from node.domain.quantity import Quantity, given_as
from node.domain.sources import integer
from node.domain.uptake import suv_factor
from node.infer.codestream import coded_size

VoxelArray: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
Plane: TypeAlias = NDArray[np.integer]
Mask: TypeAlias = NDArray[np.bool_]
_Wanted: TypeAlias = Mapping[int, Frame]  # of one instance: the slice that a frame becomes -> it

REVISION = 1
"""Raised when this module, or ``fill`` of ``run_context``, may give other voxels."""

_INT16 = np.iinfo(np.int16)

# what pydicom, gdcm, pylibjpeg, pillow and pyjpegls raise over a frame that they cannot decode
DECODE_ERRORS = (
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
_GROUPS = (0x0028, 0x7FE0)  # Image Pixel module, and tables of offsets beside the pixels
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # (7FE0,0010), little endian
_RLE_GAIN = 64  # two bytes stand for at most 128 (PS3.5 G.3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """Numbers of one quantity, such as Hounsfield units, on a regular grid.

    Args:
        array: Shape (slice, row, column); int16 where that holds every value exactly, else float32.
        padding: Where the image has none: voxels that only fill the rectangle, of the same shape;
            None where there are none. Their numbers mean nothing.
    """

    array: VoxelArray
    grid: Grid
    quantity: Quantity = Quantity.UNSPECIFIED
    padding: Mask | None = None

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise ValueError(f"an array of {self.array.shape} on a grid of {self.grid.shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPixels:
    """What the Image Pixel module of one instance says, and where its pixels lie.

    Args:
        begin_at: Where in the file the Pixel Data element begins, in bytes.
        module: The elements themselves, for pydicom's decoders.
    """

    sop_instance_uid: str
    transfer_syntax_uid: UID
    frames: int
    rows: int
    columns: int
    format: PixelFormat
    begin_at: int
    module: Dataset = field(repr=False, compare=False)

    @classmethod
    def of(cls, header: Dataset, begin_at: int) -> StoredPixels:
        """Those of a header that was read up to its Pixel Data."""
        return cls(
            sop_instance_uid=str(header.get("SOPInstanceUID", "")),
            transfer_syntax_uid=UID(str(header.file_meta.get("TransferSyntaxUID", ""))),
            frames=integer(header, "NumberOfFrames") or 1,
            rows=integer(header, "Rows") or 0,
            columns=integer(header, "Columns") or 0,
            format=pixel_format_of(header),
            begin_at=begin_at,
            module=Dataset(
                {tag: header.get_item(tag) for tag in header.keys() if tag.group in _GROUPS}  # noqa: SIM118 - that would decode
            ),
        )

    @property
    def lie_as_they_are(self) -> bool:
        """Whether the file holds them as an array of native little endian numbers."""
        return self.transfer_syntax_uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

    @property
    def bits_allocated(self) -> int:
        return self.format.bits_allocated or 0

    @property
    def unused_bits(self) -> int:
        return self.bits_allocated - (self.format.bits_stored or 0)

    @property
    def dtype(self) -> np.dtype[np.integer]:
        return np.dtype(f"<{'i' if self.format.is_signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8

    def holds(self, length_bytes: int) -> bool:
        """Whether native pixel data of this length hold what the header declares."""
        return native_length_fits(length_bytes, self.frame_bytes * self.frames * 8, self.frames)

    def refused(self, reason: str) -> JobRefused:
        return JobRefused(f"instance {self.sop_instance_uid}: {reason}")


def read_volume(
    stack: Stack,
    files: Mapping[str, Path],
    quantities: Collection[Quantity] = (),
    pixels: Mapping[str, StoredPixels] | None = None,
) -> Volume:
    """The voxels of a stack, each frame with its own rescale or table.

    Args:
        files: SOP Instance UID -> Part 10 file.
        quantities: What is wanted: activity is given as SUV where that is among them and activity
            is not; empty: as it is.
        pixels: SOP Instance UID -> what its header says, of files whose header was read already.
    Raises:
        JobFailed: A file is missing (another attempt may find it), or contradicts the stack or
            cannot be decoded (permanent); the instance is named.
        SeriesUnusable: SUV is wanted and cannot be computed.
    """
    quantity, factor = _as_wanted(stack, quantities)
    by_instance: dict[str, dict[int, Frame]] = {}
    for index, frame in enumerate(stack.frames):
        by_instance.setdefault(frame.sop_instance_uid, {})[index] = frame
    slab = Slab(stack, factor)
    for sop_instance_uid, wanted in by_instance.items():
        if sop_instance_uid not in files:
            raise JobFailed(f"no file of instance {sop_instance_uid}")
        known = (pixels or {}).get(sop_instance_uid)
        _read_instance(sop_instance_uid, files[sop_instance_uid], wanted, slab, known)
    return Volume(array=slab.finish(), grid=stack.grid, quantity=quantity, padding=slab.padding)


def _as_wanted(stack: Stack, quantities: Collection[Quantity]) -> tuple[Quantity, float]:
    """The quantity to give, and what every number is multiplied with for it."""
    found = {frame.values.quantity for frame in stack.frames}
    quantity = found.pop()
    given = given_as(quantity, quantities)
    if found or given is None:  # the gate passed it before the job was made
        names = ", ".join(sorted({quantity, *found}))
        raise JobRefused(f"its quantity is {names}, not what the model takes")
    if given is quantity:
        return quantity, 1.0
    return given, suv_factor({f.values.uptake for f in stack.frames if f.values.uptake})


def _read_instance(
    sop_instance_uid: str,
    path: Path,
    wanted: _Wanted,
    slab: Slab,
    pixels: StoredPixels | None,
) -> None:
    try:
        file = path.open("rb")
    except OSError as error:
        raise JobFailed(f"the file of instance {sop_instance_uid} is gone") from error
    with file:
        try:
            if pixels is None:
                pixels = StoredPixels.of(dcmread(file, stop_before_pixels=True), file.tell())
            _check_agreement(pixels, wanted)
            if pixels.lie_as_they_are:
                _read_native(file, pixels, wanted, slab)
            else:
                _decode(_pixel_data(file, pixels), pixels, wanted, slab)
        except (InvalidDicomError, *DECODE_ERRORS) as error:
            sentence = f"instance {sop_instance_uid} cannot be decoded ({type(error).__name__})"
            raise JobRefused(sentence) from error


def _place_in_file(frame: Frame) -> int:
    """0-based place in the pixel data of its instance."""
    return (frame.frame_number or 1) - 1


def _check_agreement(pixels: StoredPixels, wanted: _Wanted) -> None:
    """Refuse an Image Pixel module that does not agree with the frames that the gate judged."""
    for frame in wanted.values():
        if frame.sop_instance_uid != pixels.sop_instance_uid:
            raise pixels.refused(f"is not {frame.sop_instance_uid}, as the index says")
        if (frame.rows, frame.columns) != (pixels.rows, pixels.columns):
            raise pixels.refused(
                f"{pixels.rows} rows and {pixels.columns} columns are not the stack's"
            )
        if _place_in_file(frame) >= pixels.frames:
            raise pixels.refused(f"has no frame {frame.frame_number}")
    for fault in pixels.format.faults():
        raise SeriesUnusable([fault.having(instance=pixels.sop_instance_uid)])
    if any(frame.values.format != pixels.format for frame in wanted.values()):
        raise pixels.refused("its bits or its padding are not those that were judged")


def _read_native(file: BinaryIO, pixels: StoredPixels, wanted: _Wanted, slab: Slab) -> None:
    """Read frames as they lie in the file."""
    file.seek(pixels.begin_at)
    element = file.read(8 if pixels.transfer_syntax_uid.is_implicit_VR else 12)
    if element[:4] != _PIXEL_DATA or len(element) < 8:
        raise pixels.refused("has no pixel data where they belong")
    length = int.from_bytes(element[-4:], "little")
    if not pixels.holds(length):
        due = pixels.frame_bytes * pixels.frames
        raise pixels.refused(f"{length} bytes of pixel data where {due} are due")
    start = file.tell()
    for index, frame in wanted.items():
        file.seek(start + _place_in_file(frame) * pixels.frame_bytes)
        place = slab.room_for(index, pixels.dtype)
        plane = np.empty((pixels.rows, pixels.columns), pixels.dtype) if place is None else place
        if file.readinto(plane.reshape(-1).view(np.uint8)) != pixels.frame_bytes:  # type: ignore[attr-defined]
            raise pixels.refused("its pixel data end early")
        whole_cells = _padding_of_whole_cells(plane, pixels)
        if pixels.unused_bits:  # they may hold anything, old overlays for instance
            plane <<= pixels.unused_bits
            plane >>= pixels.unused_bits
        _take_padding_out(index, plane, pixels.format, whole_cells, slab)
        if place is None:
            slab.put(index, plane)


def _padding_of_whole_cells(plane: Plane, pixels: StoredPixels) -> Mask | None:
    """Padding by a value that the bits stored do not hold: its writer filled the whole cell."""
    padding = pixels.format.padding
    if padding is None or not pixels.unused_bits or padding[0] != padding[1]:
        return None
    lowest, highest = pixels.format.limits
    if lowest <= padding[0] <= highest or plane.itemsize != 2:
        return None
    found: Mask = plane.view(np.uint16) == np.uint16(padding[0] & 0xFFFF)
    return found


def _take_padding_out(
    index: int, plane: Plane, pixel_format: PixelFormat, found: Mask | None, slab: Slab
) -> None:
    """Have padding noted, and in its place a value that does not widen the range of the others."""
    if pixel_format.padding is None:
        return
    first, last = pixel_format.padding
    where: Mask
    if found is not None:
        where = found
    elif first == last:
        where = plane == first
    else:
        where = (plane >= first) & (plane <= last)
    if where.any():
        slab.pad(index, where)
        np.copyto(plane, 0, where=where)


def _pixel_data(file: BinaryIO, pixels: StoredPixels) -> DataElement:
    """The element itself; the header before it was read already."""
    syntax = pixels.transfer_syntax_uid
    if syntax.is_deflated:  # then the place is none in the file
        file.seek(0)
        return dcmread(file)["PixelData"]
    file.seek(pixels.begin_at)
    return read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian)["PixelData"]


def _decode(element: DataElement, pixels: StoredPixels, wanted: _Wanted, slab: Slab) -> None:
    """Let pydicom's decoders make the frames of one instance."""
    syntax, value = pixels.transfer_syntax_uid, element.value
    if syntax.is_encapsulated:
        _check_code_streams(value, syntax, pixels)
    elif not pixels.holds(len(value)):
        raise pixels.refused(f"{len(value)} bytes of native pixel data")
    else:
        due = pixels.frame_bytes * pixels.frames
        value = value[: due + due % 2]
    in_order = sorted((_place_in_file(frame), index) for index, frame in wanted.items())
    planes = get_decoder(syntax).iter_array(
        value,
        indices=[place for place, _ in in_order],
        raw=True,
        pixel_keyword="PixelData",
        pixel_vr=element.VR,
        **as_pixel_options(pixels.module),
    )
    for (_, index), (plane, _) in zip(in_order, planes, strict=True):
        if plane.shape != (pixels.rows, pixels.columns):
            raise pixels.refused(f"a decoded frame has the shape {plane.shape}")
        if pixels.format.padding is not None and not plane.flags.writeable:
            plane = plane.copy()
        _take_padding_out(index, plane, pixels.format, None, slab)
        slab.put(index, plane)


def _check_code_streams(value: bytes, syntax: UID, pixels: StoredPixels) -> None:
    """Refuse a frame that would decode to another size than the header's, or cannot reach it."""
    for number, code_stream in enumerate(generate_frames(value, number_of_frames=pixels.frames), 1):
        size = coded_size(code_stream)
        if size is not None and size != (pixels.rows, pixels.columns, 1):
            raise pixels.refused(f"frame {number} is coded as {size}, rows x columns x samples")
        if syntax == RLELossless and len(code_stream) * _RLE_GAIN < pixels.frame_bytes:
            raise pixels.refused(f"frame {number} is too short for its rows and columns")


class Slab:
    """The volume while it fills: stored values while one integer rescale may do, else float32.

    Args:
        factor: What every number is multiplied with, slope and intercept first.

    Attributes:
        padding: Where padding was found; None until then.
    """

    def __init__(self, stack: Stack, factor: float) -> None:
        for frame in stack.frames:
            _require_transformation(frame)
        self._rescales = [
            (frame.slope * factor, frame.intercept * factor) for frame in stack.frames
        ]
        self._frames = stack.frames
        self._shape = stack.grid.shape
        self._slope, self._intercept = self._rescales[0]
        self._is_whole = (
            len(set(self._rescales)) == 1
            and self._slope.is_integer()
            and self._intercept.is_integer()
        )
        self._stored: Plane | None = None
        self._floats = np.empty(() if self._is_whole else self._shape, np.float32)
        self.padding: Mask | None = None

    def room_for(self, index: int, dtype: np.dtype[np.integer]) -> Plane | None:
        """The slice itself, where stored values of this type can be read into it as they are."""
        if not self._is_whole or self._frames[index].values.lut is not None:
            return None
        return self._slice(index, dtype)

    def put(self, index: int, plane: Plane) -> None:
        """Take the stored values of one slice."""
        lut = self._frames[index].values.lut
        plane = plane.astype(plane.dtype.newbyteorder("="), copy=False)
        if lut is not None:
            plane = lut.apply(plane)
        if not self._is_whole:
            slope, intercept = self._rescales[index]
            self._floats[index] = plane * slope + intercept
            return
        place = self._slice(index, plane.dtype)
        if place is None and self._stored is not None:
            # signed and unsigned slices in one series: a type that holds both
            self._stored = self._stored.astype(np.promote_types(self._stored.dtype, plane.dtype))
            place = self._stored[index]
        if place is not None:
            place[...] = plane

    def pad(self, index: int, where: Mask) -> None:
        """Note where a slice is padding."""
        if self.padding is None:
            self.padding = np.zeros(self._shape, bool)
        self.padding[index] = where

    def _slice(self, index: int, dtype: np.dtype[np.integer]) -> Plane | None:
        if self._stored is None:
            self._stored = np.empty(self._shape, dtype)
        return self._stored[index] if self._stored.dtype == dtype else None

    def finish(self) -> VoxelArray:
        """Apply the rescale that all slices share."""
        if self._stored is None:
            return self._floats
        stored, slope, intercept = self._stored, int(self._slope), int(self._intercept)
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


def _require_transformation(frame: Frame) -> None:
    """What the gate lets pass; a stack that came another way is held to it here."""
    values = frame.values
    is_finite = bool(np.isfinite(frame.slope) and np.isfinite(frame.intercept))
    if not is_finite or frame.slope == 0:
        raise JobRefused(f"rescale slope {frame.slope} and {frame.intercept}")
    if values.lut_fault or (values.lut is not None and (frame.slope, frame.intercept) != (1, 0)):
        sentence = values.lut_fault or "a Modality LUT beside Rescale Slope and Intercept"
        raise JobRefused(sentence)


def _modular(number: int) -> np.int16:
    return np.uint16(number % (1 << 16)).view(np.int16)
