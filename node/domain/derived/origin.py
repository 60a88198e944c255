"""How a series came: of its newest instance."""

from __future__ import annotations

from collections.abc import Callable

from node.domain.derived.attribute import DerivedAttribute, Kind, SeriesFacts
from node.domain.header import Missing, Value
from node.domain.instance import Origin, Transport


def _of_origin(
    value: Callable[[Origin], str], why_not: Callable[[Origin], str]
) -> Callable[[SeriesFacts], Value]:
    def of(facts: SeriesFacts) -> Value:
        if facts.origin is None:
            return Missing("no origin recorded")
        found = value(facts.origin)
        return (found,) if found else Missing(why_not(facts.origin))

    return of


def _without_titles(origin: Origin) -> str:
    return f"came by {origin.transport.value}, without AE titles"


ORIGIN = (
    DerivedAttribute(
        name="transport",
        kind=Kind.TEXT,
        values=tuple(each.value for each in Transport),
        meaning="how it came in",
        of=_of_origin(lambda origin: origin.transport.value, _without_titles),
    ),
    DerivedAttribute(
        name="peer",
        kind=Kind.TEXT,
        meaning="name of the configured peer that sent it",
        of=_of_origin(lambda origin: origin.peer, lambda _: "no configured peer sent it"),
    ),
    DerivedAttribute(
        name="calling_ae_title",
        kind=Kind.EXACT,
        meaning="how the sender called itself",
        of=_of_origin(lambda origin: origin.calling_ae_title, _without_titles),
    ),
    DerivedAttribute(
        name="called_ae_title",
        kind=Kind.EXACT,
        meaning="how the sender called this node",
        of=_of_origin(lambda origin: origin.called_ae_title, _without_titles),
    ),
)
