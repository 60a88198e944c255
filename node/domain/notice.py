"""Notices: what people are told of the node, and what became of telling them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from node.domain.reasons import Facts


class Course(StrEnum):
    """What of a finding is told."""

    BEGAN = "began"
    GREW = "grew"  # there is more of it than was told
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell; it names no patient.

    Args:
        id: The same at every attempt: who gets it twice knows that.
        code: Of the finding, as in ``HealthCode``; ``test`` for one that says that nothing is.
        at: Epoch seconds: since when it is so, or since when it is over.
        sentence: What is the matter; ``do``: what to do about it.
    """

    id: str
    code: str
    course: Course
    at: float
    sentence: str
    do: str
    subject: str = ""
    facts: Facts

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "subject": self.subject,
            "course": self.course.value,
            "facts": dict(self.facts),
            "sentence": self.sentence,
            "do": self.do,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How one attempt to tell ended.

    Args:
        sentence: Why it was not told; no secret, no patient.
        retry_after_s: What the other side asked for.
    """

    is_told: bool
    sentence: str = ""
    retry_after_s: float | None = None
