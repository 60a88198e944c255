"""Plausible: between which bounds the labels of a result can be a patient's, as a model.yaml says it.

The bounds are wide, so that what lies outside is not unusual but cannot be (a spleen of 30 litres).
Names become label values here, and mistakes get their paths; ``measure`` holds results to it.

Bounds of what a border cuts: upper ones hold all the same, lower ones and ratios do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from node.domain.segment import Segment, segments_named
from node.infer.model_file import BoundsPart, PlausiblePart, RatioPart
from node.infer.runner_part import Mistake


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


def read_plausible(
    part: PlausiblePart, segments: Sequence[Segment], place: str
) -> tuple[Plausible, list[Mistake]]:
    """The bounds, and what is wrong with them as (``place: key``, sentence)."""
    mistakes: list[Mistake] = []

    @contextmanager
    def at(key: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            mistakes.append((f"{place}: plausible.{key}", str(error)))

    def values(names: Sequence[str], key: str) -> tuple[int, ...]:
        found: list[Segment] = []
        with at(key):
            found = segments_named(segments, names)
        return tuple(segment.label_value for segment in found)

    bounds, ratios, sides = [], [], []
    for name, alone in part.labels.items():
        labels = values([name], f"labels.{name}")
        with at(f"labels.{name}"):
            bounds.append(_bounds(name, labels, alone))
    for index, several in enumerate(part.together):
        if several.of == "all":
            labels = tuple(segment.label_value for segment in segments)
        else:
            labels = values(several.of, f"together.{index}.of")
        with at(f"together.{index}"):
            bounds.append(_bounds(several.name, labels, several))
    for index, ratio in enumerate(part.ratios):
        of = values(ratio.of, f"ratios.{index}.of")
        to = values(ratio.to, f"ratios.{index}.to")
        with at(f"ratios.{index}"):
            ratios.append(_ratio(of, to, ratio))
    for index, name in enumerate(part.sides):
        pair = values([f"left {name}", f"right {name}"], f"sides.{index}")
        if len(pair) == 2:
            sides.append(Sides(name=name, left=pair[0], right=pair[1]))
    found = Plausible(bounds=tuple(bounds), ratios=tuple(ratios), sides=tuple(sides))
    low, high = part.share.min, part.share.max
    if low > high:
        mistakes.append((f"{place}: plausible.share", f"min {low:g} is above max {high:g}"))
        return found, mistakes
    return replace(found, least_filled=low, most_filled=high), mistakes


def _bounds(name: str, labels: tuple[int, ...], given: BoundsPart) -> Bounds:
    limits = given.model_dump(exclude={"name", "of"}, exclude_none=True)
    return Bounds(name=name, label_values=labels, **limits)


def _ratio(of: tuple[int, ...], to: tuple[int, ...], given: RatioPart) -> Ratio:
    return Ratio(
        name=given.name or f"{' + '.join(given.of)} : {' + '.join(given.to)}",
        of=of,
        to=to,
        low=given.min or 0.0,
        high=given.max or inf,
        from_ml=given.from_ml,
        is_for_cut=given.even_cut,
    )
