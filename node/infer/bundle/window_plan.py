"""Where the windows of an image lie, and along which axis they are worked off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from monai.data.utils import dense_patch_slices

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """Windows in rows: those of one row start on the same plane of ``axis``.

    Args:
        size: Voxels of the image, X, Y, Z; at least ``roi`` on each axis.
        roi: Voxels of a window, X, Y, Z.
        starts: Where windows begin, per axis, rising; every combination is a window.
        axis: The axis along which planes are finished one row after another.
    """

    size: Triple
    roi: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    axis: int

    def __post_init__(self) -> None:
        if not 0 <= self.axis < 3 or any(
            roi > size or ends[-1] + roi != size
            for size, roi, ends in zip(self.size, self.roi, self.starts, strict=True)
        ):
            raise ValueError("the windows do not cover the image")

    @property
    def rows(self) -> tuple[int, ...]:
        """The first plane of each row."""
        return self.starts[self.axis]

    @property
    def in_order(self) -> bool:
        """Whether row by row is also the order of a scan whose first axis is the slowest."""
        return all(len(starts) == 1 for starts in self.starts[: self.axis])

    def windows(self) -> list[Triple]:
        """The first voxel of every window, row by row."""
        scan = list(product(*self.starts))
        return sorted(scan, key=lambda start: start[self.axis])  # stable: a row keeps its order

    def finished(self, row: int) -> int:
        """How many planes, from the start of this row, no later row touches."""
        if row + 1 == len(self.rows):
            return self.roi[self.axis]
        return self.rows[row + 1] - self.rows[row]

    def touching(self, first: int, planes: int) -> list[Triple]:
        """The windows that hold any of these planes, slowest axis first."""
        depth = self.roi[self.axis]
        return [
            start
            for start in product(*self.starts)
            if start[self.axis] < first + planes and start[self.axis] + depth > first
        ]

    def voxels_held(self) -> int:
        """The most voxels, per channel, held at once to blend in the order of the scan."""
        depth = self.roi[self.axis]
        plane = math.prod(self.size) // self.size[self.axis]
        if self.in_order:
            return plane * depth
        across = math.prod(
            self.roi[other] * len(self.starts[other]) for other in range(3) if other != self.axis
        )
        ends = [first + self.finished(row) for row, first in enumerate(self.rows)]
        most = max(
            sum(max(first + depth - end, 0) for first in self.rows[: row + 1])
            for row, end in enumerate(ends)
        )
        return plane * depth + across * most


def plan_windows(size: Triple, roi: Triple, overlap: Sequence[float]) -> WindowPlan:
    """Lay windows as ``monai.inferers`` does; work them off along the axis that needs least memory.

    Args:
        overlap: Share of a window that the next one repeats, per axis, in [0, 1).
    """
    step = [max(int(part * (1 - share)), 1) for part, share in zip(roi, overlap, strict=True)]
    slices = dense_patch_slices(size, roi, step)
    x, y, z = (tuple(sorted({window[axis].start for window in slices})) for axis in range(3))
    plans = [WindowPlan(size=size, roi=roi, starts=(x, y, z), axis=axis) for axis in range(3)]
    return min(plans, key=WindowPlan.voxels_held)
