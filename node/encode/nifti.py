"""Labels as NIfTI-1 images, for programs that read no DICOM.

The image lies on the grid of the source series; NIfTI counts from column to slice and points to the
right, the front and above (RAS) where DICOM points to the left and back (LPS). Values are those of the
model's labels.csv. Regions that may overlap become one image of zeros and ones each. No attribute of
patient or study is in it.

Source: NIfTI-1.1 (nifti1.h), RFC 1952 (gzip).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.grid import Grid
from node.domain.result import EncodedFile, LabelArray, Provenance, Result, mask_of
from node.domain.segment import Segment
from node.encode.frames import described_rows

_UINT8, _INT16, _UINT16 = 2, 4, 512  # data types of NIfTI-1
_MILLIMETRES = 2
_SCANNER_ANATOMICAL = 1
_VOXELS_AT = 352  # a header of 348 bytes, and four that say: no extension
_MOST_VOXELS = 32767  # along one axis
_GZIP = 31  # zlib's word for a gzip member with a window of 32 KiB
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

Affine = NDArray[np.float64]


def encode(result: Result) -> tuple[EncodedFile, ...]:
    """One image of all labels, or, of regions that may overlap, one image each.

    There is an image where nothing was found, too: all zero.

    Raises:
        JobRefused: A label has no description, or the volume is too large for the format.
    """
    volume = result.volume
    described_rows(volume, result.segments)
    if max(volume.labels.shape) > _MOST_VOXELS:
        raise JobRefused("the volume is too large for a NIfTI-1 image")
    regions: Sequence[Segment | None] = result.segments if volume.overlapping else (None,)
    return tuple(_image(result, region) for region in regions)


def _image(result: Result, region: Segment | None) -> EncodedFile:
    volume, identity = result.volume, result.identity
    kind = np.dtype(np.uint8) if region is not None else _kind_of(volume.labels)
    part = region.name if region is not None else ""
    head = _header(volume.stack.grid, kind, identity.key, result.provenance)

    def chunks() -> Iterator[bytes]:
        gzip = zlib.compressobj(wbits=_GZIP)
        yield gzip.compress(head)
        for plane in volume.labels:
            held = plane
            if region is not None:
                held = mask_of(plane, region.label_value, overlapping=True)
            yield gzip.compress(held.astype(kind).tobytes())
        yield gzip.flush()

    return EncodedFile(
        part=part,
        sop_instance_uid=identity.uid(f"sop.{region.label_value}" if region else "sop"),
        series_instance_uid=identity.uid("series"),
        chunks=chunks,
    )


def _kind_of(labels: LabelArray) -> np.dtype[np.integer]:
    """The type of voxels: readers know signed 16 bit everywhere, unsigned not."""
    if labels.dtype == np.uint8:
        return np.dtype(np.uint8)
    return np.dtype("<i2") if int(labels.max()) <= np.iinfo(np.int16).max else np.dtype("<u2")


def affine_ras(grid: Grid) -> Affine:
    """(column, row, slice, 1) to RAS millimetres, shape (4, 4), with axes at right angles.

    The gate lets a stack lean by less than a pixel; an image cannot lean.
    """
    between_slices, between_rows, between_columns = np.array(grid.steps_mm)
    column, row = (each / np.linalg.norm(each) for each in (between_columns, between_rows))
    normal = np.cross(column, row)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ np.column_stack(
        [between_columns, between_rows, normal * (between_slices @ normal)]
    )
    affine[:3, 3] = _LPS_TO_RAS @ np.array(grid.origin_mm)
    return affine


def _header(grid: Grid, kind: np.dtype[np.integer], key: str, provenance: Provenance) -> bytes:
    affine = affine_ras(grid)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    slices, rows, columns = grid.shape
    kinds = {np.dtype(np.uint8): _UINT8, np.dtype("<i2"): _INT16, np.dtype("<u2"): _UINT16}
    parts = (
        struct.pack("<i34xcx", 348, b"r"),
        struct.pack("<8h", 3, columns, rows, slices, 1, 1, 1, 1),
        struct.pack("<14xhhh", kinds[kind], kind.itemsize * 8, 0),
        struct.pack("<8f", 1.0, *spacing_mm, 0.0, 0.0, 0.0, 0.0),
        struct.pack("<3f3xB24x", _VOXELS_AT, 1.0, 0.0, _MILLIMETRES),
        struct.pack("<80s24s", f"segnode {key}".encode("ascii"), _marks(provenance)),
        struct.pack("<2h", _SCANNER_ANATOMICAL, _SCANNER_ANATOMICAL),
        struct.pack("<6f", *_quaternion(affine[:3, :3] / spacing_mm), *affine[:3, 3]),
        struct.pack("<12f", *affine[:3].ravel()),
        struct.pack("<16x4s4x", b"n+1"),
    )
    return b"".join(parts)


def _marks(provenance: Provenance) -> bytes:
    """What must not be overlooked, in the field for the name of another file."""
    marks = {"IMPLAUSIBLE": provenance.implausible, "INCOMPLETE": provenance.incomplete}
    return " ".join(mark for mark, why in marks.items() if why).encode("ascii")


def _quaternion(rotation: Affine) -> tuple[float, float, float]:
    """b, c, d of the unit quaternion (a >= 0) of a rotation, shape (3, 3).

    Found as the eigenvector of a symmetric matrix, which is exact for half turns too.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    a, b, c, d = np.linalg.eigh(matrix)[1][:, -1].tolist()
    return (-b, -c, -d) if a < 0 else (b, c, d)
