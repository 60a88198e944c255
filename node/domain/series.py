"""Series as rows: what the node knows and decided about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node.domain.reasons import Reason


class SeriesState(StrEnum):
    """Where a series stands, apart from what rules make of it."""

    RECEIVING = "receiving"
    HELD = "held"
    COMPLETE = "complete"
    DISCARDED = "discarded"


class Evidence(StrEnum):
    """What the completeness of a series rests on."""

    NONE = ""
    COUNT = "count"
    RELEASE = "release"
    QUIET = "quiet"
    QUIET_MAX = "quiet_max"
    GIVE_UP = "give_up"
    PERSON = "person"


class Forced(StrEnum):
    """What a person decided about a series."""

    PROCEED = "proceed"
    RERUN = "rerun"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRow:
    """One series.

    Args:
        header: ``Header.to_json()``.
        snapshot: SOP Instance UID -> version, of the revision in force; empty before the first.
        gate: Findings and notes of the geometry gate, each a list of reasons as JSON.
        evidence: What completion rests on.
        reasons: Why it is in its state.
        missing: Images known to be missing from the revision in force: refused and not come since,
            or short of a known count.
        forced: What a person asked for and the tick has not done yet.
        newest_row: Newest row of the index that this row takes into account.
        guard: Counts writes; a row is written only if nobody else wrote it meanwhile.
    """

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    modality: str = ""
    series_description: str = ""
    header: Mapping[str, Any] = field(default_factory=dict)
    instances: int
    frames: int
    first_received_at: float
    last_received_at: float
    revision: int = 0
    snapshot: Mapping[str, int] = field(default_factory=dict)
    state: SeriesState
    evidence: Evidence = Evidence.NONE
    gate: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    missing: int = 0
    forced: Forced | None = None
    updated_at: float
    newest_row: int = 0
    guard: int = 0
