"""Air inside the body: lungs, airways, and which lung is the left one.

Sides are told apart in patient space, where x grows towards the patient's left (PS3.3 C.7.6.2.1.1):
neither the order of slices nor the direction of rows plays a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from node.infer.ct_tissue.grid import (
    Box,
    CoarseGrid,
    Floats32,
    Labels,
    Mask,
    boxes_of,
    plane_components,
)

AIR_HU = -400.0

_ROUNDING_MM = 0.01  # more than ITK's distances are ever wrong by
_GAS_HU = -960.0  # the middle of a lung is above, of gas in the bowel below
_WHOLE_LUNG_ML = 200.0
_CUT_LUNG_ML = 20.0  # of a lung that the first or last slice cuts
_BESIDE_MIDLINE_MM = 25.0  # of the middle of such a lung; the rectum lies nearer
_PAIR_RATIO = 8.0  # of the larger of two such lungs to the smaller
_VESSEL_MM = 6.0  # vessels up to twice this belong to the lung around them
_PART_SHARE = 0.1

_TRACHEA_MM2 = (50.0, 900.0)
_TRACHEA_HU = -880.0
_TRACHEA_LENGTH_MM = 20.0
_TRACHEA_STEP_MM = 12.0
_OFF_MIDLINE_MM = 40.0
_BEFORE_CENTRE_MM = 30.0
_AIRWAY_LUNG_ML = 150.0
_AIRWAY_LIMITS_HU = (-880.0, -900.0, -920.0, -940.0, -960.0)
_AIRWAYS_ML = 120.0


def find_lungs(hu: Floats32, body: Mask, grid: CoarseGrid) -> Mask:
    """Air of a lung's density: a large part, or smaller ones that the end of the volume cuts.

    Gas in the bowel may look like a cut lung where the volume ends in the abdomen or the pelvis. It
    lies wholly below the largest part; where there is no large part, lungs are a pair, one on each
    side of the midline, cut by the same end of the volume.
    """
    labels, sizes = grid.components(body & (hu < AIR_HU))
    parts = [
        _Part.of(labels, number, box, grid)
        for number, (box, size) in enumerate(
            zip(boxes_of(labels, len(sizes)), sizes, strict=True), 1
        )
        if size * grid.voxel_ml >= _CUT_LUNG_ML
    ]
    aerated = [part for part in parts if _is_aerated(hu, part, grid)]
    large = [part for part in aerated if part.ml >= _WHOLE_LUNG_ML]
    if large:
        lowest_mm = large[0].lowest_mm
        lungs = [
            part
            for part in aerated
            if (part.ml >= _WHOLE_LUNG_ML or part.ends) and part.highest_mm >= lowest_mm
        ]
    else:
        lungs = _pairs([part for part in aerated if part.ends], body, grid)
    return _chosen(labels, len(sizes), [part.number for part in lungs])


def _chosen(labels: Labels, number: int, chosen: Sequence[int] | NDArray[np.uint32]) -> Mask:
    """The components of these numbers, of as many as there are."""
    is_chosen = np.zeros(number + 1, bool)
    is_chosen[chosen] = True
    mask: Mask = is_chosen[labels]
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A connected piece of air in the body.

    Args:
        box: Where it lies, with one voxel around it.
        mask: It, in its box.
        ends: Ends of the volume along the patient's long axis that cut it: 0, the first plane, or -1.
    """

    number: int
    box: Box
    mask: Mask
    ml: float
    ends: frozenset[int]
    middle_x_mm: float
    lowest_mm: float
    highest_mm: float

    @classmethod
    def of(cls, labels: Labels, number: int, tight: Box, grid: CoarseGrid) -> _Part:
        box = grid.around(tight)
        mask = labels[box] == number
        lps_mm = grid.lps_mm(mask, box)
        along, planes = tight[grid.axial_axis], grid.shape[grid.axial_axis]
        return cls(
            number=number,
            box=box,
            mask=mask,
            ml=grid.ml(mask),
            ends=frozenset(
                end for end, cut in ((0, along.start == 0), (-1, along.stop == planes)) if cut
            ),
            middle_x_mm=float(lps_mm[:, 0].mean()),
            lowest_mm=float(lps_mm[:, 2].min()),
            highest_mm=float(lps_mm[:, 2].max()),
        )


