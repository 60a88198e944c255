"""The demo's account: how long each stretch of the road took, what was found, where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from node.batch.report import volumes_by_name
from node.jobs.catalog import JobCatalog
from node.pipeline.build import Plan
from node.spool.catalog import SpoolCatalog
from node.words import show_job, show_match, show_series

_EVERYTHING = 100_000
# stages of a job that the account shows; "shapes" and "compose" are parts of "infer"
_INNER = ("headers", "read", "infer", "keep labels", "encode", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportReport:
    """One series' way through the node.

    Args:
        stages_s: Stage -> seconds, in the order of the road.
        volumes_ml: Segment name -> volume.
        files: Where the result lies: as received by C-STORE, and on the shelf.
    """

    transport: str
    series_instance_uid: str
    instances: int
    state: str
    sentence: str
    stages_s: Mapping[str, float]
    volumes_ml: Mapping[str, float]
    files: Sequence[Path]


def report_transports(
    current: Plan, engine: Engine, folders: Sequence[Path]
) -> list[TransportReport]:
    """One report per series that came in, the first one first.

    Args:
        folders: Where results may lie outside the node.
    """
    spool, jobs = SpoolCatalog(engine), JobCatalog(engine)
    associations, _ = spool.list_associations(limit=_EVERYTHING)
    series, _ = spool.list_series(limit=_EVERYTHING)
    reports = []
    for row in reversed(series):
        whole = spool.get_series(row["series_instance_uid"]) or {}
        transport = whole["instance_list"][0]["transport"]
        matches = jobs.matches_of_series(row["series_instance_uid"])
        match = show_match(matches[0]) if matches else show_series(row)
        found = jobs.get_job(match["job_id"]) if match.get("job_id") else None
        job = show_job(found) if found else None
        sender = next((each for each in associations if each["transport"] == transport), None)
        reports.append(
            TransportReport(
                transport=transport,
                series_instance_uid=row["series_instance_uid"],
                instances=row["instances"],
                state=match["state"],
                sentence=(job or match)["sentence"],
                stages_s=_stages(row, sender, job) if job else {},
                volumes_ml=_volumes(current, job) if job else {},
                files=_files(folders, job) if job else (),
            )
        )
    return reports


def _stages(
    series: Mapping[str, Any], sender: Mapping[str, Any] | None, job: Mapping[str, Any]
) -> dict[str, float]:
    """How long each stretch of the road took, by the database's clock."""
    opened_at = sender["opened_at"] if sender else series["first_received_at"]
    arrived_at = max(series["last_received_at"], (sender or {}).get("closed_at") or 0.0)
    stages = {
        "receive": arrived_at - opened_at,
        "waiting for completion": job["created_at"] - arrived_at,
        "queued": (job["started_at"] or job["created_at"]) - job["created_at"],
    }
    inner = {name: job["stages"][name] for name in _INNER if name in job["stages"]}
    if job["started_at"] and job["finished_at"]:
        inner["rest of the job"] = job["finished_at"] - job["started_at"] - sum(inner.values())
    sent = [each["sent_at"] for each in job["deliveries"] if each["sent_at"]]
    if sent and job["finished_at"]:
        inner["deliver"] = max(sent) - job["finished_at"]
    if sent:
        inner["last image to last delivery"] = max(sent) - arrived_at
    return {**stages, **inner}


def _volumes(current: Plan, job: Mapping[str, Any]) -> Mapping[str, float]:
    made = next((one for one in job["results"] if one["sop_class_uid"]), None)
    return volumes_by_name(current.models[job["model"]], made["summary"]) if made else {}


def _files(folders: Sequence[Path], job: Mapping[str, Any]) -> list[Path]:
    """Where the result of a job lies outside the node."""
    uids = [one["sop_instance_uid"] for one in job["results"] if one["sop_class_uid"]]
    return [
        path for folder in folders for path in sorted(folder.rglob("*.dcm")) if path.stem in uids
    ]
