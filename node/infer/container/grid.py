"""Where pixels of an output lie on the source grid, judged in patient space, and what is painted there.

An output may have its axes flipped or exchanged, its frames in any order, or show only a part of the
grid; what does not fall onto voxel centres of the source is refused, never resampled, and so is what
overlaps where it may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.frames import Frame, Triple
from node.domain.grid import Stack
from node.domain.result import LabelArray
from node.domain.segment import Segment

Floats: TypeAlias = NDArray[np.float64]

TOLERANCE_VOXELS = 0.1
"""How far a pixel may lie off the voxel centre that it is taken for; formats round positions."""

_SLICE = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The voxels of the source grid that an output's pixels are, in the order of its own axes.

    Args:
        runs: For each axis of the output the source axis that it walks along, and where.
        index: Of a plane: its place on the source axis that it does not walk along.
    """

    runs: tuple[tuple[int, slice], ...]
    index: int = 0

    def of(self, labels: LabelArray) -> LabelArray:
        """A view of labels on the source grid, with the output's shape."""
        where: list[slice | int] = [self.index] * 3
        for axis, indices in self.runs:
            where[axis] = indices
        axes = [axis for axis, _ in self.runs]
        return labels[tuple(where)].transpose([sorted(axes).index(axis) for axis in axes])


class SourceGrid:
    """Places planes and volumes on the grid of a stack."""

    def __init__(self, stack: Stack) -> None:
        grid = stack.grid
        self.shape = grid.shape
        self.frame_of_reference_uid = grid.frame_of_reference_uid
        self._inverse = np.linalg.inv(grid.affine_lps)
        resampling = np.array(grid.origin_mm) + np.outer(
            np.arange(grid.shape[0]), np.array(grid.steps_mm[0])
        )
        measured = [
            place if frame.position_mm is None else frame.position_mm
            for frame, place in zip(stack.frames, resampling, strict=True)
        ]
        # slices are accepted a little off the regular grid, and an output may give either place
        self._anchors_mm = (np.array(measured, np.float64), resampling)
        self._known: dict[tuple[object, ...], Window] = {}

    def place_plane(self, frame: Frame) -> Window:
        """The window of one frame of an output.

        Raises:
            JobRefused: It does not lie on the source grid.
        """
        size = (frame.rows, frame.columns)
        key = (frame.position_mm, frame.orientation, frame.pixel_spacing_mm, size)
        if key not in self._known:
            self._known[key] = self._plane(frame)
        return self._known[key]

    def place_volume(self, affine_lps: Floats, shape: Sequence[int]) -> Window:
        """The window of a volume that covers the whole grid.

        Args:
            affine_lps: From an index in the order of ``shape`` to LPS mm, shape (4, 4).
        Raises:
            JobRefused: It is not the source grid, whatever the order of its axes.
        """
        steps = self._inverse[:3, :3] @ affine_lps[:3, :3]
        origin = self._inverse @ affine_lps[:, 3]
        walks = [_walk(step, size) for step, size in zip(steps.T, shape, strict=True)]
        if sorted(axis for axis, _ in walks) != [0, 1, 2]:
            raise off_grid("its axes are not those of the source")
        if any(self.shape[axis] != size for (axis, _), size in zip(walks, shape, strict=True)):
            raise off_grid(f"it has {' x '.join(str(size) for size in shape)} voxels")
        runs = (
            (axis, self._run(axis, sign, origin[axis], size))
            for (axis, sign), size in zip(walks, shape, strict=True)
        )
        return Window(tuple(runs))

    def _plane(self, frame: Frame) -> Window:
        if frame.position_mm is None or frame.orientation is None or frame.pixel_spacing_mm is None:
            raise off_grid("a frame does not say where it lies")
        along_row, along_column = np.array(frame.orientation).reshape(2, 3)
        between_rows, between_columns = frame.pixel_spacing_mm
        turn = self._inverse[:3, :3]
        down, down_sign = _walk(turn @ (along_column * between_rows), frame.rows)
        across, across_sign = _walk(turn @ (along_row * between_columns), frame.columns)
        if down == across:
            raise off_grid("the axes of a frame are not those of the source")
        fixed = 3 - down - across
        if fixed == _SLICE:
            place, start = self._slice_at(frame.position_mm)
        else:
            start = (self._inverse @ np.array([*frame.position_mm, 1.0]))[:3]
            place = self._run(fixed, 1, start[fixed], 1).start
        runs = (
            (down, self._run(down, down_sign, start[down], frame.rows)),
            (across, self._run(across, across_sign, start[across], frame.columns)),
        )
        return Window(runs, place)

    def _slice_at(self, position_mm: Triple) -> tuple[int, Floats]:
        """The slice of a position, and its index relative to the first pixel of that slice."""
        for anchors_mm in self._anchors_mm:
            offsets = (np.array(position_mm) - anchors_mm) @ self._inverse[:3, :3].T
            nearest = int(np.argmin(np.abs(offsets[:, _SLICE])))
            if abs(offsets[nearest, _SLICE]) <= TOLERANCE_VOXELS:
                return nearest, offsets[nearest]
        raise off_grid("a frame lies between its slices, or beyond them")

    def _run(self, axis: int, sign: int, start: float, size: int) -> slice:
        """The voxels of a source axis that ``size`` pixels are, walking up or down."""
        first = round(float(start))
        if abs(start - first) > TOLERANCE_VOXELS:
            raise off_grid("its pixels lie between those of the source")
        last = first + sign * (size - 1)
        if not (0 <= first < self.shape[axis] and 0 <= last < self.shape[axis]):
            raise off_grid("it reaches beyond the source")
        stop = last + sign
        return slice(first, stop if stop >= 0 else None, sign)