def _is_aerated(hu: Floats32, part: _Part, grid: CoarseGrid) -> bool:
    """Whether the middle of a piece of air is denser than gas alone.

    A layer of the piece lies exactly at the depth where its core begins, so that rounding decides
    whether it belongs to it, and another way in the box than in the volume. Where that layer matters
    the whole volume is asked.
    """
    limit_mm = max(grid.spacing_mm)
    depth_mm = grid.distance_mm(~part.mask)
    gas = hu[part.box] <= _GAS_HU
    surely = part.mask & (depth_mm > limit_mm + _ROUNDING_MM)
    perhaps = part.mask & (depth_mm > limit_mm - _ROUNDING_MM)
    if np.count_nonzero(surely & ~gas) > np.count_nonzero(perhaps & gas):
        return True
    if np.count_nonzero(surely & gas) > np.count_nonzero(perhaps & ~gas):
        return False
    whole = _in_grid(part.mask, part.box, grid)
    core = grid.eroded(whole, limit_mm)
    return bool(np.median(hu[core if core.any() else whole]) > _GAS_HU)


def _in_grid(mask: Mask, box: Box, grid: CoarseGrid) -> Mask:
    whole = np.zeros(grid.shape, bool)
    whole[box] = mask
    return whole


def _pairs(cut: list[_Part], body: Mask, grid: CoarseGrid) -> list[_Part]:
    """Those of the small parts that have a partner across the midline, cut by the same end."""
    if len(cut) < 2:
        return []
    together = np.zeros(grid.shape, bool)
    for part in cut:
        together[part.box] |= part.mask
    midline_mm = _midline_mm(together, body, grid)
    lefts = [part for part in cut if part.middle_x_mm > midline_mm + _BESIDE_MIDLINE_MM]
    rights = [part for part in cut if part.middle_x_mm < midline_mm - _BESIDE_MIDLINE_MM]
    paired = {
        number
        for left in lefts
        for right in rights
        if left.ends & right.ends and max(left.ml, right.ml) < _PAIR_RATIO * min(left.ml, right.ml)
        for number in (left.number, right.number)
    }
    return [part for part in cut if part.number in paired]


# --- sides -------------------------------------------------------------------------------------


def lung_sides(lungs: Mask, airways: Mask, body: Mask, grid: CoarseGrid) -> tuple[Mask, Mask]:
    """Left and right lung without the airways, each with the vessels in it."""
    labels, sizes = grid.components(lungs & ~airways)
    # without the crumbs that taking the airways out leaves
    keep = np.array([False, *(size * grid.voxel_ml >= 1.0 for size in sizes)])
    left, right = _sides(keep[labels], body, grid)
    left_filled, right_filled = (grid.closed(side, _VESSEL_MM) & body for side in (left, right))
    return left | (left_filled & ~right), right | (right_filled & ~left_filled & ~left)


def _sides(lungs: Mask, body: Mask, grid: CoarseGrid) -> tuple[Mask, Mask]:
    """Each connected part goes to the side of its middle; a part of both lungs is cut first."""
    left = np.zeros(grid.shape, bool)
    right = np.zeros(grid.shape, bool)
    if not lungs.any():
        return left, right
    midline_mm = _midline_mm(lungs, body, grid)
    labels, sizes = grid.components(lungs)
    for number, tight in enumerate(boxes_of(labels, len(sizes)), 1):
        box = grid.measurable(grid.around(tight))
        part = labels[box] == number
        x_mm = grid.lps_mm(part, box)[:, 0]
        share_left = np.mean(x_mm > midline_mm)
        if _PART_SHARE < share_left < 1 - _PART_SHARE:
            part_left = _cut(part, box, midline_mm, grid)
            left[box] |= part_left
            right[box] |= part & ~part_left
        elif share_left > 0.5:
            left[box] |= part
        else:
            right[box] |= part
    return left, right


def _midline_mm(lungs: Mask, body: Mask, grid: CoarseGrid) -> float:
    """The x that the mediastinum lies at: the middle of the body where there is lung."""
    planes = np.moveaxis(lungs, grid.axial_axis, 0).any(axis=(1, 2))
    slab = np.zeros_like(body)
    np.moveaxis(slab, grid.axial_axis, 0)[planes] = True
    x_mm = grid.lps_mm(body & slab)[:, 0]
    return float((np.percentile(x_mm, 2) + np.percentile(x_mm, 98)) / 2)


