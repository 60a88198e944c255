"""Revisions: what a newer state of a series does to the work of the older one.

=====================  =====================================================================
job of revision n      when revision n+1 is asked for
=====================  =====================================================================
queued, parked, failed cancelled
implausible            cancelled; it was not delivered
running                finishes; its deliveries are made ``withheld``
done, not delivered    its waiting and blocked deliveries become ``withheld``
done, delivered        stays; its result is marked superseded once the new result is durable
=====================  =====================================================================

A job that another match still wants (two rules, one key) is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    func,
    or_,
    select,
    update,
)

from node.database.engine import is_one_of, reading, stored, update_each
from node.domain.job import DeliveryState, JobState, MatchState, Progress, Settled
from node.domain.reasons import (
    Reason,
    ReasonCode,
    reasons_from_json,
    reasons_to_json,
    tells_implausible,
)
from node.jobs.matches import deciding, is_wanted, match_of, say_why
from node.jobs.tables import job, match, outbox, result
from node.jobs.values import LABELS, JobRequest

_CANCELLABLE = stored(JobState.QUEUED, JobState.PARKED, JobState.FAILED, JobState.IMPLAUSIBLE)
_DELIVERED = stored(DeliveryState.SENT, DeliveryState.WARNED)
_UNSENT = stored(DeliveryState.WAITING, DeliveryState.BLOCKED)
_WITHHELD = stored(DeliveryState.WITHHELD)
_IN_WORK = stored(JobState.RUNNING, JobState.DONE)


class SeriesWork:
    """Reads and ends what rules made of series."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def furthest(self, study_instance_uid: str, series_instance_uid: str) -> Progress:
        """How far its work in force went."""
        with reading(self._engine) as connection:
            rows = _in_force(connection, study_instance_uid, series_instance_uid)
            jobs = [row.job_id for row in rows if row.job_id is not None]
            of_jobs = select(job.c.state).where(job.c.id.in_(jobs))
            states = set(connection.execute(of_jobs).scalars())
            files = select(result.c.id).where(result.c.job_id.in_(jobs))
            # not by their state: SQLite would begin with everything that was ever sent
            deliveries = select(outbox.c.state).where(outbox.c.result_id.in_(files))
            if not set(_DELIVERED).isdisjoint(connection.execute(deliveries).scalars()):
                return Progress.DELIVERED
        if states.intersection(_IN_WORK):
            return Progress.IN_WORK
        return Progress.QUEUED if states else Progress.NO_JOB

    def supersede(
        self, study_instance_uid: str, series_instance_uid: str, revision: int, now: float
    ) -> None:
        """Close matches of the series before ``revision``, and the work that only they wanted.

        Also of rules that do not exist any more, and of sets that an older state is a part of.
        """
        why = Reason(ReasonCode.SUPERSEDED, {"revision": revision, "is_of_series": True})
        with deciding(self._engine, now, study_instance_uid) as (connection, now):
            older = [
                row
                for row in _in_force(connection, study_instance_uid, series_instance_uid)
                if _is_older(row, series_instance_uid, revision)
            ]
            _close(connection, match.c.id.in_([row.id for row in older]), why, now)
            drop_unwanted(connection, [row.job_id for row in older], why, now)


def supersede_older(
    connection: Connection, rule: str, series_key: str, revision: int, now: float
) -> None:
    """Close every match of older revisions, and the work that only they wanted."""
    older = and_(
        match_of(rule, series_key),
        match.c.revision < revision,
        match.c.state != MatchState.SUPERSEDED.value,
    )
    jobs = connection.execute(select(match.c.job_id).where(older)).scalars().all()
    why = Reason(ReasonCode.SUPERSEDED, {"revision": revision})
    _close(connection, older, why, now)
    drop_unwanted(connection, jobs, why, now)


def _close(connection: Connection, older: ColumnElement[bool], why: Reason, now: float) -> None:
    superseded = {"state": MatchState.SUPERSEDED.value, "reasons": reasons_to_json([why])}
    connection.execute(update(match).where(older).values(**superseded, updated_at=now))


def drop_unwanted(
    connection: Connection, job_ids: Iterable[int | None], why: Reason, now: float
) -> None:
    """Cancel what has not run, and withhold what has not left, of jobs that no match wants."""
    for job_id in sorted({found for found in job_ids if found is not None}):
        if is_wanted(connection, job_id):
            continue
        cancelled = connection.execute(
            update(job)
            .where(job.c.id == job_id, job.c.state.in_(_CANCELLABLE))
            .values(state=JobState.CANCELLED.value, finished_at=now)
        )
        if cancelled.rowcount:
            say_why(connection, job_id, [why])
        withheld = {"state": DeliveryState.WITHHELD.value, "reasons": reasons_to_json([why])}
        _change_deliveries(connection, job_id, _UNSENT, withheld)


