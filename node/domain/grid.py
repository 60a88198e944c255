"""Geometry: one regular volume in patient space, or what the gate found against it.

The index of a voxel is (slice, row, column); its centre in LPS millimetres is ``affine_lps`` times
that index. Slices are ordered along the normal of their plane, row direction x column direction, so
the same series always gives the same volume, whatever order it arrived in.

Source: PS3.3 C.7.6.2.1.1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.domain.frames import Frame, Triple
from node.domain.reasons import Reason

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where a (slice, row, column) array lies in the patient.

    Args:
        shape: Slices, rows, columns.
        origin_mm: Centre of voxel (0, 0, 0), LPS.
        steps_mm: Movement in LPS for one slice, one row, one column further: three vectors.
    """

    shape: tuple[int, int, int]
    origin_mm: Triple
    steps_mm: tuple[Triple, Triple, Triple]
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"empty volume {self.shape}")
        if not np.isfinite(self.affine_lps).all() or abs(np.linalg.det(self.affine_lps)) < 1e-9:
            raise ValueError("steps do not span a volume")

    @property
    def affine_lps(self) -> Floats:
        """Homogeneous matrix from (slice, row, column, 1) to LPS mm, shape (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(self.steps_mm).T
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def spacing_mm(self) -> Triple:
        """Distance between slices, rows and columns."""
        a, b, c = (float(np.linalg.norm(step)) for step in self.steps_mm)
        return (a, b, c)

    @property
    def extent_mm(self) -> float:
        """How much of the patient the slices cover along the stack: slices x their distance."""
        return self.shape[0] * self.spacing_mm[0]

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.affine_lps[:3, :3]))) / 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The frames of one volume in the order of its slices.

    ``geometry`` is the regular grid; ``frames[k].position_mm`` is where slice k was measured
    (they differ by the jitter that the gate accepted: steps within 5 % of the spacing, and no slice
    more than half a spacing from its place).
    """

    frames: tuple[Frame, ...]
    grid: Grid

    def __post_init__(self) -> None:
        if len(self.frames) != self.grid.shape[0]:
            raise ValueError(f"{len(self.frames)} frames for {self.grid.shape[0]} slices")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate says of one series.

    Args:
        findings: Why the series is not one regular volume; each parks it.
        notes: What was accepted and should be known.
        stack: The volume, if there is no finding.
        images: Number of frames judged.
        orientations: Number of different plane orientations; 0 where none is known.
        normal: Row direction x column direction, where all frames agree.
        spacing_mm: Between slices, rows and columns, measured even where there are findings; None
            where it cannot be.
        has_gaps: Whether slices are missing inside the stack; None where that cannot be told.
    """

    findings: tuple[Reason, ...]
    notes: tuple[Reason, ...] = ()
    stack: Stack | None = None
    images: int
    orientations: int = 0
    normal: Triple | None = None
    spacing_mm: Triple | None = None
    has_gaps: bool | None = None

    def __post_init__(self) -> None:
        if (self.stack is None) != bool(self.findings):
            raise ValueError("a verdict has either findings or a stack")
