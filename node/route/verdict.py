"""Verdicts: true, false, or unknown with the reason, and how they combine.

and, or and not are Kleene's: unknown stays unknown unless the other side decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from node.domain.header import Scalar


class Truth(StrEnum):
    """What is known about a clause."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, known: bool) -> Truth:
        """True or false."""
        return cls.TRUE if known else cls.FALSE

    def negated(self) -> Truth:
        """Kleene not."""
        return {self.TRUE: Truth.FALSE, self.FALSE: Truth.TRUE}.get(self, Truth.UNKNOWN)


def all_of(truths: Iterable[Truth]) -> Truth:
    """Kleene and: one false decides, then one unknown."""
    found = set(truths)
    if Truth.FALSE in found:
        return Truth.FALSE
    return Truth.UNKNOWN if Truth.UNKNOWN in found else Truth.TRUE


def any_of(truths: Iterable[Truth]) -> Truth:
    """Kleene or: one true decides, then one unknown."""
    found = set(truths)
    if Truth.TRUE in found:
        return Truth.TRUE
    return Truth.UNKNOWN if Truth.UNKNOWN in found else Truth.FALSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one clause says about one header.

    Args:
        name: The attribute, or ``all``, ``any``, ``not`` for a clause of clauses.
        clause: The clause as text, the way it stands in the rule.
        asked: The same without the attribute; empty for a clause of clauses.
        reason: Why it is unknown, without any value; empty for true and false.
        found: The values it was decided by: for a screen, never for a row or a log.
    """

    truth: Truth
    name: str
    clause: str
    asked: str = ""
    reason: str = ""
    found: tuple[Scalar, ...] = ()
    children: tuple[Verdict, ...] = ()

    def leaves(self) -> Iterator[Verdict]:
        """The clauses about single attributes, in the order of the rule."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()
