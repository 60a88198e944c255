"""Matches: what became of each (series set, rule), revision by revision; a match follows its job.

Below them what every change of the work of a study begins with: the time, and the study held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from node.database.engine import epoch_s, reading, writing
from node.domain.job import JobState, MatchState
from node.domain.reasons import MARKS, Reason, reasons_from_json, reasons_to_json
from node.jobs.tables import job, match
from node.jobs.values import JobRequest, MadeOf, MatchReport, SeriesPart

# A match with a job shows what its job does; a cancelled job leaves it for a person to free
STATE_OF_JOB = {
    JobState.QUEUED: MatchState.QUEUED,
    JobState.RUNNING: MatchState.RUNNING,
    JobState.DONE: MatchState.DONE,
    JobState.FAILED: MatchState.FAILED,
    JobState.PARKED: MatchState.PARKED,
    JobState.CANCELLED: MatchState.PARKED,
    JobState.IMPLAUSIBLE: MatchState.IMPLAUSIBLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestMatch:
    """The latest revision of a match, as far as the next one needs it."""

    revision: int
    made_of: MadeOf
    job_id: int | None


class MatchStore:
    """States of (series set, rule) that have no job, or not yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, report: MatchReport, now: float | None = None) -> int:
        """Insert or update one match; a match that has a job follows its job and stays as it is."""
        with writing(self._engine) as connection:
            hold_study(connection, report.study_instance_uid)
            return write_match(connection, report, clock(connection, now))

    def state(self, rule: str, series_key: str, revision: int) -> MatchState | None:
        """The state of one match; None where there is none yet."""
        with reading(self._engine) as connection:
            found = connection.execute(
                select(match.c.state).where(_is(rule, series_key, revision))
            ).scalar_one_or_none()
        return MatchState(found) if found is not None else None

    def waiting_studies(self) -> Sequence[str]:
        """Studies of which a rule still waits for a series."""
        statement = select(match.c.study_instance_uid).where(
            match.c.state == MatchState.RECEIVING.value
        )
        with reading(self._engine) as connection:
            return list(connection.execute(statement.distinct()).scalars())

    def newest(self, rule: str, series_key: str) -> NewestMatch | None:
        """The match of the highest revision of a rule and series set; None where there is none."""
        statement = (
            select(match.c.revision, match.c.made_of, match.c.job_id)
            .where(match.c.rule == rule, match.c.series_key == series_key)
            .order_by(match.c.revision.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        made_of = {role: SeriesPart(**part) for role, part in row.made_of.items()}
        return NewestMatch(revision=row.revision, made_of=made_of, job_id=row.job_id)

    def counts(self) -> Mapping[str, int]:
        """State -> number of matches in force; superseded revisions are left out."""
        statement = (
            select(match.c.state, func.count().label("number"))
            .where(match.c.state != MatchState.SUPERSEDED.value)
            .group_by(match.c.state)
        )
        with reading(self._engine) as connection:
            return {row.state: row.number for row in connection.execute(statement)}


def write_match(connection: Connection, report: MatchReport, now: float) -> int:
    """Upsert a match without a job; the study is held by the caller."""
    values = {
        "study_instance_uid": report.study_instance_uid,
        "roles": dict(report.roles),
        "state": report.state.value,
        "reasons": reasons_to_json(report.reasons),
        "made_of": _plain(report.made_of),
        "explanation": report.explanation,
        "updated_at": now,
    }
    where = _is(report.rule, report.series_key, report.revision)
    row = connection.execute(select(match.c.id, match.c.job_id).where(where)).one_or_none()
    if row is None:
        return _insert(connection, report.rule, report.series_key, report.revision, values, now)
    if row.job_id is None:
        connection.execute(update(match).where(match.c.id == row.id).values(**values))
    return int(row.id)


def bind_match(connection: Connection, request: JobRequest, job_id: int, now: float) -> None:
    """Point the match of a request at its job; ``follow_job`` gives it its state."""
    values = {
        "study_instance_uid": request.study_instance_uid,
        "roles": dict(request.roles),
        "state": MatchState.QUEUED.value,
        "reasons": reasons_to_json(request.reasons),
        "made_of": _plain(request.made_of),
        "explanation": request.explanation,
        "job_id": job_id,
        "updated_at": now,
    }
    where = _is(request.rule, request.series_key, request.revision)
    if connection.execute(update(match).where(where).values(**values)).rowcount == 0:
        _insert(connection, request.rule, request.series_key, request.revision, values, now)


def bound_job(connection: Connection, request: JobRequest) -> int | None:
    """The job that the match of a request points at, if any."""
    statement = select(match.c.job_id).where(
        _is(request.rule, request.series_key, request.revision)
    )
    return connection.execute(statement).scalar_one_or_none()


def newest_bound(connection: Connection, request: JobRequest) -> int:
    """The highest revision of this rule and series set that has a job."""
    statement = select(func.max(match.c.revision)).where(
        match.c.rule == request.rule,
        match.c.series_key == request.series_key,
        match.c.job_id.is_not(None),
    )
    return int(connection.execute(statement).scalar_one())


def follow_job(connection: Connection, job_id: int, state: JobState, now: float) -> None:
    """Give the matches of a job its state and reasons; superseded ones stay superseded."""
    reasons = select(job.c.reasons).where(job.c.id == job_id).scalar_subquery()
    connection.execute(
        update(match)
        .where(match.c.job_id == job_id, match.c.state != MatchState.SUPERSEDED.value)
        .values(state=STATE_OF_JOB[state].value, reasons=reasons, updated_at=now)
    )


def is_wanted(connection: Connection, job_id: int) -> bool:
    """Whether any match in force still asks for this job."""
    statement = (
        select(match.c.id)
        .where(match.c.job_id == job_id, match.c.state != MatchState.SUPERSEDED.value)
        .limit(1)
    )
    return connection.execute(statement).first() is not None


def _is(rule: str, series_key: str, revision: int) -> Any:
    return (
        (match.c.rule == rule) & (match.c.series_key == series_key) & (match.c.revision == revision)
    )


def _plain(made_of: MadeOf) -> dict[str, dict[str, Any]]:
    return {role: asdict(part) for role, part in made_of.items()}


def _insert(
    connection: Connection,
    rule: str,
    series_key: str,
    revision: int,
    values: dict[str, Any],
    now: float,
) -> int:
    statement = match.insert().values(
        rule=rule, series_key=series_key, revision=revision, created_at=now, **values
    )
    return int(connection.execute(statement).inserted_primary_key[0])  # type: ignore[index]


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
