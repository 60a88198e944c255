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

    # a series is parked: the model of its rule cannot or must not be given it
    MODEL_DOES_NOT_TAKE = "model_does_not_take"
    MODEL_REFUSES = "model_refuses"
    TOO_LITTLE_BODY = "too_little_body"
    NOT_A_VOLUME = "not_a_volume"

    # a result is implausible: no patient has it
    IMPLAUSIBLE_VOLUME = "implausible_volume"
    IMPLAUSIBLE_EXTENT = "implausible_extent"
    IMPLAUSIBLE_RATIO = "implausible_ratio"
    IMPLAUSIBLE_SIDES = "implausible_sides"
    IMPLAUSIBLE_BORDER = "implausible_border"
    IMPLAUSIBLE_SHARE = "implausible_share"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is the matter, told in one sentence without patient data."""

    code: ReasonCode
    sentence: str

    def __post_init__(self) -> None:
        if not self.sentence:
            raise ValueError("a reason needs a sentence")


IMPLAUSIBLE_CODES = frozenset(code for code in ReasonCode if code.value.startswith("implausible_"))


def tells_implausible(codes: Iterable[str]) -> bool:
    """Whether codes of a row say that no patient has what the result shows."""
    return not IMPLAUSIBLE_CODES.isdisjoint(codes)


def in_one_sentence(reasons: Iterable[Reason]) -> str:
    """All of them in one line."""
    return "; ".join(reason.sentence for reason in reasons)


def codes_of(reasons: Iterable[Reason]) -> list[str]:
    """Their codes, each once, in order: what a row keeps."""
    return list(dict.fromkeys(reason.code.value for reason in reasons))
