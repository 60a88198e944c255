"""What the gate says of a series: findings that park it, or the one volume that it is."""

from __future__ import annotations

from dataclasses import dataclass

from node.domain.frames import Triple
from node.domain.grid import Stack
from node.domain.reasons import Reason


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