def replaced_object(connection: Connection, request: JobRequest, also: int | None) -> str:
    """SOP Instance UID of the newest earlier DICOM object that reached, or may have reached, someone.

    Args:
        also: A job that the same revision pointed at before, such as one of another model version.
    """
    earlier = and_(
        match_of(request.rule, request.series_key),
        match.c.revision < request.revision,
        match.c.job_id.is_not(None),
    )
    newest_first = select(match.c.job_id).where(earlier).order_by(match.c.revision.desc())
    rows = connection.execute(newest_first).scalars()
    may_be_there = or_(
        outbox.c.state.in_((*_DELIVERED, DeliveryState.SENDING.value)),
        and_(
            outbox.c.state.in_(stored(DeliveryState.WAITING, DeliveryState.WITHHELD)),
            outbox.c.attempts > 0,
        ),
    )
    for job_id in [*([also] if also is not None else []), *rows]:
        found = connection.execute(
            select(result.c.sop_instance_uid)
            .join(outbox, outbox.c.result_id == result.c.id)
            .where(result.c.job_id == job_id, result.c.sop_class_uid != "", may_be_there)
            .order_by(result.c.id)
            .limit(1)
        ).scalar_one_or_none()
        if found:
            return str(found)
    return ""


def mark_superseded(connection: Connection, job_id: int, replaces: str) -> None:
    """The object of this job is durable: what it takes the place of is superseded from now on."""
    sets = select(match.c.rule, match.c.series_key, func.max(match.c.revision).label("revision"))
    of_job = sets.where(match.c.job_id == job_id).group_by(match.c.rule, match.c.series_key)
    older_jobs: set[int] = set()
    for newer in connection.execute(of_job).all():
        older = and_(
            match_of(newer.rule, newer.series_key),
            match.c.revision < newer.revision,
            match.c.state == MatchState.SUPERSEDED.value,
        )
        found = connection.execute(select(match.c.job_id).where(older)).scalars()
        older_jobs.update(found_id for found_id in found if found_id is not None)
    superseded = {older for older in older_jobs - {job_id} if not is_wanted(connection, older)}
    if replaces:
        made_it = select(result.c.job_id).where(result.c.sop_instance_uid == replaces)
        superseded.update(connection.execute(made_it).scalars())
    if not superseded:
        return
    theirs = and_(
        result.c.job_id.in_(sorted(superseded)),
        result.c.form != LABELS,
        result.c.state == "current",
    )
    connection.execute(update(result).where(theirs).values(state="superseded"))


def restore(connection: Connection, job_id: int, now: float) -> None:
    """A match wants this job again: its result is in force, and what was withheld may leave.

    An implausible result may not, unless a person took it.
    """
    connection.execute(
        update(result)
        .where(result.c.job_id == job_id, result.c.state == "superseded")
        .values(state="current")
    )
    if why_kept_back(connection.execute(select(job).where(job.c.id == job_id)).one()):
        return
    waiting = {"state": DeliveryState.WAITING.value, "reasons": [], "refusals": 0}
    _change_deliveries(connection, job_id, _WITHHELD, {**waiting, "next_at": now})


def withhold(connection: Connection, job_id: int, why: Reason) -> None:
    """Say anew why the deliveries of a job that are withheld do not leave."""
    _change_deliveries(connection, job_id, _WITHHELD, {"reasons": reasons_to_json([why])})


def why_kept_back(row: Row[Any]) -> Reason | None:
    """Why nothing of a job leaves whose result is implausible and taken by nobody; None if it may."""
    is_taken = row.state == JobState.DONE or row.settled in (Settled.DONE, Settled.ACCEPTED)
    is_implausible = tells_implausible(reasons_from_json(row.reasons))
    return kept_back(row.id) if is_implausible and not is_taken else None


def kept_back(job_id: int) -> Reason:
    """Why the deliveries of an implausible result wait."""
    return Reason(ReasonCode.RESULT_IMPLAUSIBLE, {"job": job_id})


def _change_deliveries(
    connection: Connection, job_id: int, states: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Change the deliveries of a job that are in these states."""
    files = select(result.c.id).where(result.c.job_id == job_id, result.c.form != LABELS)
    ids = connection.execute(select(outbox.c.id).where(outbox.c.result_id.in_(files))).scalars()
    update_each(connection, outbox, ids.all(), values, is_one_of(outbox.c.state, states))


def _in_force(
    connection: Connection, study_instance_uid: str, series_instance_uid: str
) -> Sequence[Row[Any]]:
    """Matches that the series has a part in: its own, and sets, which are known by their study."""
    its = match.c
    wanted: Select[Any] = select(its.id, its.series_key, its.roles, its.made_of, its.job_id).where(
        its.series_key.in_((series_instance_uid, study_instance_uid)),
        its.study_instance_uid == study_instance_uid,
        its.state != MatchState.SUPERSEDED.value,
    )
    rows = connection.execute(wanted)
    return [row for row in rows if series_instance_uid in row.roles.values()]


def _is_older(row: Row[Any], series_instance_uid: str, revision: int) -> bool:
    is_set = row.series_key != series_instance_uid
    if is_set and row.job_id is None:
        return False  # judged anew with every change of its study
    return any(
        part["series_instance_uid"] == series_instance_uid and part["revision"] < revision
        for part in row.made_of.values()
    )
