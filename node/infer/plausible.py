"""Plausible: whether the labels of a result can be a patient's.

A model answers whatever it is given. Its model.yaml says between which bounds a result may lie; they
are wide, so that what lies outside is not unusual but cannot be (a spleen of 30 litres). What is
found is a list of reasons; nobody decides here what becomes of the result. Pure.

Bounds of what a border cuts: upper ones hold all the same, lower ones and ratios do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Literal

from node.domain.reasons import Reason, ReasonCode

if TYPE_CHECKING:  # who only lists models does not wait for numpy
    from node.infer.measure import Measure, Measured

# a label is on a side only where there is enough of it, and clearly
_SIDED_ML = 1.0
_SIDED_MM = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a label, or several as one thing, may be.

    Args:
        label_values: Of the labels; their volumes are added.
        min_ml: Where it is there and lies wholly inside of the volume.
        min_cut_ml: Where the border of the volume cuts it.
        max_mm: The longest edge of its bounding box.
        max_cut: Of ``Measure.cut``.
        border: Whether it may, or must, touch the border of the volume.
    """

    name: str
    label_values: tuple[int, ...]
    min_ml: float = 0.0
    min_cut_ml: float = 0.0
    max_ml: float = inf
    max_mm: float = inf
    max_cut: float = 1.0
    border: Literal["never", "always"] | None = None

    def __post_init__(self) -> None:
        if max(self.min_ml, self.min_cut_ml) > self.max_ml:
            raise ValueError(f"the smallest volume is above max_ml {self.max_ml:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The volume of some labels over that of others; of labels that are not there it is 0.

    Args:
        from_ml: It counts where there is so much of ``to``.
        is_for_cut: It counts even where the border of the volume cuts one of them.
    """

    name: str
    of: tuple[int, ...]
    to: tuple[int, ...]
    low: float = 0.0
    high: float = inf
    from_ml: float = 1.0
    is_for_cut: bool = False

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"min {self.low:g} is above max {self.high:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Two labels, of which the left one lies further on the patient's left: at a larger LPS x."""

    name: str
    left: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausible:
    """All that a model says of its results; the default says nothing."""

    bounds: tuple[Bounds, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    sides: tuple[Sides, ...] = ()
    least_filled: float = 0.0
    most_filled: float = 1.0

    def __post_init__(self) -> None:
        if self.least_filled > self.most_filled:
            raise ValueError(
                f"min {self.least_filled:g} is above max {self.most_filled:g} of the volume"
            )


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
    together = [b for b in plausible.bounds if len(b.label_values) > 1]
    alone = [b for b in plausible.bounds if len(b.label_values) == 1]
    return replace(
        plausible,
        bounds=(*alone, *(replace(b, min_ml=0.0, min_cut_ml=0.0) for b in together)),
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
