"""What a rule may ask for: its name, how its values compare, and, of a derived one, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from node.domain.frames import Frame
from node.domain.grid import GateVerdict
from node.domain.header import Header, Missing, Scalar, Value
from node.domain.instance import Origin


class Kind(StrEnum):
    """How values of an attribute are compared."""

    TEXT = "text"  # trimmed and without case
    EXACT = "exact text"  # trimmed; case matters (AE titles, UIDs)
    NUMBER = "number"
    AGE = "age"  # AS: ranges in years, or the text as it stands ("045Y")
    FLAG = "true or false"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """All that an attribute may be derived from.

    Args:
        header: What all instances of the series have in common.
        verdict: The gate's, over the same frames.
        origin: Of the newest instance; None where none was recorded.
    """

    header: Header
    frames: Sequence[Frame]
    verdict: GateVerdict
    origin: Origin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One name that a clause may use.

    Args:
        is_single: At most one value, so that two different values contradict each other.
        values: All values a text may have; empty for free text.
    """

    name: str
    kind: Kind
    is_single: bool = True
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedAttribute(Attribute):
    """An attribute of our own.

    Args:
        meaning: For ``docs/rules.md``.
        of: Its values, or ``Missing`` with the reason: what the headers do not tell is unknown.
    """

    meaning: str
    of: Callable[[SeriesFacts], Value]


def told(value: Scalar | None, why_not: str) -> Value:
    """One value, or why there is none."""
    return Missing(why_not) if value is None else (value,)
