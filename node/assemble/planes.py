"""Planes: where frames lie along their common normal, and what tells those in one plane apart.

Slices are counted from 1 along the normal, row direction x column direction; every number in a
finding uses that count. Two frames closer than 1 % of the median spacing lie in one plane. The
spacing is the lower median of the steps between planes, so that one gap in a short stack (5/10 mm)
is measured against the true spacing and not against a mean of both.

A dynamic, multi-echo or diffusion series holds n images in each of m planes. Where one attribute
takes the same n values in every plane the series could be split by it, and the finding says so.

Source: PS3.3 C.7.6.2.1.1 (position and orientation of a plane), C.7.6.16 (functional groups),
C.8.3.1 (MR image), C.7.6.18 (cardiac phases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from node.domain.frames import Frame, Sextuple, Triple
from node.domain.phase_hints import KINDS, SPLITTERS, PhaseHints

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

EQUAL_COSINES = 1e-3
RIGHT_ANGLES = 2e-3  # cosines written with three decimals are off by up to 0.0018
SAME_PLANE = 0.01
SAME_PLANE_MM = 2e-3  # decimal rounding of equal positions; no scanner steps by this little
REGULAR = 0.001
ACCEPTED = 0.05
LATTICE = 0.5  # of the spacing: beyond it a slice would lie nearer to another slice's place
ROUNDING = 1e-9  # of the spacing: binary rounding must not decide at a bound


def orientation_groups(frames: Sequence[Frame]) -> list[list[int]]:
    """Indices of frames whose cosines are equal within 1e-3, largest group first.

    The grouping does not depend on the order of the frames. All frames have an orientation.
    """
    cosines = np.array([frame.orientation for frame in frames], dtype=np.float64).reshape(-1, 6)
    if not len(cosines) or np.ptp(cosines, axis=0).max() <= EQUAL_COSINES + ROUNDING:
        return [list(range(len(frames)))] if frames else []
    groups: list[tuple[Floats, list[int]]] = []
    for index in np.lexsort(cosines.T[::-1]):
        for first, members in groups:
            if np.abs(cosines[index] - first).max() <= EQUAL_COSINES + ROUNDING:
                members.append(int(index))
                break
        else:
            groups.append((cosines[index], [int(index)]))
    members_only = [sorted(members) for _, members in groups]
    return sorted(members_only, key=len, reverse=True)


def common_orientation(frames: Sequence[Frame]) -> Sextuple:
    """The median of each cosine: exactly the header's values where all frames agree."""
    cosines = np.array([frame.orientation for frame in frames], dtype=np.float64)
    a, b, c, d, e, f = np.median(cosines, axis=0).tolist()
    return (a, b, c, d, e, f)


