"""A derived attribute, as somebody would add it: how long the series' name is."""

from __future__ import annotations

from node.domain.derived.attribute import DerivedAttribute, Kind, SeriesFacts
from node.domain.header import Missing, Value


def _length(facts: SeriesFacts) -> Value:
    text = facts.header.text("SeriesDescription")
    return (len(text),) if text else Missing("the series has no name")


NAME_LENGTH = DerivedAttribute(
    name="name_length", kind=Kind.NUMBER, meaning="characters of Series Description", of=_length
)
