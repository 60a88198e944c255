"""The last look at NIfTI images before they leave: their bytes against source headers and labels.

It shares no step with the encoder: each image is taken apart by a table of fields, both of its
transformations are followed into the patient and compared with where the source says its images lie,
and every voxel is compared with the label volume.

Source: NIfTI-1.1 (nifti1.h).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import ResultRefused
from node.domain.frames import Frame, frames_of
from node.domain.result import LabelVolume, Result
from node.domain.segment import Segment

MOST_FAULTS = 50

_HEADER = np.dtype(
    {
        "names": [
            "size", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "slope", "intercept",
            "units", "descrip", "aux_file", "qform", "sform", "quatern", "offset", "srow", "magic",
        ],
        "formats": [
            "<i4", ("<i2", 8), "<i2", "<i2", ("<f4", 8), "<f4", "<f4", "<f4",
            "u1", "S80", "S24", "<i2", "<i2", ("<f4", 3), ("<f4", 3), ("<f4", (3, 4)), "S4",
        ],
        "offsets": [0, 40, 70, 72, 76, 108, 112, 116, 123, 148, 228, 252, 254, 256, 268, 280, 344],
        "itemsize": 348,
    }
)  # fmt: skip
_VOXELS_AT = 352
_KINDS: Mapping[int, np.dtype[np.integer]] = {
    2: np.dtype(np.uint8),
    4: np.dtype("<i2"),
    512: np.dtype("<u2"),
}
_PLACED = 0.01  # of a voxel: numbers of the header are of single precision
# a slice may lie half a step from its place, and the stack may lean by half a pixel (gate)
_SLICE_STEPS = 0.51
_PIXELS = 0.51
# near a half turn, three parts of a quaternion in single precision leave the angle so uncertain (radians)
_TURNED = 1e-3

Affine = NDArray[np.float64]


def verify(files: Mapping[str, memoryview], result: Result) -> None:
    """Refuse images that say anything else than their source and their labels.

    Raises:
        ResultRefused: With each fault as one sentence.
    """
    volume = result.volume
    bits = {segment.name: segment.label_value - 1 for segment in result.segments}
    due = set(bits) if volume.overlapping else {""}
    if files.keys() != due:
        wrong = f"there are images of {len(files)} regions, not of {len(due)}, or of other ones"
        raise ResultRefused([wrong])
    places = _source_places(result)
    faults = chain(
        _undescribed(volume, result.segments),
        *(_image_faults(data, bits.get(part), result, places) for part, data in files.items()),
    )
    if found := list(islice(faults, MOST_FAULTS)):
        raise ResultRefused(found)


def _image_faults(
    data: memoryview, bit: int | None, result: Result, places: Sequence[Frame | None]
) -> Iterator[str]:
    """Of one image; ``bit`` is None in one of all labels."""
    where = "" if bit is None else f"image of region {bit + 1}: "
    try:
        header, voxels = _read(data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        yield f"{where}the file cannot be read: {type(error).__name__}"
        return
    for fault in (
        *_header_faults(header, result),
        *_place_faults(header, result.volume, places),
        *_voxel_faults(header, voxels, result.volume, bit),
    ):
        yield where + fault


def _undescribed(volume: LabelVolume, segments: Sequence[Segment]) -> Iterator[str]:
    known = [segment.label_value for segment in segments]
    if volume.overlapping:
        stored = int(np.bitwise_or.reduce(volume.labels, axis=None))
        unknown = stored & ~sum(1 << (value - 1) for value in set(known))
    else:
        unknown = int(np.setdiff1d(np.unique(volume.labels), [0, *known]).size)
    if unknown:
        yield "there are labels that the model does not describe"


def _read(data: memoryview) -> tuple[np.void, bytes]:
    """Header and voxels."""
    whole = gzip.decompress(data)
    if len(whole) < _VOXELS_AT:
        raise ValueError("shorter than a header")
    return np.frombuffer(whole[:348], _HEADER)[0], whole[_VOXELS_AT:]


def _header_faults(header: np.void, result: Result) -> Iterator[str]:
    provenance = result.provenance
    if (header["size"], header["magic"], header["vox_offset"]) != (348, b"n+1", _VOXELS_AT):
        yield "it is no NIfTI-1 image in one file"
    slices, rows, columns = result.volume.labels.shape
    if header["dim"].tolist()[:4] != [3, columns, rows, slices]:
        yield "its size is not that of the labels"
    kind = _KINDS.get(int(header["datatype"]))
    if kind is None or header["bitpix"] != kind.itemsize * 8:
        yield "its voxels are of no whole numbers that are written here"
    if header["slope"] not in (0.0, 1.0) or header["intercept"] != 0.0:
        yield "its values are scaled"
    if header["units"] != 2:
        yield "it is not in millimetres"
    if header["descrip"].decode("ascii", "replace") != f"segnode {result.identity.key}":
        yield "it does not carry the key of its result"
    marks = header["aux_file"].decode("ascii", "replace").split()
    for mark, reason in (
        ("IMPLAUSIBLE", provenance.implausible),
        ("INCOMPLETE", provenance.incomplete),
    ):
        if (mark in marks) is not bool(reason):
            yield f"it is marked as {mark} where the result is not, or the reverse"


def _source_places(result: Result) -> list[Frame | None]:
    """For each slice the frame as its source header says it."""
    frames = {
        (frame.sop_instance_uid, frame.frame_number): frame
        for instance in result.source
        for frame in frames_of(instance)
    }
    stack = result.volume.stack
    return [frames.get((f.sop_instance_uid, f.frame_number)) for f in stack.frames]


def _place_faults(
    header: np.void, volume: LabelVolume, places: Sequence[Frame | None]
) -> Iterator[str]:
    """Both transformations lead each corner of each slice to where the source has it."""
    if header["qform"] < 1 or header["sform"] < 1:
        yield "it does not say where it lies"
        return
    affines = {
        "sform": np.vstack([header["srow"].astype(np.float64), [0, 0, 0, 1]]),
        "qform": _from_quaternion(header),
    }
    turned = {"sform": 0.0, "qform": _TURNED * max(volume.labels.shape)}
    for name, ras in affines.items():
        if not np.isfinite(ras).all() or abs(np.linalg.det(ras)) < 1e-9:
            yield f"its {name} spans no volume"
            continue
        to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras)
        if _off_grid(to_index, volume) > _PLACED + turned[name]:
            yield f"its {name} does not lie on the grid of the source"
        for index, frame in enumerate(places):
            if frame is None or not _is_at(to_index, index, frame, turned[name]):
                yield f"its {name} puts slice {index} elsewhere than the source"
                break


def _off_grid(to_index: Affine, volume: LabelVolume) -> float:
    """How far the corners of the first slice, and the height of the last one, are off, in voxels."""
    slices, rows, columns = volume.labels.shape
    lps = volume.stack.grid.affine_lps
    first = [(0, 0, 0), (0, rows - 1, 0), (0, 0, columns - 1)]
    off = [abs((to_index @ lps @ [s, r, c, 1.0])[:3] - [c, r, s]).max() for s, r, c in first]
    height = (to_index @ lps @ [slices - 1, 0, 0, 1.0])[2]
    return float(max(*off, abs(height - (slices - 1))))


def _is_at(to_index: Affine, index: int, frame: Frame, turned: float) -> bool:
    """Whether three corners of a frame of the source have the index that they must have."""
    if frame.position_mm is None or frame.orientation is None or frame.pixel_spacing_mm is None:
        return False
    origin = np.array(frame.position_mm)
    along_row, along_column = np.array(frame.orientation).reshape(2, 3)
    between_rows, between_columns = frame.pixel_spacing_mm
    last_row, last_column = frame.rows - 1, frame.columns - 1
    corners = {
        (0, 0): origin,
        (last_column, 0): origin + along_row * between_columns * last_column,
        (0, last_row): origin + along_column * between_rows * last_row,
    }
    allowed = np.array([_PIXELS, _PIXELS, _SLICE_STEPS]) + turned
    return all(
        bool((abs((to_index @ [*corner, 1.0])[:3] - [*place, index]) <= allowed).all())
        for place, corner in corners.items()
    )


def _from_quaternion(header: np.void) -> Affine:
    """NIfTI's method 2: rotation by (a, b, c, d), then spacing, then offset."""
    b, c, d = (float(part) for part in header["quatern"])
    a = max(0.0, 1.0 - (b * b + c * c + d * d)) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    sign = -1.0 if header["pixdim"][0] < 0 else 1.0
    spacing = header["pixdim"][1:4].astype(np.float64) * [1.0, 1.0, sign]
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = header["offset"]
    return affine


def _voxel_faults(
    header: np.void, voxels: bytes, volume: LabelVolume, bit: int | None
) -> Iterator[str]:
    kind = _KINDS.get(int(header["datatype"]), np.dtype(np.uint8))
    if len(voxels) != volume.labels.size * kind.itemsize:
        yield f"it holds {len(voxels)} bytes of voxels for {volume.labels.size} labels"
        return
    planes = np.frombuffer(voxels, kind).reshape(volume.labels.shape)
    for index, (plane, labels) in enumerate(zip(planes, volume.labels, strict=True)):
        truth = labels if bit is None else labels >> bit & 1
        if not np.array_equal(plane, truth):
            differing = int(np.count_nonzero(plane != truth))
            yield f"{differing} voxels differ from the labels of slice {index}"