def spans_a_plane(orientation: Sextuple) -> bool:
    """Whether row and column cosines are unit vectors at right angles.

    Source: PS3.3 C.7.6.2.1.1
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    faults = (np.linalg.norm(row) - 1.0, np.linalg.norm(column) - 1.0, row @ column)
    return bool(np.abs(faults).max() <= RIGHT_ANGLES)


@dataclass(frozen=True)
class Planes:
    """Frames of one orientation, sorted into planes.

    Args:
        order: Indices of the frames along the normal.
        members: For each plane the indices of its frames.
        positions_mm: Mean position of each plane, LPS, shape (planes, 3).
        normal: Unit vector, row direction x column direction.
    """

    order: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    positions_mm: Floats
    orientation: Sextuple
    normal: Floats

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def has_duplicates(self) -> bool:
        """Whether two frames lie in one plane."""
        return self.count < len(self.order)

    @cached_property
    def steps_mm(self) -> Floats:
        """Distances between neighbouring planes along the normal, shape (planes - 1,)."""
        return np.diff(self.positions_mm @ self.normal)

    @cached_property
    def spacing_mm(self) -> float:
        """Lower median of the steps; 0 for a single plane."""
        return _lower_median(self.steps_mm)

    @cached_property
    def resampling(self) -> tuple[Floats, Floats]:
        """Origin and mean step vector of the regular grid, least squares over positions."""
        index = np.arange(self.count, dtype=np.float64) - (self.count - 1) / 2.0
        centre = self.positions_mm.mean(axis=0)
        step = index @ (self.positions_mm - centre) / (float(index @ index) or 1.0)
        return centre + index[0] * step, step

    @cached_property
    def ratios(self) -> Floats:
        """The steps in spacings."""
        return self.steps_mm / self.spacing_mm

    @cached_property
    def worst_step(self) -> float:
        """Largest deviation of a step from the spacing, as a fraction of the spacing."""
        return float(np.abs(self.ratios - 1.0).max(initial=0.0))

    @cached_property
    def worst_place(self) -> float:
        """Largest distance of a plane from its place in the grid, in spacings."""
        if self.count < 2:
            return 0.0
        origin, step = self.resampling
        index = np.arange(self.count, dtype=np.float64)[:, None]
        off_mm = (self.positions_mm - origin - index * step) @ self.normal
        return float(np.abs(off_mm).max() / self.spacing_mm)

    @property
    def is_even(self) -> bool:
        """Whether every step is within 5 % of the spacing and no plane strays from its place."""
        return self.worst_step <= ACCEPTED + ROUNDING and self.worst_place <= LATTICE

    def gaps(self) -> list[tuple[int, int]]:
        """Steps near a multiple of the spacing: (slice before the gap, slices missing)."""
        found = []
        for index, ratio in enumerate(self.ratios):
            multiple = round(float(ratio))
            if multiple >= 2 and abs(ratio - multiple) <= ACCEPTED + ROUNDING:
                found.append((index + 1, multiple - 1))
        return found

    def uneven_steps(self) -> list[int]:
        """Slices whose step to the next is neither within 5 % nor near a multiple."""
        gaps = {before for before, _ in self.gaps()}
        off = np.abs(self.ratios - 1.0) > ACCEPTED + ROUNDING
        return [int(i) + 1 for i in np.flatnonzero(off) if int(i) + 1 not in gaps]

    @property
    def worst_uneven_step(self) -> float:
        """Largest deviation of an uneven step from the spacing, gaps apart, as a fraction."""
        uneven = np.array(self.uneven_steps(), np.intp) - 1
        return float(np.abs(self.ratios[uneven] - 1.0).max(initial=0.0))

    def drift_pixels(self, pixel_spacing_mm: tuple[float, float]) -> tuple[Floats, float]:
        """Sideways movement of every plane against the first, and the largest, in pixels."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        moved_mm = self.positions_mm - self.positions_mm[0]
        along = np.stack((moved_mm @ row, moved_mm @ column), axis=1)
        between_rows, between_columns = pixel_spacing_mm
        pixels = along / np.array((between_columns, between_rows))
        return pixels, float(np.linalg.norm(pixels, axis=1).max())

    def shear_degrees(self) -> float:
        """Angle between the direction of stacking and the normal."""
        _, step = self.resampling
        depth = float(step @ self.normal)
        return float(np.degrees(np.arctan2(np.linalg.norm(step - depth * self.normal), depth)))


def planes_of(frames: Sequence[Frame]) -> Planes:
    """Sort frames into planes; all have a position and one valid orientation."""
    orientation = common_orientation(frames)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    positions_mm = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    depth_mm = positions_mm @ normal
    order: Ints = np.argsort(depth_mm, kind="stable")
    steps_mm = np.diff(depth_mm[order])
    apart_mm = _lower_median(steps_mm[steps_mm > SAME_PLANE_MM])
    starts = np.flatnonzero(steps_mm >= max(SAME_PLANE * apart_mm, SAME_PLANE_MM)) + 1
    members = np.split(order, starts)
    if len(members) == len(order):
        means = positions_mm[order]
    else:
        means = np.array([positions_mm[plane].mean(axis=0) for plane in members])
    return Planes(
        order=tuple(order.tolist()),
        members=tuple(tuple(plane.tolist()) for plane in members),
        positions_mm=means,
        orientation=orientation,
        normal=normal,
    )


def _lower_median(values: Floats) -> float:
    if not len(values):
        return 0.0
    return float(np.sort(values)[(len(values) - 1) // 2])


def triple(vector: Floats) -> Triple:
    """A vector as plain floats."""
    x, y, z = vector.tolist()
    return (x, y, z)


def how_split(planes: Sequence[Sequence[int]], hints: Sequence[PhaseHints]) -> dict[str, object]:
    """How the images of every plane could be told apart, as facts; empty where nothing tells.

    Images of different kinds (Image Type, Frame Type) are named first: what else differs between a
    magnitude image and a field map makes them no phases of one thing.

    Args:
        planes: For each plane the indices of its frames, equally many in each.
        hints: For each frame what its header says.
    """
    images = len(planes[0])
    for keyword in KINDS:
        kinds = _alike_in_all(keyword, planes, hints)
        if kinds == images:
            return {"kinds": kinds, "by": keyword, "could_be_split": True}
        if kinds > 1:
            return {"kinds": kinds, "by": keyword, "could_be_split": False}
    for keyword in SPLITTERS:
        if _alike_in_all(keyword, planes, hints) == images:
            return {"phases": images, "by": keyword}
    return {}


def _alike_in_all(
    keyword: str, planes: Sequence[Sequence[int]], hints: Sequence[PhaseHints]
) -> int:
    """How many values the attribute takes in every plane, where they are the same in all; else 0."""
    values = [[hints[index].get(keyword) for index in plane] for plane in planes]
    if not all(isinstance(value, tuple) and value for own in values for value in own):
        return 0
    sets = {frozenset(own) for own in values}
    return len(sets.pop()) if len(sets) == 1 else 0
