"""What ``segnode run`` leaves: an account of all series and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from sqlalchemy import Engine

from node.batch.take_in import TakenIn
from node.batch.workers import seconds_of
from node.batch.writer import ResultWriter, WrittenFiles, source_of
from node.database.pages import every
from node.domain.header import Header
from node.domain.instance import SeriesState
from node.domain.job import JobState, MatchState
from node.infer.registry import ModelSpec
from node.jobs.catalog import JobCatalog
from node.jobs.values import LABELS
from node.pipeline.build import Plan
from node.spool.catalog import SpoolCatalog
from node.words import Audience, show_job, show_match, show_series

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What one rule made of one series, or set of series.

    Args:
        state: A match state: done, unmatched, parked, failed, implausible and the like.
        reasons: Codes of ``node.domain.reasons``.
        files: Form and path of each file that was written.
        volumes_ml: Segment name -> volume.
        seconds: From the start of the job's last attempt to its end.
    """

    rule: str
    series_instance_uid: str
    state: str
    sentence: str = ""
    reasons: tuple[str, ...] = ()
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[tuple[str, Path], ...] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of everything in the folder.

    Args:
        seconds: The whole run.
    """

    series: Sequence[Row]
    outcomes: Sequence[RunOutcome]
    files: TakenIn
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether something was there and nothing that was begun failed."""
        return bool(self.series) and not any(outcome.is_failure for outcome in self.outcomes)


def report_run(
    current: Plan, engine: Engine, writer: ResultWriter, files: TakenIn, *, seconds: float
) -> RunReport:
    """What became of each series and file, by the rows that the run left."""
    catalog, spool = JobCatalog(engine), SpoolCatalog(engine)
    audience = _audience(current)
    series = [show_series(row, audience) for row in every(spool.list_series)]
    outcomes = [
        _outcome(current, catalog, writer, show_match(row, audience), audience)
        for row in matches_in_force(catalog)
    ]
    outcomes += _never_judged(series, outcomes)
    outcomes = [_with_kind(spool, outcome) for outcome in outcomes]
    return RunReport(
        series=series,
        outcomes=sorted(outcomes, key=lambda outcome: (outcome.series_instance_uid, outcome.rule)),
        files=files,
        seconds=seconds,
    )


def matches_in_force(catalog: JobCatalog) -> list[Row]:
    """What the newest judgement of each series, or set, says; earlier ones do not count beside it."""
    last: dict[str, int] = {}
    matches = [match for match in catalog.every_match() if match["state"] != MatchState.SUPERSEDED]
    for match in matches:
        key = match["series_key"]
        last[key] = max(match["revision"], last.get(key, 0))
    return [match for match in matches if match["revision"] == last[match["series_key"]]]


def jobs_in_force(catalog: JobCatalog, *states: JobState) -> Iterator[Row]:
    """The jobs in one of these states that the newest judgements ask for."""
    for job_id in {match["job_id"] for match in matches_in_force(catalog)} - {None}:
        job = catalog.get_job(job_id)
        if job is not None and job["state"] in states:
            yield job


def _audience(current: Plan) -> Audience:
    """Where models were asked for there are rules, one for each, but nobody has written any."""
    is_of_models = all(active.rule.name == active.model.name for active in current.rules)
    return Audience.RUN_OF_MODELS if is_of_models else Audience.RUN


def _outcome(
    current: Plan, catalog: JobCatalog, writer: ResultWriter, row: Row, audience: Audience
) -> RunOutcome:
    found = catalog.get_job(row["job_id"]) if row["job_id"] is not None else None
    if found is None:
        return RunOutcome(
            rule=row["rule"],
            series_instance_uid=next(iter(row["roles"].values())),
            state=row["state"],
            sentence=row["sentence"],
            reasons=tuple(row["reasons"]),
        )
    job = show_job(found, audience)
    model = current.models[job["model"]]
    is_done = job["state"] == JobState.DONE
    written = writer.written(job) if is_done else WrittenFiles()
    labels = next((one for one in job["results"] if one["form"] == LABELS), None)
    return RunOutcome(
        rule=row["rule"],
        series_instance_uid=source_of(job, model),
        state=row["state"],
        sentence="; ".join(filter(None, [job["sentence"], written.sentence])),
        reasons=tuple(row["reasons"]),
        model=model.name,
        parameters=job["parameters"],
        files=written.files,
        volumes_ml=volumes_by_name(model, labels["summary"] if labels else {}),
        stages=job["stages"],
        seconds=seconds_of(job) if is_done else None,
        is_failure=not is_done or bool(written.sentence),
    )


def volumes_by_name(model: ModelSpec, summary: Mapping[str, Any]) -> Mapping[str, float]:
    """Segment name -> volume in ml, from the summary of a result."""
    return {
        model.segment_of[int(value)].name: float(volume_ml)
        for value, volume_ml in summary.get("volumes_ml", {}).items()
        if int(value) in model.segment_of
    }


def _never_judged(series: Sequence[Row], outcomes: Sequence[RunOutcome]) -> list[RunOutcome]:
    """Series that are held: no rule was asked, and the reason stands in their row."""
    judged = {outcome.series_instance_uid for outcome in outcomes}
    return [
        RunOutcome(
            rule="",
            series_instance_uid=row["series_instance_uid"],
            state=row["state"],
            sentence=row["sentence"] or "only rules on sets of series could take it",
            reasons=tuple(row["reasons"]),
            is_failure=row["state"] == SeriesState.HELD.value,
        )
        for row in series
        if row["series_instance_uid"] not in judged
    ]


def _with_kind(spool: SpoolCatalog, outcome: RunOutcome) -> RunOutcome:
    """The outcome of a series that no model took, with what the series is."""
    if outcome.model:
        return outcome
    row = spool.get_series(outcome.series_instance_uid)
    header = Header.from_json(row["header"] or {}) if row else Header()
    kind = ""
    if outcome.state == MatchState.NOT_AN_INPUT:
        kind = f"{UID(header.text('SOPClassUID')).name or 'mixed classes'}: "
    elif header.get("is_localizer") == (True,):
        kind = "localizer: "
    return replace(outcome, sentence=kind + outcome.sentence)
