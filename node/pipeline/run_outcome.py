"""What ``segnode run`` leaves: results under the series they were made of, and an account of all series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from sqlalchemy import Engine

from node.deliver import FolderDestination
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.domain.job import JobState, MatchState
from node.infer.registry import ModelSpec
from node.jobs.catalog import JobCatalog
from node.pipeline.build import Plan
from node.receive.folder import FileRefused
from node.spool.catalog import SpoolCatalog

OUTPUT = "output"

_EVERYTHING = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What one rule made of one series, or set of series.

    Args:
        state: A match state: done, unmatched, parked, failed and the like.
        file: The result, where there is one.
        volumes_ml: Segment name -> volume.
    """

    rule: str
    series_instance_uid: str
    state: str
    sentence: str = ""
    model: str = ""
    file: Path | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of everything in the folder."""

    series: Sequence[Mapping[str, Any]]
    outcomes: Sequence[RunOutcome]
    refused: Sequence[FileRefused]

    @property
    def is_good(self) -> bool:
        """Whether something was there and nothing that was begun failed."""
        return bool(self.series) and not any(outcome.is_failure for outcome in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """A destination that files results under the series they were made of."""

    path: Path

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Write the object; a result of a later revision gets a name of its own."""
        header = dcmread(deliverable.path, specific_tags=["ReferencedSeriesSequence"])
        source = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        outcome = self._folder(f"{source}/{{model}}.seg.{{ext}}").send(deliverable)
        if outcome.kind is DeliveryClass.BLOCKED:  # the name is taken by other content
            layout = f"{source}/{{model}}.{{SOPInstanceUID}}.seg.{{ext}}"
            return self._folder(layout).send(deliverable)
        return outcome

    def find(self, source_series: str, model: str, sop_instance_uid: str) -> Path | None:
        """Where an object lies that was written before."""
        folder = self.path / source_series
        names = (f"{model}.{sop_instance_uid}.seg.dcm", f"{model}.seg.dcm")
        return next((folder / name for name in names if (folder / name).is_file()), None)

    def _folder(self, layout: str) -> FolderDestination:
        return FolderDestination(name=OUTPUT, path=self.path, layout=layout)


def report_run(current: Plan, engine: Engine, refused: Sequence[FileRefused]) -> RunReport:
    """What became of each series and file, by the rows that the run left."""
    series, _ = SpoolCatalog(engine).list_series(limit=_EVERYTHING)
    matches, _ = JobCatalog(engine).list_matches(limit=_EVERYTHING)
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in matches:
        known = newest.get((row["rule"], row["series_key"]))
        if row["state"] != MatchState.SUPERSEDED and (
            known is None or known["revision"] < row["revision"]
        ):
            newest[row["rule"], row["series_key"]] = row
    in_force = [row for row in newest.values() if _is_in_force(row, newest)]
    outcomes = [_outcome(current, JobCatalog(engine), row) for row in in_force]
    outcomes += _never_judged(series, outcomes)
    return RunReport(
        series=series,
        outcomes=sorted(outcomes, key=lambda outcome: (outcome.series_instance_uid, outcome.rule)),
        refused=refused,
    )


def _is_in_force(
    row: Mapping[str, Any], newest: Mapping[tuple[str, str], Mapping[str, Any]]
) -> bool:
    """What an earlier judgement said of a series does not count beside the newest one."""
    same = (one["revision"] for (_, key), one in newest.items() if key == row["series_key"])
    return bool(row["revision"] == max(same))


def _outcome(current: Plan, catalog: JobCatalog, row: Mapping[str, Any]) -> RunOutcome:
    roles: Mapping[str, str] = row["roles"]
    job = catalog.get_job(row["job_id"]) if row["job_id"] is not None else None
    if job is None:
        return RunOutcome(
            rule=row["rule"],
            series_instance_uid=next(iter(roles.values())),
            state=row["state"],
            sentence=row["sentence"],
        )
    model = current.models[job["model"]]
    source = roles.get(model.grid_role) or next(iter(roles.values()))
    made = next((one for one in job["results"] if one["sop_instance_uid"]), None)
    output = current.destinations[OUTPUT]
    file = None
    if made is not None and isinstance(output, OutputFolder):
        file = output.find(source, model.name, made["sop_instance_uid"])
    unsent = [one["sentence"] for one in job["deliveries"] if one["sent_at"] is None]
    return RunOutcome(
        rule=row["rule"],
        series_instance_uid=source,
        state=row["state"],
        sentence="; ".join(filter(None, [job["sentence"], *unsent])),
        model=model.name,
        file=file,
        volumes_ml=volumes_by_name(model, made["summary"] if made else {}),
        stages=job["stages"],
        is_failure=job["state"] != JobState.DONE or (made is not None and file is None),
    )


def volumes_by_name(model: ModelSpec, summary: Mapping[str, Any]) -> Mapping[str, float]:
    """Segment name -> volume in ml, from the summary of a result."""
    return {
        model.segment_of[int(value)].name: float(volume_ml)
        for value, volume_ml in summary.get("volumes_ml", {}).items()
        if int(value) in model.segment_of
    }


def _never_judged(
    series: Sequence[Mapping[str, Any]], outcomes: Sequence[RunOutcome]
) -> list[RunOutcome]:
    """Series that are held: no rule was asked, and the reason stands in their row."""
    judged = {outcome.series_instance_uid for outcome in outcomes}
    return [
        RunOutcome(
            rule="",
            series_instance_uid=row["series_instance_uid"],
            state=row["state"],
            sentence=row["sentence"] or "only rules on sets of series could take it",
        )
        for row in series
        if row["series_instance_uid"] not in judged
    ]
