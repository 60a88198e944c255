"""Instances and series as the node knows them: identity, origin, state.

Source: PS3.3 C.7.3.1 (series), C.12.1 (SOP common); PS3.4 Annex B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node.domain.reasons import Reason
from node.domain.uids import is_uid


class Transport(StrEnum):
    """How an instance came in."""

    DIMSE = "dimse"
    STOW = "stow"
    FOLDER = "folder"


class Ending(StrEnum):
    """How an association ended; a STOW-RS request and a folder scan are one each.

    Source: PS3.8 7.2 (release), 7.3 (abort).
    """

    RELEASED = "released"
    ABORTED = "aborted"


class InstanceState(StrEnum):
    """What became of a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    AMENDED = "amended"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who sent something, as far as the transport tells.

    Args:
        association_id: Row of the association, STOW request or folder scan that carried it.
        peer: Name of the configured peer that the sender was matched with, or empty.
    """

    transport: Transport
    association_id: str
    peer: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    address: str = ""
    http_user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One stored SOP instance: an index row without its pixels.

    Args:
        version: 1 for the first copy kept, higher for amended copies; the highest holds the header
            in force.
        file_name: Relative to the spool's folder of instances.
        data_offset: Where the data set starts in the file, after preamble and group 0002.
        received_sha256: Of the data-set bytes as received.
        pixel_identity: ``received_sha256`` of the version that first brought these pixels and this
            geometry: an amended copy inherits it, so a corrected name never runs a model again.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    version: int = 1
    file_name: str
    data_offset: int
    size_bytes: int
    received_sha256: str
    pixel_identity: str
    is_input: bool
    received_at: float
    origin: Origin

    def __post_init__(self) -> None:
        uids = (self.sop_instance_uid, self.study_instance_uid, self.series_instance_uid)
        if not all(is_uid(uid) for uid in uids):
            raise ValueError("an instance needs valid study, series and SOP instance UIDs")


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
    series_number: int | None = None
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
