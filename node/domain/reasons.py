"""Reasons: why something is as it is, as a code with facts.

Programs compare codes and read facts; ``node.words`` puts both into words for people. No code ever
reads a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from types import MappingProxyType
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]


class ReasonCode(StrEnum):
    """What is the matter; the values are those of rows, ``--json`` and the API."""

    # a series is held
    IMAGES_REFUSED = "images_refused"
    COUNT_NOT_REACHED = "count_not_reached"
    LATE_IMAGES = "late_images"
    FILES_DELETED = "files_deleted"
    NOT_JUDGED = "not_judged"
    PROCESS_DIED = "process_died"

    # a result was made, and is marked
    IMAGES_MISSING = "images_missing"

    # how a series arrives, and what completes it
    COUNT_SHORT = "count_short"
    COUNT_JUST_REACHED = "count_just_reached"
    COUNT_REACHED = "count_reached"
    JUST_RELEASED = "just_released"
    RELEASED = "released"
    NOT_REGULAR_YET = "not_regular_yet"
    ABORTED = "aborted"
    NO_HEARTBEAT = "no_heartbeat"
    NOT_QUIET_YET = "not_quiet_yet"
    QUIET = "quiet"
    QUIET_LONG = "quiet_long"
    GAVE_UP_WAITING = "gave_up_waiting"
    PERSON_WENT_ON = "person_went_on"
    PERSON_DISCARDED = "person_discarded"
    AS_SETTLED = "as_settled"
    NO_INPUT = "no_input"

    # the gate: no one regular volume
    NO_IMAGES = "no_images"
    TOO_MANY_FRAMES = "too_many_frames"
    NO_FRAME_OF_REFERENCE = "no_frame_of_reference"
    FRAMES_OF_REFERENCE_DIFFER = "frames_of_reference_differ"
    NO_POSITION = "no_position"
    ORIENTATIONS_DIFFER = "orientations_differ"
    ORIENTATION_MALFORMED = "orientation_malformed"
    MATRIX_DIFFERS = "matrix_differs"
    NO_PIXEL_SPACING = "no_pixel_spacing"
    PIXEL_SPACING_MALFORMED = "pixel_spacing_malformed"
    PIXEL_SPACING_DIFFERS = "pixel_spacing_differs"
    SAME_POSITION = "same_position"
    GAP = "gap"
    UNEVEN_SPACING = "uneven_spacing"
    SHEAR = "shear"
    ONE_SLICE = "one_slice"
    TOO_SMALL = "too_small"

    SPACING_JITTER = "spacing_jitter"

    # the gate: what the stored values mean
    PIXEL_BITS_ABSENT = "pixel_bits_absent"
    PIXEL_BITS_CONTRADICT = "pixel_bits_contradict"
    PADDING_MALFORMED = "padding_malformed"
    RESCALE_ABSENT = "rescale_absent"
    RESCALE_MALFORMED = "rescale_malformed"
    RESCALE_SLOPE_ZERO = "rescale_slope_zero"
    MODALITY_LUT_MALFORMED = "modality_lut_malformed"
    MODALITY_LUT_AND_RESCALE = "modality_lut_and_rescale"
    QUANTITY_DIFFERS = "quantity_differs"
    QUANTITY_NOT_TAKEN = "quantity_not_taken"
    SUV_NOT_COMPUTABLE = "suv_not_computable"

    # what rules make of it
    NO_RULE_FIRED = "no_rule_fired"
    ROLE_EMPTY = "role_empty"
    ONE_SERIES_FOR_ROLES = "one_series_for_roles"
    SEVERAL_SERIES_FIT = "several_series_fit"
    BEST_FOR_ROLES = "best_for_roles"
    PATIENTS_DIFFER = "patients_differ"

    # the model of the rule does not take it, or must not be given it
    NOT_ACCEPTED = "not_accepted"
    MODEL_REFUSES = "model_refuses"
    TOO_LITTLE_BODY = "too_little_body"

    # a result is implausible: no patient has it
    IMPLAUSIBLE_VOLUME = "implausible_volume"
    IMPLAUSIBLE_EXTENT = "implausible_extent"
    IMPLAUSIBLE_RATIO = "implausible_ratio"
    IMPLAUSIBLE_SIDES = "implausible_sides"
    IMPLAUSIBLE_BORDER = "implausible_border"
    IMPLAUSIBLE_SHARE = "implausible_share"

    # how a job and its deliveries went
    ATTEMPT_FAILED = "attempt_failed"
    WORKER_LOST = "worker_lost"
    KILLS_WORKERS = "kills_workers"
    RESOURCE_SHORT = "resource_short"
    CANCELLED = "cancelled"
    MODEL_CHANGED = "model_changed"
    SUPERSEDED = "superseded"
    TAKEN_ALL_THE_SAME = "taken_all_the_same"
    NOTHING_FOUND = "nothing_found"
    NOTED = "noted"
    RESULT_IMPLAUSIBLE = "result_implausible"
    NO_DESTINATION = "no_destination"
    DELIVERY_TRIED = "delivery_tried"
    DELIVERY_BLOCKED = "delivery_blocked"

    # a row of an older version, whose sentence is all that is known
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is the matter, or how something went.

    Args:
        facts: Counts, measures and names that JSON can carry, never patient data; ``told`` is free
            text, of a runner or a peer, that nobody reads but people.
    """

    code: ReasonCode
    facts: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        frozen = {name: _frozen(value) for name, value in self.facts.items()}
        object.__setattr__(self, "facts", MappingProxyType(frozen))

    def __hash__(self) -> int:
        return hash((self.code, json.dumps(self.to_json()["facts"], sort_keys=True)))

    def having(self, **facts: Any) -> Reason:
        return Reason(self.code, {**self.facts, **facts})

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code.value, "facts": {k: _thawed(v) for k, v in self.facts.items()}}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Reason:
        return cls(ReasonCode(body["code"]), body["facts"])


