"""Boxes at places of the patient that the parameters name.

A stand-in for a network: with it a table of labels goes through the whole road, and what must come
back is known to the voxel beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from node.domain.errors import JobRefused
from node.domain.grid import Floats, Grid
from node.domain.result import LabelArray
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import RunContext
from node.infer.volume import Volume

_NUMBERS = 7


def run(
    spec: ModelSpec, volumes: Mapping[str, Volume], context: RunContext, report: Report
) -> LabelArray:
    """Label the voxels whose centre lies in a box; where boxes meet the later one wins.

    Args:
        spec: Its parameter ``boxes`` is a list of [label value, low x, y, z, high x, y, z] in LPS
            millimetres; the high end does not belong to the box.
    """
    del context
    grid = volumes[spec.grid_role].grid
    labels = np.zeros(grid.shape, np.uint16)
    boxes = spec.runner.parameters.get("boxes")
    if not isinstance(boxes, list) or not boxes:
        raise JobRefused("boxes names no box")
    for box in boxes:
        _paint(labels, grid, box)
    report.note(f"{len(boxes)} boxes painted")
    return labels


def _paint(labels: LabelArray, grid: Grid, box: Sequence[float]) -> None:
    if len(box) != _NUMBERS:
        raise JobRefused(f"a box is a label value and six ends, not {box!r}")
    low, high = np.array(box[1:4], float), np.array(box[4:], float)
    first, last = _index_range(grid, low, high)
    if (first > last).any():
        return
    around = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    index = np.stack(
        np.meshgrid(
            *(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij"
        ),
        -1,
    )
    affine = grid.affine_lps
    points = index @ affine[:3, :3].T + affine[:3, 3]
    inside = ((points >= low) & (points < high)).all(axis=-1)
    labels[around][inside] = int(box[0])


def _index_range(grid: Grid, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The first and last index that a box may hold, in each direction, within the volume."""
    corners = np.array(
        [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    affine = grid.affine_lps
    index = np.linalg.solve(affine[:3, :3], (corners - affine[:3, 3]).T).T
    first = np.maximum(np.floor(index.min(axis=0)), 0).astype(int)
    last = np.minimum(np.ceil(index.max(axis=0)), np.array(grid.shape) - 1).astype(int)
    return first, last
