"""Contrast: whether an agent was given, said only where attributes and names agree.

Source: PS3.3 C.7.6.4 (contrast/bolus).
"""

from __future__ import annotations

import re

from node.domain.derived.attribute import DerivedAttribute, Kind
from node.domain.header import Header, Missing, Value

_NO_AGENT = frozenset({"NO", "NONE", "N", "NO CONTRAST", "NON CONTRAST", "WITHOUT", "W/O"})
_WITHOUT = re.compile(
    r"\b(without|w o|wo|non|no|pre|ohne|sans)( (iv|contrast|gad|gd|km|kontrast|c))+\b"
    r"|\b(non ?contrast|unenhanced|nativ|native|precontrast|nect|ncct)\b"
)
_WITH = re.compile(
    r"\b(with|post|after|mit|avec) ?(iv |contrast|gad|gd|km\b|kontrast|and without)"
    r"|\b(postcontrast|ce|cect|t1c|t1ce|\+c|c\+|\+gd|gd\+|\+km)(?!\w)|(?<!\w)(\+c|\+gd|\+km)(?!\w)"
)


def contrast_of(header: Header) -> Value:
    """Whether a contrast agent was given, by attributes first and then by names.

    An absent or empty agent is no denial: many scanners leave it empty whatever was injected.
    """
    recorded = _recorded_contrast(header)
    named = _named_contrast(header)
    if recorded is None and named is None:
        return Missing("neither ContrastBolusAgent nor a name tells")
    if recorded is not None and named is not None and recorded != named:
        return Missing("ContrastBolusAgent and the series' name contradict each other")
    return (bool(named) if recorded is None else recorded,)


def _recorded_contrast(header: Header) -> bool | None:
    agent = header.text("ContrastBolusAgent")
    if agent:
        return agent.strip().upper() not in _NO_AGENT
    volume = header.known("ContrastBolusVolume")[:1]
    return True if any(isinstance(ml, int | float) and ml > 0 for ml in volume) else None


def _named_contrast(header: Header) -> bool | None:
    text = " ".join(header.text(name) for name in ("SeriesDescription", "ProtocolName"))
    words = re.sub(r"[^a-z0-9+]+", " ", text.lower())
    without, given = bool(_WITHOUT.search(words)), bool(_WITH.search(words))
    return None if without == given else given


CONTRAST = DerivedAttribute(
    name="contrast",
    kind=Kind.FLAG,
    meaning="a contrast agent was given",
    of=lambda facts: contrast_of(facts.header),
)