def off_grid(why: str) -> JobRefused:
    """The refusal of an output that lies elsewhere."""
    return JobRefused(f"the container's output is not on the grid of its input: {why}")


def _walk(step: Floats, size: int) -> tuple[int, int]:
    """The source axis that an output axis walks along, and its sign.

    Args:
        step: In voxels of the source, for one pixel of the output.
    """
    axis = int(np.argmax(np.abs(step)))
    sign = 1 if step[axis] > 0 else -1
    whole = np.zeros(3)
    whole[axis] = sign
    if np.max(np.abs(step - whole)) * max(size - 1, 1) > TOLERANCE_VOXELS:
        raise off_grid("its pixels have another size or direction")
    return axis, sign


class Canvas:
    """A label array on the source grid that starts as background.

    Args:
        overlapping: The model's output is regions: label value n becomes bit n-1.
    """

    def __init__(
        self, shape: tuple[int, int, int], segments: Sequence[Segment], *, overlapping: bool
    ) -> None:
        highest = max(segment.label_value for segment in segments)
        is_small = highest <= (8 if overlapping else 255)
        self.labels: LabelArray = (
            np.zeros(shape, np.uint8) if is_small else np.zeros(shape, np.uint16)
        )
        self._names = {segment.label_value: segment.name for segment in segments}
        self._overlapping = overlapping

    def paint(self, window: Window, mask: NDArray[np.bool_], label_value: int) -> None:
        """Give the voxels under a mask to a label.

        Raises:
            JobRefused: One of them has another exclusive label.
        """
        if label_value not in self._names:
            raise JobRefused(
                f"the container's output holds label {label_value}, which labels.csv does not"
                " describe"
            )
        view = window.of(self.labels)
        if self._overlapping:
            view[mask] |= view.dtype.type(1 << (label_value - 1))
            return
        there = view[mask]
        taken = set(np.unique(there).tolist()) - {0, label_value} if there.any() else set()
        if taken:
            other = self._names[min(taken)]
            raise JobRefused(
                f"{self._names[label_value]!r} and {other!r} overlap in the container's output,"
                " and the model's labels are exclusive"
            )
        view[mask] = label_value
