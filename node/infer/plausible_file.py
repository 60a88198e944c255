"""The part ``plausible`` of a model.yaml as values: names become label values, mistakes get paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from node.domain.segment import Segment, segments_named
from node.infer.model_file import BoundsPart, PlausiblePart
from node.infer.plausible import Bounds, Plausible, Ratio, Sides
from node.infer.runner_part import Mistake


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
