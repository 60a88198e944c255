"""Matches: what became of each (series set, rule), revision by revision; a match follows its job.

Below them what every change of the work of a study begins with: the time, and the study held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, text, update

from node.database.engine import column_of, epoch_s, inserting, rows_of, value_of, writing
from node.database.pages import counts_of
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

    def put(self, report: MatchReport, now: float | None = None) -> None:
        """Insert or update one match; a match that has a job follows its job and stays as it is."""
        parts = {role: asdict(part) for role, part in report.made_of.items()}
        with deciding(self._engine, now, report.study_instance_uid) as (connection, now):
            _write(connection, report, report.state, parts, now, where=match.c.job_id.is_(None))

    def state(self, rule: str, series_key: str, revision: int) -> MatchState | None:
        """The state of one match; None where there is none yet."""
        of_set = match_of(rule, series_key)
        query = select(match.c.state).where(of_set, match.c.revision == revision)
        return next((MatchState(state) for state in column_of(self._engine, query)), None)

    def waiting_studies(self) -> Sequence[str]:
        """Studies of which a rule still waits for a series."""
        waits = match.c.state == MatchState.RECEIVING.value
        return column_of(self._engine, select(match.c.study_instance_uid).where(waits).distinct())

    def newest(self, rule: str, series_key: str) -> NewestMatch | None:
        """The match of the highest revision of a rule and series set; None where there is none."""
        query = (
            select(match.c.revision, match.c.made_of, match.c.job_id)
            .where(match_of(rule, series_key))
            .order_by(match.c.revision.desc())
            .limit(1)
        )
        for row in rows_of(self._engine, query):
            made_of = {role: SeriesPart(**part) for role, part in row.made_of.items()}
            return value_of(NewestMatch, row, made_of=made_of)
        return None

    def counts(self, *states: MatchState) -> Mapping[str, int]:
        """State -> number of matches; without an argument all of those in force."""
        in_force = set(MatchState) - {MatchState.SUPERSEDED}
        return counts_of(self._engine, match.c.state, states or sorted(in_force))


def match_of(rule: str, series_key: str) -> ColumnElement[bool]:
    """Whether a match is one of a rule and series set, of whatever revision."""
    return and_(match.c.rule == rule, match.c.series_key == series_key)


def bind_match(connection: Connection, request: JobRequest, job_id: int, now: float) -> None:
    """Point the match of a request at its job; ``follow_job`` gives it its state."""
    parts = {
        role: {"series_instance_uid": given["series_instance_uid"], "revision": given["revision"]}
        for role, given in request.inputs.items()
    }
    _write(connection, request, MatchState.QUEUED, parts, now, job_id=job_id)


def bound_job(connection: Connection, request: JobRequest) -> int | None:
    of_set = match_of(request.rule, request.series_key)
    query = select(match.c.job_id).where(of_set, match.c.revision == request.revision)
    return connection.execute(query).scalar_one_or_none()


def newest_bound(connection: Connection, request: JobRequest) -> int:
    """The highest revision of this rule and series set that has a job."""
    of_set = match_of(request.rule, request.series_key)
    query = select(func.max(match.c.revision)).where(of_set, match.c.job_id.is_not(None))
    return int(connection.execute(query).scalar_one())


def follow_job(connection: Connection, job_id: int, state: JobState, now: float) -> None:
    """Give the matches of a job its state and reasons; superseded ones stay superseded."""
    reasons = select(job.c.reasons).where(job.c.id == job_id).scalar_subquery()
    connection.execute(
        update(match)
        .where(*_in_force(job_id))
        .values(state=STATE_OF_JOB[state].value, reasons=reasons, updated_at=now)
    )


def is_wanted(connection: Connection, job_id: int) -> bool:
    """Whether any match in force still asks for this job."""
    query = select(match.c.id).where(*_in_force(job_id)).limit(1)
    return connection.execute(query).first() is not None


@contextmanager
def deciding(
    engine: Engine, now: float | None, study_instance_uid: str = ""
) -> Iterator[tuple[Connection, float]]:
    """A writing transaction and the time to decide by.

    Args:
        now: The database's clock unless the caller says otherwise.
        study_instance_uid: A study to hold.
    """
    with writing(engine) as connection:
        if study_instance_uid:
            hold_study(connection, study_instance_uid)
        yield connection, clock(connection, now)


def clock(connection: Connection, now: float | None) -> float:
    """The database's clock unless the caller says otherwise."""
    return epoch_s(connection) if now is None else now


def hold_study(connection: Connection, study_instance_uid: str) -> None:
    """Let one transaction at a time change the work of a study, until it ends.

    Revisions, shared jobs and withheld deliveries are decided over several rows. SQLite has one
    writer anyway.
    """
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:study, 0))")
        connection.execute(lock, {"study": study_instance_uid})


def tell_state(
    connection: Connection, job_id: int, state: JobState, now: float, why: Iterable[Reason] = ()
) -> None:
    """A job has a new state: say why, and have its matches follow."""
    say_why(connection, job_id, why)
    follow_job(connection, job_id, state, now)


def say_why(connection: Connection, job_id: int, reasons: Iterable[Reason] = ()) -> None:
    """Say why a job is in its state; what its result is marked with stays."""
    had = connection.execute(select(job.c.reasons).where(job.c.id == job_id)).scalar_one()
    fresh = tuple(reasons)
    anew = {reason.code for reason in fresh}
    marks = [r for r in reasons_from_json(had) if r.code in MARKS and r.code not in anew]
    now = reasons_to_json([*marks, *fresh])
    if now != had:
        connection.execute(update(job).where(job.c.id == job_id).values(reasons=now))


def _in_force(job_id: int) -> tuple[ColumnElement[bool], ...]:
    return match.c.job_id == job_id, match.c.state != MatchState.SUPERSEDED.value


def _write(
    connection: Connection,
    what: MatchReport | JobRequest,
    state: MatchState,
    made_of: Mapping[str, Mapping[str, Any]],
    now: float,
    *,
    where: ColumnElement[bool] | None = None,
    **others: Any,
) -> None:
    """Insert a match, or update the one that is there.

    Args:
        made_of: Role -> series and revision.
        where: What must be true of the one that is there.
    """
    values = {
        "study_instance_uid": what.study_instance_uid,
        "roles": {role: part["series_instance_uid"] for role, part in made_of.items()},
        "state": state.value,
        "reasons": reasons_to_json(what.reasons),
        "made_of": made_of,
        "explanation": what.explanation,
        "updated_at": now,
        **others,
    }
    key = {name: getattr(what, name) for name in ("rule", "series_key", "revision")}
    written = inserting(connection, match).values(**key, created_at=now, **values)
    anew = {name: written.excluded[name] for name in values}
    connection.execute(
        written.on_conflict_do_update(index_elements=list(key), set_=anew, where=where)
    )
