"""Between rows and values, and two statements that both databases write differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Table, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from node.database.engine import epoch_s
from node.domain.job import Settled
from node.domain.reasons import MARKS, Reason, reasons_from_json, reasons_to_json
from node.jobs.tables import job, result
from node.jobs.values import LABELS, LeasedJob, ResultFile, StoredResult


def clock(connection: Connection, now: float | None) -> float:
    """The time to decide by: the database's clock unless the caller says otherwise."""
    return epoch_s(connection) if now is None else now


def hold_study(connection: Connection, study_instance_uid: str) -> None:
    """Let one transaction at a time change the work of a study, until it ends.

    Revisions, shared jobs and withheld deliveries are decided over several rows. SQLite has one
    writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:study, 0))"),
            {"study": study_instance_uid},
        )


def say_why(connection: Connection, job_id: int, reasons: Iterable[Reason] = ()) -> None:
    """Say why a job is in its state; what its result is marked with stays."""
    had = connection.execute(select(job.c.reasons).where(job.c.id == job_id)).scalar_one()
    fresh = tuple(reasons)
    anew = {reason.code for reason in fresh}
    marks = [r for r in reasons_from_json(had) if r.code in MARKS and r.code not in anew]
    now = reasons_to_json([*marks, *fresh])
    if now != had:
        connection.execute(update(job).where(job.c.id == job_id).values(reasons=now))


def insert_if_absent(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique constraint says that it is there; True when it was inserted."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return connection.execute(statement).rowcount == 1


def result_of(row: Row[Any]) -> StoredResult:
    """A row of ``result`` as a value."""
    return StoredResult(
        id=row.id,
        job_id=row.job_id,
        state=row.state,
        file=ResultFile(
            form=row.form,
            part=row.part,
            file_name=row.file_name,
            size_bytes=row.size_bytes,
            sha256=row.sha256,
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            study_instance_uid=row.study_instance_uid,
            summary=row.summary,
        ),
    )


def files_of(connection: Connection, job_id: int) -> list[StoredResult]:
    """The files of a job's result that may be delivered and are still there; not its labels."""
    rows = connection.execute(
        select(result)
        .where(result.c.job_id == job_id, result.c.state != "deleted", result.c.form != LABELS)
        .order_by(result.c.id)
    )
    return [result_of(row) for row in rows]


def leased_job(connection: Connection, job_id: int) -> LeasedJob:
    """A row of ``job`` that was just leased."""
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    return LeasedJob(
        id=row.id,
        job_key=row.job_key,
        model=row.model,
        model_digest=row.model_digest,
        parameters=row.parameters,
        study_instance_uid=row.study_instance_uid,
        inputs=row.inputs,
        destinations=tuple(row.destinations),
        revision=row.revision,
        replaces=row.replaces,
        config_digest=row.config_digest,
        series_number=row.series_number,
        content_date=row.content_date,
        content_time=row.content_time,
        deadline_s=row.deadline_s,
        attempts=row.attempts,
        forms=tuple(row.forms),
        settled=Settled(row.settled),
    )
