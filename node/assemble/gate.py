"""The gate: is a series one regular volume, and does each of its numbers mean something?

Every finding is collected, each with its numbers: a person who mends one fault should not meet the
next one an hour later. Any finding means that there is no stack, and so no GPU is used.

What is not a finding: which way the slices run, whether the stack is left- or right-handed, in
which order the images came. The stack is always ordered along the normal.

What stored values mean is judged beside it (see ``node.assemble.values``).

Source: PS3.3 C.7.6.2 (image plane), C.7.4.1 (Frame of Reference).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from node.assemble.planes import (
    REGULAR,
    ROUNDING,
    Floats,
    Planes,
    common_orientation,
    how_split,
    orientation_groups,
    planes_of,
    spans_a_plane,
    triple,
)
from node.assemble.values import judge_quantity, judge_values
from node.domain.frames import Frame, Triple
from node.domain.grid import GateVerdict, Grid, Stack
from node.domain.phase_hints import PhaseHints
from node.domain.quantity import Quantity
from node.domain.reasons import Reason, ReasonCode

DRIFT_PIXELS = 0.5
_SHORT_LIST = 12
_EQUAL_SPACING = 1e-3  # of the pixel spacing: half a pixel over 512


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumSize:
    """The smallest volume that a model takes."""

    slices: int = 1
    rows: int = 1
    columns: int = 1


def judge_geometry(
    frames: Sequence[Frame],
    minimum: MinimumSize | None = None,
    *,
    quantities: Collection[Quantity] = (),
    phase_hints: Sequence[PhaseHints] = (),
) -> GateVerdict:
    """Judge whether frames form one regular volume of at least the minimum size.

    Args:
        quantities: What the model takes; empty: any, even an unspecified one.
        phase_hints: For each frame, in the same order, what ``phase_hints_of`` read from its
            header; without them a mix of phases is found but its split is not named.
    """
    if not frames:
        return GateVerdict(findings=(Reason(ReasonCode.NO_IMAGES),), images=0)
    placed, unplaced = _placed(frames)
    groups = orientation_groups(placed)
    planes = planes_of(placed) if not unplaced and _is_one_plane(placed, groups) else None
    findings = [
        *_frame_of_reference(frames),
        *unplaced,
        *_orientations(placed, groups),
        *_matrix(frames, placed, groups),
    ]
    if planes is not None:
        findings += _positions(planes, phase_hints)
        findings += _steps(planes)
        findings += _drift(planes, frames[0].pixel_spacing_mm)
    findings += _size(frames, planes, minimum or MinimumSize(), is_explained=len(groups) > 1)
    findings += judge_values(frames)
    findings += judge_quantity(frames, quantities)
    return GateVerdict(
        findings=tuple(findings),
        notes=tuple(_jitter(planes)) if planes is not None and not findings else (),
        stack=_stack(frames, planes) if planes is not None and not findings else None,
        images=len(frames),
        orientations=len(groups),
        normal=triple(planes.normal) if planes is not None else None,
        spacing_mm=_spacing(frames, planes),
        has_gaps=bool(planes.gaps()) if planes is not None and planes.count > 1 else None,
    )


def is_regular(frames: Sequence[Frame], minimum_slices: int = 2) -> bool:
    """Whether the slices so far form one even stack, to which no slice is visibly missing.

    This is what more images could change, and so all that completion asks: one orientation, one
    image per plane, even steps. A wrong matrix size or a missing Frame of Reference will not be
    mended by waiting; the gate names them at once instead of after the longest wait.
    """
    if len(frames) < max(minimum_slices, 2):
        return False
    placed, unplaced = _placed(frames)
    if unplaced or not _is_one_plane(placed, orientation_groups(placed)):
        return False
    planes = planes_of(placed)
    return not planes.has_duplicates and planes.is_even


def _placed(frames: Sequence[Frame]) -> tuple[list[Frame], list[Reason]]:
    placed = [f for f in frames if f.position_mm is not None and f.orientation is not None]
    if len(placed) == len(frames):
        return placed, []
    absent = [
        name
        for name, values in (
            ("Image Position (Patient)", [f.position_mm for f in frames]),
            ("Image Orientation (Patient)", [f.orientation for f in frames]),
        )
        if None in values
    ]
    count = len(frames) - len(placed)
    facts = {"attributes": absent, "count": count, "of": len(frames)}
    return placed, [Reason(ReasonCode.NO_POSITION, facts)]


def _is_one_plane(placed: Sequence[Frame], groups: Sequence[Sequence[int]]) -> bool:
    return len(groups) == 1 and spans_a_plane(common_orientation(placed))


def _frame_of_reference(frames: Sequence[Frame]) -> Iterable[Reason]:
    uids = {frame.frame_of_reference_uid for frame in frames}
    named = uids - {None}
    if None in uids:
        count = sum(frame.frame_of_reference_uid is None for frame in frames)
        yield Reason(ReasonCode.NO_FRAME_OF_REFERENCE, {"count": count, "of": len(frames)})
    if len(named) > 1:
        yield Reason(ReasonCode.FRAMES_OF_REFERENCE_DIFFER, {"count": len(named)})


def _orientations(placed: Sequence[Frame], groups: Sequence[Sequence[int]]) -> Iterable[Reason]:
    if len(groups) > 1:
        parts = ([placed[i] for i in group] for group in groups)
        facts = {
            "sizes": [len(group) for group in groups],
            "could_be_split": all(len(part) > 2 and is_regular(part) for part in parts),
        }
        yield Reason(ReasonCode.ORIENTATIONS_DIFFER, facts)
    elif groups and not spans_a_plane(common_orientation(placed)):
        yield Reason(ReasonCode.ORIENTATION_MALFORMED)


def _matrix(
    frames: Sequence[Frame], placed: Sequence[Frame], groups: Sequence[Sequence[int]]
) -> Iterable[Reason]:
    """Unequal matrices and pixel spacings; those that a split by orientation mends are left out."""
    is_whole = len(placed) == len(frames) and groups
    parts = [[placed[i] for i in group] for group in groups] if is_whole else [list(frames)]
    if any(len({(f.rows, f.columns) for f in part}) > 1 for part in parts):
        sizes = Counter((f.rows, f.columns) for f in frames).most_common(3)
        yield Reason(ReasonCode.MATRIX_DIFFERS, {"sizes": [size for size, _ in sizes]})
    spacings = {f.pixel_spacing_mm for f in frames}
    absent = sum(f.pixel_spacing_mm is None for f in frames)
    malformed = sum(not _is_usable(f.pixel_spacing_mm) for f in frames) - absent
    if absent:
        yield Reason(ReasonCode.NO_PIXEL_SPACING, {"count": absent, "of": len(frames)})
    if malformed:
        yield Reason(ReasonCode.PIXEL_SPACING_MALFORMED, {"count": malformed, "of": len(frames)})
    if not absent + malformed and any(
        _spacing_differs({f.pixel_spacing_mm for f in part}) for part in parts
    ):
        known = sorted(s for s in spacings if s is not None)
        yield Reason(ReasonCode.PIXEL_SPACING_DIFFERS, {"spacings_mm": known[:3]})


def _is_usable(spacing: tuple[float, float] | None) -> TypeGuard[tuple[float, float]]:
    return spacing is not None and min(spacing) > 0.0 and max(spacing) < np.inf


def _spacing_differs(spacings: Iterable[tuple[float, float] | None]) -> bool:
    values = np.array([s for s in spacings if s is not None])
    return bool((np.ptp(values, axis=0) > _EQUAL_SPACING * values.min(axis=0)).any())


def _positions(planes: Planes, hints: Sequence[PhaseHints]) -> Iterable[Reason]:
    if not planes.has_duplicates:
        return
    images, count = len(planes.order), planes.count
    each = {len(plane) for plane in planes.members}
    if len(each) > 1:
        crowded = [i + 1 for i, plane in enumerate(planes.members) if len(plane) > 1]
        facts = {"most": max(each), "at_slices": crowded, "of": count}
        yield Reason(ReasonCode.SAME_POSITION, facts)
        return
    per_plane = each.pop()
    phases = how_split(planes.members, hints) if len(hints) == images and count > 1 else {}
    yield Reason(ReasonCode.SAME_POSITION, {"each": per_plane, "positions": count, **phases})


def _steps(planes: Planes) -> Iterable[Reason]:
    if planes.count < 2:
        return
    gaps, uneven = planes.gaps(), planes.uneven_steps()
    for before, missing in gaps[:_SHORT_LIST]:
        yield Reason(
            ReasonCode.GAP, {"missing": missing, "after_slice": before, **_measured(planes, before)}
        )
    if len(gaps) > _SHORT_LIST:
        yield Reason(ReasonCode.GAP, {"more": len(gaps) - _SHORT_LIST})
    if uneven:
        facts = {"after_slices": uneven[:_SHORT_LIST], "worst": planes.worst_uneven_step}
        yield Reason(ReasonCode.UNEVEN_SPACING, {**facts, **_measured(planes, uneven[0])})
    elif not gaps and not planes.is_even:
        yield Reason(ReasonCode.UNEVEN_SPACING, {"worst_place": planes.worst_place})


def _measured(planes: Planes, before: int) -> dict[str, object]:
    """The steps of a short stack, or the one step in question and the usual one."""
    steps = [float(step) for step in planes.steps_mm]
    if len(steps) <= _SHORT_LIST:
        return {"steps_mm": steps}
    return {"step_mm": steps[before - 1], "elsewhere_mm": float(planes.spacing_mm)}


def _drift(planes: Planes, pixel_spacing_mm: tuple[float, float] | None) -> Iterable[Reason]:
    if planes.count < 2 or not _is_usable(pixel_spacing_mm):
        return
    pixels, drift = planes.drift_pixels(pixel_spacing_mm)
    if drift <= DRIFT_PIXELS + ROUNDING:
        return
    facts = {"drift_pixels": float(drift)}
    if _is_along_a_line(pixels):
        facts["degrees"] = float(planes.shear_degrees())
    yield Reason(ReasonCode.SHEAR, facts)


def _is_along_a_line(pixels: Floats) -> bool:
    """Whether sideways movement grows with the slices, as under a tilted gantry."""
    index = np.linspace(0.0, 1.0, len(pixels))[:, None]
    return float(np.linalg.norm(pixels - index * pixels[-1], axis=1).max()) <= DRIFT_PIXELS


def _jitter(planes: Planes) -> Iterable[Reason]:
    if planes.count > 1 and planes.worst_step > REGULAR + ROUNDING:
        facts = {
            "worst": float(planes.worst_step),
            "low_mm": float(planes.steps_mm.min()),
            "high_mm": float(planes.steps_mm.max()),
            "median_mm": float(planes.spacing_mm),
        }
        yield Reason(ReasonCode.SPACING_JITTER, facts)


def _size(
    frames: Sequence[Frame], planes: Planes | None, minimum: MinimumSize, *, is_explained: bool
) -> Iterable[Reason]:
    """Too few slices, rows or columns; a mix of images is named as such and not counted."""
    is_mix = is_explained or (planes is not None and planes.has_duplicates)
    if len(frames) == 1:
        yield Reason(ReasonCode.ONE_SLICE)
    elif not is_mix and len(frames) < minimum.slices:
        yield Reason(ReasonCode.TOO_SMALL, {"slices": len(frames), "needed": minimum.slices})
    rows, columns = min(f.rows for f in frames), min(f.columns for f in frames)
    if rows < minimum.rows or columns < minimum.columns:
        facts = {"pixels": (rows, columns), "needed": (minimum.rows, minimum.columns)}
        yield Reason(ReasonCode.TOO_SMALL, facts)


def _spacing(frames: Sequence[Frame], planes: Planes | None) -> Triple | None:
    spacings = {f.pixel_spacing_mm for f in frames}
    first = frames[0].pixel_spacing_mm
    if planes is None or planes.count < 2 or first is None:
        return None
    if not all(map(_is_usable, spacings)) or _spacing_differs(spacings):
        return None
    return (round(planes.spacing_mm, 6), *first)  # binary noise must not decide a rule


def _stack(frames: Sequence[Frame], planes: Planes) -> Stack:
    ordered = tuple(frames[i] for i in planes.order)
    first = ordered[0]
    spacing, uid = first.pixel_spacing_mm, first.frame_of_reference_uid
    if spacing is None or uid is None:
        raise ValueError("a stack without Pixel Spacing or Frame of Reference")
    origin, step = planes.resampling
    row, column = np.array(planes.orientation[:3]), np.array(planes.orientation[3:])
    # one row further moves along the column cosines, PS3.3 C.7.6.2.1.1
    steps = (triple(step), triple(column * spacing[0]), triple(row * spacing[1]))
    grid = Grid(
        shape=(len(ordered), first.rows, first.columns),
        origin_mm=triple(origin),
        steps_mm=steps,
        frame_of_reference_uid=uid,
    )
    return Stack(frames=ordered, grid=grid)
