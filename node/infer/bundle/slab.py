"""Blending window by window while only the planes that may still change are held.

Floating-point sums depend on the order of their terms. So that blended values are bit for bit those
of a scan over the whole image, whose first axis is the slowest, each voxel's terms are added here in
the order of that scan, whatever axis the rows follow:

- ``_Rolling``: rows come in the order of the scan. Answers are added as they come; finished planes
  leave at the front and the rest moves up.
- ``_Replaying``: they do not. An answer is added only to planes that its own row finishes; what
  reaches beyond is kept, and is added in later rows, before the windows it comes before in the scan.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from node.infer.bundle.window_plan import Triple, WindowPlan


class Slab(Protocol):
    """Sums of the answers of windows; rows are finished one after another."""

    def add(self, start: Triple, answer: Tensor) -> None:
        """Add the answer (K, *roi) of the window that begins at ``start``, of the present row."""

    def finished(self) -> Tensor:
        """The sums (K, ...) of the planes that the present row finishes, to be changed at will."""

    def next_row(self) -> None:
        """Forget the finished planes."""


def open_slab(
    plan: WindowPlan, channels: int, dtype: torch.dtype, device: torch.device | str
) -> Slab:
    """Sums of zero for a plan's first row: roi planes of ``channels`` maps."""
    shape = [channels, *plan.size]
    shape[plan.axis + 1] = plan.roi[plan.axis]
    sums = torch.zeros(shape, dtype=dtype, device=device)
    return _Rolling(plan, sums) if plan.in_order else _Replaying(plan, sums)


def _inside(plan: WindowPlan, sums: Tensor, start: Triple) -> Tensor:
    """All planes of the slab, and across them the window's own extent."""
    for axis in range(3):
        if axis != plan.axis:
            sums = sums.narrow(axis + 1, start[axis], plan.roi[axis])
    return sums


class _Rolling:
    def __init__(self, plan: WindowPlan, sums: Tensor) -> None:
        self._plan, self._sums, self._row = plan, sums, 0

    def add(self, start: Triple, answer: Tensor) -> None:
        _inside(self._plan, self._sums, start).add_(answer)

    def finished(self) -> Tensor:
        return self._sums.narrow(self._plan.axis + 1, 0, self._plan.finished(self._row))

    def next_row(self) -> None:
        dim = self._plan.axis + 1
        gone = self._plan.finished(self._row)
        rest = self._plan.roi[self._plan.axis] - gone
        for first in range(0, rest, gone):  # in steps, since a copy must not overlap its source
            planes = min(gone, rest - first)
            moved = self._sums.narrow(dim, first + gone, planes)
            self._sums.narrow(dim, first, planes).copy_(moved)
        self._sums.narrow(dim, rest, gone).zero_()
        self._row += 1


class _Replaying:
    def __init__(self, plan: WindowPlan, sums: Tensor) -> None:
        self._plan, self._sums, self._row = plan, sums, 0
        self._first_after = tuple(starts[0] for starts in plan.starts[plan.axis + 1 :])
        self._kept: dict[tuple[int, ...], list[tuple[Triple, Tensor]]] = {}

    def add(self, start: Triple, answer: Tensor) -> None:
        axis = self._plan.axis
        kept = self._kept.setdefault(start[:axis], [])
        if start[axis + 1 :] == self._first_after:
            earlier, kept[:] = kept[:], []
            for other, rest in earlier:
                self._add(other, rest, kept)
            earlier.clear()
        self._add(start, answer, kept)

    def _add(self, start: Triple, answer: Tensor, kept: list[tuple[Triple, Tensor]]) -> None:
        """Add to the planes that this row finishes; keep a copy of what reaches beyond."""
        dim = self._plan.axis + 1
        depth = answer.shape[dim]
        here = min(self._plan.finished(self._row), depth)
        sums = _inside(self._plan, self._sums, start).narrow(dim, 0, here)
        sums.add_(answer.narrow(dim, 0, here))
        if here < depth:
            beyond = answer.narrow(dim, here, depth - here)
            kept.append((start, beyond.to(self._sums.dtype, copy=True).contiguous()))

    def finished(self) -> Tensor:
        return self._sums.narrow(self._plan.axis + 1, 0, self._plan.finished(self._row))

    def next_row(self) -> None:
        self.finished().zero_()
        self._row += 1
