"""Plausible: between which bounds the labels of a result can be a patient's, as a model.yaml says it.

The bounds are wide, so that what lies outside is not unusual but cannot be (a spleen of 30 litres).
Names become label values here, and mistakes get their paths; ``measure`` holds results to it.

Bounds of what a border cuts: upper ones hold all the same, lower ones and ratios do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from node.domain.segment import Segment, segments_named
from node.infer.model_file import BoundsPart, PlausiblePart
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
    reader = _Reader(segments, f"{place}: plausible")
    bounds = (*reader.labels(part), *reader.together(part))
    ratios, sides = tuple(reader.ratios(part)), tuple(reader.sides(part))
    low, high = part.share.min, part.share.max
    if low > high:
        reader.mistakes.append((f"{reader.where}.share", f"min {low:g} is above max {high:g}"))
        low, high = 0.0, 1.0
    found = Plausible(bounds=bounds, ratios=ratios, sides=sides, least_filled=low, most_filled=high)
    return found, reader.mistakes


class _Reader:
    def __init__(self, segments: Sequence[Segment], where: str) -> None:
        self._segments = segments
        self.where = where
        self.mistakes: list[Mistake] = []

    def labels(self, part: PlausiblePart) -> Iterator[Bounds]:
        for name, given in part.labels.items():
            where = f"{self.where}.labels.{name}"
            yield from self._bounds(name, self._values([name], where), given, where)

    def together(self, part: PlausiblePart) -> Iterator[Bounds]:
        for index, given in enumerate(part.together):
            where = f"{self.where}.together.{index}"
            values = (
                tuple(segment.label_value for segment in self._segments)
                if given.of == "all"
                else self._values(given.of, f"{where}.of")
            )
            yield from self._bounds(given.name, values, given, where)

    def ratios(self, part: PlausiblePart) -> Iterator[Ratio]:
        for index, given in enumerate(part.ratios):
            where = f"{self.where}.ratios.{index}"
            of, to = self._values(given.of, f"{where}.of"), self._values(given.to, f"{where}.to")
            try:
                yield Ratio(
                    name=given.name or f"{' + '.join(given.of)} : {' + '.join(given.to)}",
                    of=of,
                    to=to,
                    low=given.min or 0.0,
                    high=given.max or inf,
                    from_ml=given.from_ml,
                    is_for_cut=given.even_cut,
                )
            except ValueError as error:
                self.mistakes.append((where, str(error)))

    def sides(self, part: PlausiblePart) -> Iterator[Sides]:
        for index, name in enumerate(part.sides):
            pair = self._values([f"left {name}", f"right {name}"], f"{self.where}.sides.{index}")
            if len(pair) == 2:
                yield Sides(name=name, left=pair[0], right=pair[1])

    def _values(self, names: Sequence[str], where: str) -> tuple[int, ...]:
        try:
            found = segments_named(self._segments, names)
        except ValueError as error:
            self.mistakes.append((where, str(error)))
            return ()
        return tuple(segment.label_value for segment in found)

    def _bounds(
        self, name: str, values: tuple[int, ...], given: BoundsPart, where: str
    ) -> Iterator[Bounds]:
        try:
            yield Bounds(
                name=name,
                label_values=values,
                min_ml=given.min_ml or 0.0,
                min_cut_ml=given.min_cut_ml or 0.0,
                max_ml=given.max_ml or inf,
                max_mm=given.max_mm or inf,
                max_cut=1.0 if given.max_cut is None else given.max_cut,
                border=given.border,
            )
        except ValueError as error:
            self.mistakes.append((where, str(error)))
