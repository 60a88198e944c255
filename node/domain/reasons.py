"""Reasons: why something was held, parked, refused a model or kept back, as a code with a sentence.

Programs compare codes; people read sentences. No code ever reads a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """What is the matter; the values are those of rows, ``--json`` and the API."""

    # a series is held
    IMAGES_REFUSED = "images_refused"
    COUNT_NOT_REACHED = "count_not_reached"
    LATE_IMAGES = "late_images"
    FILES_DELETED = "files_deleted"
    NOT_JUDGED = "not_judged"

    # a result was made, and is marked
    IMAGES_MISSING = "images_missing"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is the matter, told in one sentence without patient data."""

    code: ReasonCode
    sentence: str

    def __post_init__(self) -> None:
        if not self.sentence:
            raise ValueError("a reason needs a sentence")


def in_one_sentence(reasons: Iterable[Reason]) -> str:
    """All of them in one line."""
    return "; ".join(reason.sentence for reason in reasons)


def codes_of(reasons: Iterable[Reason]) -> list[str]:
    """Their codes, each once, in order: what a row keeps."""
    return list(dict.fromkeys(reason.code.value for reason in reasons))
