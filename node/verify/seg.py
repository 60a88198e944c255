"""The last look at a SEG before it leaves: its bytes against source headers and labels.

It shares no step with the encoder: the file is read anew, each frame is placed by its own position,
orientation and spacing, and its bits are compared with bits packed here from the label volume, by
several threads at once. Rows and values of labels are found here, too, and not taken from their counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.domain.errors import ResultRefused
from node.domain.frames import frame_sources
from node.domain.result import LabelArray, LabelVolume, Result
from node.domain.sources import numbers
from node.verify.header import (
    dimension_faults,
    geometry_faults,
    identity_faults,
    lossy_faults,
    patient_faults,
    pixel_faults,
    reference_faults,
    segment_faults,
)
from node.verify.reading import UNREADABLE, SegFile, SegFrame, read_seg

MOST_FAULTS = 50
"""Enough to see what went wrong; looking for more would only take time."""

FRAMES_AT_ONCE = 64
"""What a thread compares before another one's turn."""

_POSITION_MM = 1e-3  # a copied DS is equal; one written anew is rounded at 16 characters
# the shared groups are those of one slice, and slices of one series differ by up to 1e-3 (gate)
_DIRECTION = 2e-3
_SPACING = 2e-3  # of the spacing itself
_LATTICE_STEPS = 0.51  # half a step would be the neighbour's


def verify_seg(files: Mapping[str, memoryview], result: Result) -> None:
    """Refuse anything but one object, such as a mapped file, that says what its labels say.

    Of labels in which nothing was found there is none.

    Raises:
        ResultRefused: With each fault as one sentence.
    """
    if files.keys() != {""}:
        if files:
            raise ResultRefused([f"{len(files)} objects of one result, not 1"])
        if result.volume.labels.any():
            raise ResultRefused(["no object was made of labels in which something was found"])
        return
    source, volume, identity = result.source, result.volume, result.identity
    first = volume.stack.frames[0].sop_instance_uid
    from_first_slice = sorted(source, key=lambda each: str(each.SOPInstanceUID) != first)
    try:
        file = read_seg(files[""])
        header, check = file.header, _FrameCheck(file, result)
        faults = chain(
            identity_faults(header, identity, result.provenance),
            patient_faults(header, from_first_slice),
            reference_faults(header, source),
            lossy_faults(header, source),
            segment_faults(header, check.described, result.provenance, identity),
            geometry_faults(header, volume.stack),
            dimension_faults(header),
            pixel_faults(file, volume, len(check.wanted)),
            check.faults(),
        )
        found = list(islice(faults, MOST_FAULTS))
    except UNREADABLE as error:
        raise ResultRefused([f"the file cannot be read: {type(error).__name__}"]) from error
    if found:
        raise ResultRefused(found)