def told(code: ReasonCode, text: str) -> Reason:
    """A reason of which all that is known is what somebody said."""
    return Reason(code, {"told": text})


IMPLAUSIBLE_CODES = frozenset(code for code in ReasonCode if code.value.startswith("implausible_"))

# what stays with a job whatever becomes of it: its object says so, too
MARKS = IMPLAUSIBLE_CODES | {ReasonCode.IMAGES_MISSING}

# how things go: nothing is the matter
_COURSE = frozenset(
    {
        *(ReasonCode.COUNT_SHORT, ReasonCode.COUNT_JUST_REACHED, ReasonCode.COUNT_REACHED),
        *(ReasonCode.JUST_RELEASED, ReasonCode.RELEASED, ReasonCode.NOT_REGULAR_YET),
        *(ReasonCode.ABORTED, ReasonCode.NO_HEARTBEAT, ReasonCode.NOT_QUIET_YET),
        *(ReasonCode.QUIET, ReasonCode.QUIET_LONG, ReasonCode.GAVE_UP_WAITING),
        *(ReasonCode.PERSON_WENT_ON, ReasonCode.PERSON_DISCARDED, ReasonCode.AS_SETTLED),
        *(ReasonCode.NO_INPUT, ReasonCode.NO_RULE_FIRED, ReasonCode.SPACING_JITTER),
        *(ReasonCode.CANCELLED, ReasonCode.MODEL_CHANGED, ReasonCode.SUPERSEDED),
        ReasonCode.TAKEN_ALL_THE_SAME,
        *(ReasonCode.NOTHING_FOUND, ReasonCode.NOTED, ReasonCode.TOLD),
    }
)


def tells_implausible(reasons: Iterable[Reason]) -> bool:
    """Whether reasons of a job say that no patient has what the result shows."""
    return any(reason.code in IMPLAUSIBLE_CODES for reason in reasons)


def has_code(reasons: Iterable[Reason], code: ReasonCode) -> bool:
    return any(reason.code is code for reason in reasons)


def codes_of(reasons: Iterable[Reason]) -> list[str]:
    """Codes of what is the matter, each once, in order; how things went is left out."""
    return list(dict.fromkeys(r.code.value for r in reasons if r.code not in _COURSE))


def reasons_to_json(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    """What a row keeps of them."""
    return [reason.to_json() for reason in dict.fromkeys(reasons)]


def reasons_from_json(body: Sequence[Mapping[str, Any]]) -> tuple[Reason, ...]:
    return tuple(Reason.from_json(each) for each in body)


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no such number
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is no plain fact")


def _thawed(value: Any) -> Any:
    return [_thawed(each) for each in value] if isinstance(value, tuple) else value
