"""The last look at a SEG before it leaves: its bytes against source headers and labels.

It shares no step with the encoder: the file is read anew, each frame is placed by its own position,
orientation and spacing, its bits are unpacked, and every voxel is compared with the label volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import ResultRefused
from node.domain.frames import Frame, frames_of
from node.domain.result import LabelArray, LabelVolume, Result
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
    """Places frames and compares their voxels; counts which planes were seen."""

    def __init__(self, file: SegFile, result: Result) -> None:
        volume, source = result.volume, result.source
        self._file = file
        self._volume = volume
        self._sources = {
            (frame.sop_instance_uid, frame.frame_number): frame
            for instance in source
            for frame in frames_of(instance)
        }
        self._classes = {str(i.SOPInstanceUID): str(i.SOPClassUID) for i in source}
        self._to_index = np.linalg.inv(volume.stack.grid.affine_lps)
        values = [_label_values(plane, volume.overlapping) for plane in volume.labels]
        found = {value for present in values for value in present}
        self.described = [s for s in result.segments if s.label_value in found]
        numbers = {s.label_value: number for number, s in enumerate(self.described, 1)}
        self.wanted = {
            (numbers[value], index)
            for index, present in enumerate(values)
            for value in present
            if value in numbers
        }
        self._undescribed = found - set(numbers)
        slices = sorted({index for _, index in self.wanted})
        self._ranks = {index: rank for rank, index in enumerate(slices, 1)}

    def faults(self) -> Iterator[str]:
        """All that is wrong with frames, one by one and together."""
        if self._undescribed:
            yield f"labels {sorted(self._undescribed)} have no segment"
        seen: Counter[tuple[int, int]] = Counter()
        for frame in self._file.frames:
            plane = self._plane_of(frame)
            if plane is not None:
                seen[plane] += 1
            for fault in self._frame_faults(frame, plane):
                yield f"frame {frame.number}: {fault}"
        for number, index in sorted(seen.keys() - self.wanted):
            yield f"a frame of segment {number} in slice {index}, where it has no voxel"
        for number, index in sorted(self.wanted - seen.keys()):
            yield f"no frame of segment {number} in slice {index}"
        for (number, index), count in sorted(seen.items()):
            if count > 1:
                yield f"{count} frames of segment {number} in slice {index}"

    def _plane_of(self, frame: SegFrame) -> tuple[int, int] | None:
        """Segment and slice that the frame's own number and position give."""
        if frame.position_mm is None or len(frame.position_mm) != 3 or not frame.segment_number:
            return None
        slice_, row, column = (self._to_index @ np.array([*frame.position_mm, 1.0]))[:3]
        index = round(slice_)
        inside = 0 <= index < self._volume.labels.shape[0]
        off = max(abs(slice_ - index), abs(row), abs(column))
        if not inside or off > _LATTICE_STEPS:
            return None
        return frame.segment_number, index

    def _frame_faults(self, frame: SegFrame, plane: tuple[int, int] | None) -> Iterator[str]:
        number, count = frame.segment_number, len(self.described)
        if number is None or not 1 <= number <= count:
            yield f"names segment {number} of {count}"
        yield from self._reference_faults(frame, plane)
        if plane is None:
            yield "its position is not that of a slice of the source"
            return
        rank = self._ranks.get(plane[1])
        if frame.dimension_indices != (number, rank):
            yield f"Dimension Index Values {frame.dimension_indices} are not ({number}, {rank})"
        if plane in self.wanted:
            yield from self._voxel_faults(frame, plane)

    def _voxel_faults(self, frame: SegFrame, plane: tuple[int, int]) -> Iterator[str]:
        number, index = plane
        _, rows, columns = self._volume.labels.shape
        if len(self._file.bits) * 8 < frame.number * rows * columns:
            yield "its pixels are missing"
            return
        mask = self._file.plane(frame.number - 1, rows, columns)
        truth = _truth(self._volume, index, self.described[number - 1].label_value)
        if not np.array_equal(mask, truth):
            differing = int(np.count_nonzero(mask != truth))
            yield f"{differing} voxels differ from the labels of slice {index}"

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


def _label_values(plane: LabelArray, overlapping: bool) -> list[int]:
    """The label values in one slice of labels; of overlapping regions each has a bit."""
    if not overlapping:
        present: list[int] = np.flatnonzero(np.bincount(plane.ravel())).tolist()
        return [value for value in present if value]
    together = int(np.bitwise_or.reduce(plane, axis=None))
    return [bit + 1 for bit in range(together.bit_length()) if together >> bit & 1]


def _truth(volume: LabelVolume, index: int, label_value: int) -> NDArray[np.bool_]:
    plane = volume.labels[index]
    if volume.overlapping:
        return np.asarray((plane >> (label_value - 1)) % 2 == 1)
    return np.asarray(plane == label_value)


def _plane_faults(frame: SegFrame, source: Frame) -> Iterator[str]:
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