class _FrameCheck:
    """Places frames and compares their voxels; counts which planes were seen.

    What is equal in many frames is judged once: their place, and what they say of their source.
    """

    def __init__(self, file: SegFile, result: Result) -> None:
        volume = result.volume
        self._file = file
        self._volume = volume
        self._threads = result.threads
        self._sources = {
            place: plane for each in result.source for place, plane in _source_planes(each).items()
        }
        self._classes = {str(i.SOPInstanceUID): str(i.SOPClassUID) for i in result.source}
        self._to_index = np.linalg.inv(volume.stack.grid.affine_lps)
        with ThreadPoolExecutor(result.threads) as pool:
            self._rows = list(pool.map(partial(_rows_of, volume.overlapping), volume.labels))
        found = {value for present in self._rows for value in present}
        self.described = [s for s in result.segments if s.label_value in found]
        numbers = {s.label_value: number for number, s in enumerate(self.described, 1)}
        self.wanted = {
            (numbers[value], index)
            for index, present in enumerate(self._rows)
            for value in present
            if value in numbers
        }
        self._undescribed = found - set(numbers)
        slices = sorted({index for _, index in self.wanted})
        self._ranks = {index: rank for rank, index in enumerate(slices, 1)}
        self._indices: dict[tuple[float, ...], int | None] = {}
        self._judged: dict[tuple[object, ...], tuple[str, ...]] = {}

    def faults(self) -> Iterator[str]:
        """All that is wrong with frames, one by one and together."""
        if self._undescribed:
            yield f"labels {sorted(self._undescribed)} have no segment"
        frames = self._file.frames
        planes = [self._plane_of(frame) for frame in frames]
        parts = range(0, len(frames), FRAMES_AT_ONCE)
        with ThreadPoolExecutor(self._threads) as pool:
            differing = pool.map(partial(self._differing, planes), parts)
            for frame, plane, number in zip(frames, planes, chain(*differing), strict=True):
                for fault in self._frame_faults(frame, plane, number):
                    yield f"frame {frame.number}: {fault}"
        seen = Counter(plane for plane in planes if plane is not None)
        for number, index in sorted(seen.keys() - self.wanted):
            yield f"a frame of segment {number} in slice {index}, where it has no voxel"
        for number, index in sorted(self.wanted - seen.keys()):
            yield f"no frame of segment {number} in slice {index}"
        for (number, index), count in sorted(seen.items()):
            if count > 1:
                yield f"{count} frames of segment {number} in slice {index}"

    def _plane_of(self, frame: SegFrame) -> tuple[int, int] | None:
        """Segment and slice that the frame's own number and position give."""
        position_mm = frame.position_mm
        if position_mm is None or len(position_mm) != 3 or not frame.segment_number:
            return None
        if position_mm not in self._indices:
            self._indices[position_mm] = self._index_at(position_mm)
        index = self._indices[position_mm]
        return None if index is None else (frame.segment_number, index)

    def _index_at(self, position_mm: tuple[float, ...]) -> int | None:
        slice_, row, column = (self._to_index @ np.array([*position_mm, 1.0]))[:3]
        index = round(slice_)
        inside = 0 <= index < self._volume.labels.shape[0]
        off = max(abs(slice_ - index), abs(row), abs(column))
        return index if inside and off <= _LATTICE_STEPS else None

    def _frame_faults(
        self, frame: SegFrame, plane: tuple[int, int] | None, differing: int | None
    ) -> Iterator[str]:
        number, count = frame.segment_number, len(self.described)
        if number is None or not 1 <= number <= count:
            yield f"names segment {number} of {count}"
        said = frame.references, frame.position_mm, frame.orientation, frame.pixel_spacing_mm
        key = (*said, plane and plane[1])
        if key not in self._judged:
            self._judged[key] = tuple(self._reference_faults(frame, plane))
        yield from self._judged[key]
        if plane is None:
            yield "its position is not that of a slice of the source"
            return
        rank = self._ranks.get(plane[1])
        if frame.dimension_indices != (number, rank):
            yield f"Dimension Index Values {frame.dimension_indices} are not ({number}, {rank})"
        if differing is None:
            yield "its pixels are missing"
        elif differing:
            yield f"{differing} voxels differ from the labels of slice {plane[1]}"

    def _differing(self, planes: Sequence[tuple[int, int] | None], start: int) -> list[int | None]:
        """Of some frames the number of wrong voxels, None where the file has too few."""
        part = slice(start, start + FRAMES_AT_ONCE)
        return [
            self._differing_voxels(frame.number - 1, *plane) if plane in self.wanted else 0
            for frame, plane in zip(self._file.frames[part], planes[part], strict=True)
        ]

    def _differing_voxels(self, place: int, number: int, index: int) -> int | None:
        _, rows, columns = self._volume.labels.shape
        size = rows * columns
        if len(self._file.bits) * 8 < (place + 1) * size:
            return None
        value = self.described[number - 1].label_value
        if size % 8:
            mask = self._file.plane(place, rows, columns)
            return int(np.count_nonzero(mask != _truth(self._volume, index, value, 0, rows)))
        size //= 8
        octets = np.frombuffer(self._file.bits[place * size : (place + 1) * size], np.uint8)
        expected = np.zeros(size, np.uint8)
        first, stop = self._rows[index][value]
        first -= first % 8  # eight rows of any length are whole bytes
        truth = np.packbits(_truth(self._volume, index, value, first, stop), bitorder="little")
        expected[first * columns // 8 :][: truth.size] = truth
        if np.array_equal(octets, expected):
            return 0
        return int(np.unpackbits(octets ^ expected).sum())

    def _reference_faults(self, frame: SegFrame, plane: tuple[int, int] | None) -> Iterator[str]:
        if len(frame.references) != 1:
            yield f"derives from {len(frame.references)} source images, not 1"
            return
        reference = frame.references[0]
        if (reference.derivation, reference.purpose) != ("DCM:113076", "DCM:121322"):
            yield "its derivation is not coded as a segmentation of its source image"
        place = (reference.sop_instance_uid, reference.frame_number)
        source = self._sources.get(place)
        if source is None:
            yield "references an instance or frame that is not in the source"
            return
        if self._classes[reference.sop_instance_uid] != reference.sop_class_uid:
            yield "references its source under another SOP Class"
        if plane is not None:
            expected = self._volume.stack.frames[plane[1]]
            if place != (expected.sop_instance_uid, expected.frame_number):
                yield f"references another image than that of slice {plane[1]}"
        yield from _plane_faults(frame, source)


@dataclass(frozen=True, slots=True)
class _SourcePlane:
    """Where a frame of the source lies, as its header says it; None where it does not."""

    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None


def _source_planes(instance: Dataset) -> dict[tuple[str, int | None], _SourcePlane]:
    """By SOP Instance UID and frame number, which an image of one frame has not."""
    planes = [
        _SourcePlane(
            numbers(sources, "ImagePositionPatient", 3),
            numbers(sources, "ImageOrientationPatient", 6),
            numbers(sources, "PixelSpacing", 2),
        )
        for sources in frame_sources(instance)
    ]
    is_single = len(planes) == 1 and "PerFrameFunctionalGroupsSequence" not in instance
    uid = str(instance.SOPInstanceUID)
    return {(uid, None if is_single else n): plane for n, plane in enumerate(planes, 1)}


def _rows_of(overlapping: bool, plane: LabelArray) -> dict[int, tuple[int, int]]:
    """The label values in one slice, with the first row of each and the one behind its last.

    Of overlapping regions each has a bit. Where values change too often, as in noise, all rows are
    named: more than those that hold a value do no harm.
    """
    rows, columns = plane.shape
    line = plane.reshape(-1)
    last_of_runs = np.flatnonzero(line[:-1] != line[1:])
    if last_of_runs.size * 16 > line.size:
        stored = np.flatnonzero(np.bincount(line)).tolist()
        ends = [(0, rows)] * len(stored)
    else:
        last_of_runs = np.append(last_of_runs, line.size - 1)
        first_of_runs = np.append(0, last_of_runs[:-1] + 1)
        by_value = np.argsort(line[last_of_runs], kind="stable")
        sorted_values = line[last_of_runs][by_value]
        begins = np.flatnonzero(np.append(True, sorted_values[1:] != sorted_values[:-1]))
        stops = np.append(begins[1:], by_value.size) - 1
        top = first_of_runs[by_value[begins]] // columns
        bottom = last_of_runs[by_value[stops]] // columns + 1
        stored = sorted_values[begins].tolist()
        ends = list(zip(top.tolist(), bottom.tolist(), strict=True))
    if not overlapping:
        return {value: end for value, end in zip(stored, ends, strict=True) if value}
    together = int(np.bitwise_or.reduce(plane, axis=None))
    regions: dict[int, tuple[int, int]] = {}
    for bit in range(together.bit_length()):
        if together >> bit & 1:
            held = [end for value, end in zip(stored, ends, strict=True) if value >> bit & 1]
            regions[bit + 1] = min(top for top, _ in held), max(bottom for _, bottom in held)
    return regions


def _truth(
    volume: LabelVolume, index: int, label_value: int, first: int, stop: int
) -> NDArray[np.bool_]:
    """Where a label is in some rows of a slice."""
    rows = volume.labels[index, first:stop]
    if volume.overlapping:
        return np.asarray((rows >> (label_value - 1)) % 2 == 1)
    return np.asarray(rows == label_value)


def _plane_faults(frame: SegFrame, source: _SourcePlane) -> Iterator[str]:
    """The frame lies where the image lies that it references."""
    spacing_mm = _SPACING * min(source.pixel_spacing_mm or (0.0,))
    pairs = (
        ("ImagePositionPatient", frame.position_mm, source.position_mm, _POSITION_MM),
        ("ImageOrientationPatient", frame.orientation, source.orientation, _DIRECTION),
        ("PixelSpacing", frame.pixel_spacing_mm, source.pixel_spacing_mm, spacing_mm),
    )
    for keyword, ours, theirs, tolerance in pairs:
        if ours is None:
            yield f"{keyword} is absent"
        elif theirs is None or len(ours) != len(theirs):
            yield f"{keyword} cannot be compared with the source's"
        elif any(not abs(a - b) <= tolerance for a, b in zip(ours, theirs, strict=True)):
            yield f"{keyword} differs from that of its source image"
