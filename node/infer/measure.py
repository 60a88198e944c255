"""How large each label is, where it lies, whether the volume's border cuts it, and if that can be.

A model answers whatever it is given; its model.yaml says what a result may be (``plausible``). What is
found to be no patient's is a list of reasons; nobody decides here what becomes of the result.

Counts of each slice come with the volume; edges and middles within slices are taken from a
grid of about 128 x 128 of their voxels, which is enough for centimetres. Pure numpy, no IO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from node.domain.grid import Grid
from node.domain.reasons import Reason, ReasonCode
from node.domain.result import LabelVolume, label_values_of, voxels_by_label
from node.infer.plausible import Bounds, Plausible, Ratio, Sides

_LATTICE = 128
# a label is on a side only where there is enough of it, and clearly
_SIDED_ML = 1.0
_SIDED_MM = 10.0

Counts = NDArray[np.int64]
Places = NDArray[np.uint16]  # of stored values, in the list of those that occur


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One label.

    Args:
        touches_border: A voxel of it is in the first or last slice, row or column.
        cut: How much of its largest cross-section lies in a face of the volume, of 1; the faces at the
            ends of the stack and those towards head and feet, where a series may well end, left out.
        edges_mm: Of its bounding box, along slices, rows and columns.
        middle_mm: LPS; None where it is too small to be met by the grid.
    """

    voxels: int
    ml: float
    touches_border: bool
    cut: float
    edges_mm: tuple[float, float, float]
    middle_mm: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All labels of a volume that have a voxel, by label value.

    Args:
        filled: Voxels with any label, of 1.
    """

    labels: Mapping[int, Measure]
    filled: float


def measure_labels(volume: LabelVolume) -> Measured:
    """Measure every label of a volume; regions that overlap count in full."""
    counts, labels = volume.counts, volume.labels
    values = counts.values.tolist()
    stored = len(values)
    totals = counts.voxels.sum(axis=0)
    voxels = voxels_by_label(counts.totals, overlapping=volume.overlapping)
    members = _members(values, totals, overlapping=volume.overlapping)
    places = np.zeros(values[-1] + 1, np.uint16)
    places[values] = np.arange(stored)
    step = tuple(max(1, -(-n // _LATTICE)) for n in labels.shape[1:])
    in_rows, in_columns = _line_counts(places[labels[:, :: step[0], :: step[1]]], stored)
    ends = (places[np.moveaxis(labels, axis, 0)[[0, -1]]] for axis in (1, 2))
    faces = [counts.voxels[[0, -1]], *(_plane_counts(pair, stored) for pair in ends)]
    grid = volume.stack.grid
    return Measured(
        labels={
            label: _measure(
                count,
                grid,
                [
                    each[:, members[label]].sum(axis=1)
                    for each in (counts.voxels, in_rows, in_columns)
                ],
                (1, *step),
                [face[:, members[label]].sum(axis=1) for face in faces],
            )
            for label, count in voxels.items()
        },
        filled=1.0 - float(totals[0]) / volume.labels.size,
    )


def _plane_counts(planes: Places, stored: int) -> Counts:
    """(planes, stored values): how many voxels of each value are in each plane."""
    return np.stack([np.bincount(plane.ravel(), minlength=stored) for plane in planes])


def _line_counts(resampling: Places, stored: int) -> tuple[Counts, Counts]:
    """(rows, stored values) and (columns, stored values), over all slices of the grid."""
    rows, columns = resampling.shape[1:]
    in_rows = np.zeros((rows, stored), np.int64)
    in_columns = np.zeros((columns, stored), np.int64)
    by_row = (np.arange(rows, dtype=np.int32) * stored)[:, None]
    by_column = (np.arange(columns, dtype=np.int32) * stored)[None, :]
    for plane in resampling:
        if not plane.any():
            continue
        for keys, counts in ((by_row, in_rows), (by_column, in_columns)):
            found = np.bincount((plane + keys).ravel(), minlength=counts.size)
            counts += found.reshape(counts.shape)
    return in_rows, in_columns


def _members(values: list[int], totals: Counts, *, overlapping: bool) -> Mapping[int, list[int]]:
    """Label value -> the places of the stored values that hold it."""
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(totals).tolist():
        for label in label_values_of(values[place], overlapping=overlapping):
            members.setdefault(label, []).append(place)
    return members


def _measure(
    voxels: int,
    grid: Grid,
    lines: list[Counts],
    steps: tuple[int, ...],
    faces: list[Counts],
) -> Measure:
    """From how many voxels lie at each index along each axis, and in the faces."""
    edges, middle = [], []
    for line, step, spacing in zip(lines, steps, grid.spacing_mm, strict=True):
        index = np.flatnonzero(line)
        edges.append(float((index[-1] - index[0] + 1) * step * spacing) if index.size else 0.0)
        if index.size:
            middle.append(float(line @ np.arange(line.size)) / float(line.sum()) * step)
    at = grid.affine_lps @ [*middle, 1.0] if len(middle) == 3 else None
    return Measure(
        voxels=voxels,
        ml=voxels * grid.voxel_ml,
        touches_border=any(face.any() for face in faces),
        cut=_cut(grid, lines, steps, faces),
        edges_mm=(edges[0], edges[1], edges[2]),
        middle_mm=None if at is None else (float(at[0]), float(at[1]), float(at[2])),
    )


def _cut(grid: Grid, lines: list[Counts], steps: tuple[int, ...], faces: list[Counts]) -> float:
    """See ``Measure.cut``; the cross-sections of the grid stand for those of the volume."""
    directions = np.array(grid.steps_mm) / np.array(grid.spacing_mm)[:, None]
    along = int(np.argmax(np.abs(directions[:, 2])))
    across = [axis for axis in (1, 2) if axis != along]
    shares = [0.0]
    for axis in across:
        largest = float(lines[axis].max()) * steps[3 - axis]
        if largest:
            shares.append(float(faces[axis].max()) / largest)
    return min(1.0, max(shares))


def why_implausible(
    plausible: Plausible, measured: Measured, *, are_chosen: bool = False
) -> Sequence[Reason]:
    """What no patient has; nothing where the result is empty or lies within all bounds.

    Args:
        are_chosen: The job asked for some labels only, so that the absence of others tells nothing.
    """
    if not measured.labels:
        return ()
    if are_chosen:
        plausible = _without_lower_bounds(plausible)
    found = [reason for bounds in plausible.bounds for reason in _outside(bounds, measured.labels)]
    found += [reason for ratio in plausible.ratios for reason in _ratio(ratio, measured.labels)]
    found += [reason for sides in plausible.sides for reason in _sides(sides, measured.labels)]
    if not plausible.least_filled <= measured.filled <= plausible.most_filled:
        facts = {"share": measured.filled, "low": plausible.least_filled}
        facts["high"] = plausible.most_filled
        found.append(Reason(ReasonCode.IMPLAUSIBLE_SHARE, facts))
    return tuple(found)


def _without_lower_bounds(plausible: Plausible) -> Plausible:
    return replace(
        plausible,
        bounds=tuple(
            replace(each, min_ml=0.0, min_cut_ml=0.0) if len(each.label_values) > 1 else each
            for each in plausible.bounds
        ),
        ratios=(),
        least_filled=0.0,
    )


def _there(labels: Mapping[int, Measure], values: Sequence[int]) -> list[Measure]:
    return [labels[value] for value in values if value in labels]


def _outside(bounds: Bounds, labels: Mapping[int, Measure]) -> Iterator[Reason]:
    parts = _there(labels, bounds.label_values)
    if not parts:
        return
    ml = sum(part.ml for part in parts)
    is_cut = any(part.touches_border for part in parts)
    edge_mm = max(max(part.edges_mm) for part in parts)
    least_ml = bounds.min_cut_ml if is_cut else bounds.min_ml
    cut = max(part.cut for part in parts)

    def reason(code: ReasonCode, **facts: object) -> Reason:
        return Reason(code, {"what": bounds.name, **facts})

    if ml > bounds.max_ml:
        yield reason(ReasonCode.IMPLAUSIBLE_VOLUME, ml=ml, high_ml=bounds.max_ml)
    if ml < least_ml:
        yield reason(ReasonCode.IMPLAUSIBLE_VOLUME, ml=ml, low_ml=least_ml, is_cut=is_cut)
    if edge_mm > bounds.max_mm:
        yield reason(ReasonCode.IMPLAUSIBLE_EXTENT, edge_mm=edge_mm, high_mm=bounds.max_mm)
    if cut > bounds.max_cut:
        yield reason(ReasonCode.IMPLAUSIBLE_BORDER, cut=cut, high=bounds.max_cut)
    if bounds.border is not None and is_cut is not (bounds.border == "always"):
        yield reason(ReasonCode.IMPLAUSIBLE_BORDER, touches=is_cut)


def _ratio(ratio: Ratio, labels: Mapping[int, Measure]) -> Iterator[Reason]:
    of, to = _there(labels, ratio.of), _there(labels, ratio.to)
    is_cut = any(part.touches_border for part in (*of, *to))
    to_ml = sum(part.ml for part in to)
    if to_ml < ratio.from_ml or (is_cut and not ratio.is_for_cut):
        return
    value = sum(part.ml for part in of) / to_ml
    if not ratio.low <= value <= ratio.high:
        facts = {"what": ratio.name, "value": value, "low": ratio.low}
        facts |= {"high": ratio.high} if ratio.high < inf else {}
        yield Reason(ReasonCode.IMPLAUSIBLE_RATIO, facts)


def _sides(sides: Sides, labels: Mapping[int, Measure]) -> Iterator[Reason]:
    left, right = labels.get(sides.left), labels.get(sides.right)
    if left is None or right is None or min(left.ml, right.ml) < _SIDED_ML:
        return
    if left.middle_mm is None or right.middle_mm is None:
        return
    beyond_mm = right.middle_mm[0] - left.middle_mm[0]
    if beyond_mm > _SIDED_MM:
        facts = {"what": sides.name, "beyond_mm": beyond_mm}
        yield Reason(ReasonCode.IMPLAUSIBLE_SIDES, facts)
