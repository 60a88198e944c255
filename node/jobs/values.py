"""What goes into the jobs store and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from node.domain.delivery import FormsTaken
from node.domain.job import MatchState, Priority, Settled
from node.domain.reasons import Reason

LABELS = "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPart:
    """One series at one revision, as a part of what a rule judged."""

    series_instance_uid: str
    revision: int


MadeOf: TypeAlias = Mapping[str, SeriesPart]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchReport:
    """What became of a (series set, rule) without a job: held, unmatched, parked and the like.

    Args:
        series_key: Series Instance UID, of a set of several series their Study Instance UID.
        made_of: Role name -> the series that plays it.
        reasons: Why it is in its state.
        explanation: Clause tree as JSON.
    """

    rule: str
    study_instance_uid: str
    series_key: str
    made_of: MadeOf
    revision: int
    state: MatchState
    reasons: tuple[Reason, ...] = ()
    explanation: Any = None

    @property
    def roles(self) -> Mapping[str, str]:
        return {role: part.series_instance_uid for role, part in self.made_of.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A rule asks for a run.

    Args:
        inputs: Role -> {"series_instance_uid", "revision", "instances": {SOP UID: version},
            "missing"}; missing images are those that somebody went on without.
        destinations: Names, "sender" already resolved; an empty name says that it is unknown.
        taken: Which forms they take.
        taken_series_numbers: Series Numbers of the study that the node knows of.
        deadline_s: Longest run; a longer one is stopped and counts as a failed attempt.
        reasons: What its result will be marked with.
    """

    rule: str
    study_instance_uid: str
    series_key: str
    revision: int
    explanation: Any = None
    job_key: str
    model: str
    model_digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]]
    destinations: tuple[str, ...] = ()
    taken: FormsTaken = field(default_factory=FormsTaken)
    priority: Priority = Priority.NORMAL
    config_digest: str
    taken_series_numbers: frozenset[int] = frozenset()
    deadline_s: float = 1800.0
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A durable product of a job: the file is on the disk and synced before this is handed in.

    Args:
        form: ``labels``, or a form that a destination takes, such as ``seg``.
        part: Which part of the result it holds, where the form gives one file per part.
        file_name: Relative to the folder of results.
        sop_class_uid: Of a DICOM object; empty for any other file.
    """

    form: str
    part: str = ""
    file_name: str
    size_bytes: int
    sha256: str
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result row."""

    id: int
    job_id: int
    file: ResultFile
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedJob:
    """A job in the hands of one worker until ``lease_until``.

    Args:
        forms: What its result was made into already.
        settled: How it had ended before, where it is only to be made into more forms.
        content_date: DA, fixed when the job was made.
        content_time: TM, fixed when the job was made.
    """

    id: int
    job_key: str
    model: str
    model_digest: str
    parameters: Mapping[str, Any]
    study_instance_uid: str
    inputs: Mapping[str, Mapping[str, Any]]
    destinations: tuple[str, ...]
    revision: int
    replaces: str
    config_digest: str
    series_number: int
    content_date: str
    content_time: str
    deadline_s: float
    attempts: int
    forms: tuple[str, ...]
    settled: Settled


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedDelivery:
    """An outbox row in the hands of one sender until its lease ends.

    Args:
        sources: Role -> Series Instance UID of what the model was given.
    """

    id: int
    destination: str
    attempts: int
    model: str
    sources: Mapping[str, str]
    result: StoredResult