def _cut(part: Mask, box: Box, midline_mm: float, grid: CoarseGrid) -> Mask:
    """The left half of two lungs that touch, in their box: eroded until they part, then grown back."""
    for radius_mm in (2.0, 4.0, 6.0, 9.0, 12.0):
        core = grid.eroded(part, radius_mm)
        labels, sizes = grid.components(core)
        large = [n for n, size in enumerate(sizes, 1) if size > _PART_SHARE * sum(sizes)]
        middles = {n: float(grid.lps_mm(labels == n, box)[:, 0].mean()) for n in large}
        lefts = [n for n, x_mm in middles.items() if x_mm > midline_mm]
        rights = [n for n in large if n not in lefts]
        if lefts and rights:
            to_left, to_right = (
                grid.distance_mm(_chosen(labels, len(sizes), side)) for side in (lefts, rights)
            )
            return part & (to_left < to_right)
    halved = np.zeros_like(part)
    halved[part] = grid.lps_mm(part, box)[:, 0] > midline_mm
    return halved


# --- airways -----------------------------------------------------------------------------------


def find_airways(hu: Floats32, body: Mask, lungs: Mask, grid: CoarseGrid) -> tuple[Mask, float]:
    """Trachea and the bronchi that can be followed without leaking into the lung.

    They grow from the trachea with the highest limit that does not leak.

    Returns:
        Where they are, and the Hounsfield units that air in them is below.
    """
    if grid.ml(lungs) < _AIRWAY_LUNG_ML:
        return np.zeros(grid.shape, bool), _AIRWAY_LIMITS_HU[0]
    trachea = _trachea(hu, body, lungs, grid)
    for limit_hu in _AIRWAY_LIMITS_HU if trachea.any() else ():
        labels, sizes = grid.components(body & (hu < limit_hu))
        touched = np.unique(labels[trachea])
        grown = _chosen(labels, len(sizes), touched[touched > 0])
        if grown.any() and grid.ml(grown) < _AIRWAYS_ML:
            return grown, limit_hu
    return trachea, _AIRWAY_LIMITS_HU[0]


@dataclass(frozen=True, slots=True)
class _Spot:
    """A round patch of air in one axial plane."""

    plane: int
    middle_mm: NDArray[np.float64]
    voxels: NDArray[np.int64]


def _trachea(hu: Floats32, body: Mask, lungs: Mask, grid: CoarseGrid) -> Mask:
    """The longest chain of round spots of air near the midline, if it is long enough."""
    chains: list[list[_Spot]] = []
    for spot in _spots(hu, body, lungs, grid):
        fitting = [
            chain
            for chain in chains
            if chain[-1].plane == spot.plane - 1
            # in the patient's axial plane
            and np.linalg.norm((spot.middle_mm - chain[-1].middle_mm)[:2]) < _TRACHEA_STEP_MM
        ]
        if fitting:
            max(fitting, key=len).append(spot)
        else:
            chains.append([spot])
    trachea = np.zeros(grid.shape, bool)
    longest = max(chains, key=_length_mm, default=[])
    if _length_mm(longest) >= _TRACHEA_LENGTH_MM:
        for spot in longest:
            trachea[tuple(spot.voxels.T)] = True
    return trachea


def _length_mm(chain: list[_Spot]) -> float:
    return sum(float(np.linalg.norm(b.middle_mm - a.middle_mm)) for a, b in pairwise(chain))


def _spots(hu: Floats32, body: Mask, lungs: Mask, grid: CoarseGrid) -> list[_Spot]:
    """Candidates for the trachea in every axial plane, plane by plane."""
    axis = grid.axial_axis
    pixel_mm = np.array([grid.spacing_mm[a] for a in range(3) if a != axis])
    midline_mm = _midline_mm(lungs, body, grid)
    centre_mm = float(grid.lps_mm(body)[:, 1].mean())
    spots: list[_Spot] = []
    planes = np.moveaxis(body & (hu < _TRACHEA_HU), axis, 0)
    for k, plane in enumerate(planes):
        if not plane.any():
            continue
        labels = plane_components(plane)
        areas_mm2 = np.bincount(labels.ravel()) * pixel_mm.prod()
        areas_mm2[0] = 0.0  # what is no air
        for number in np.flatnonzero((areas_mm2 > _TRACHEA_MM2[0]) & (areas_mm2 < _TRACHEA_MM2[1])):
            pixels = np.argwhere(labels == number)
            index = np.insert(pixels, axis, k, axis=1)
            points_mm = grid.points_mm(index)
            middle_mm = points_mm.mean(axis=0)
            extent_mm = np.ptp(points_mm[:, :2], axis=0) + pixel_mm
            if (
                abs(middle_mm[0] - midline_mm) < _OFF_MIDLINE_MM
                and middle_mm[1] > centre_mm - _BEFORE_CENTRE_MM
                and extent_mm.max() < 2.5 * extent_mm.min()
            ):
                spots.append(_Spot(k, middle_mm, index))
    return spots
