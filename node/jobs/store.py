"""Jobs as those see them who ask for work: rules and operators."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from node.database.engine import clock_time_s, stored
from node.domain.delivery import FormsTaken
from node.domain.errors import NodeError
from node.domain.job import JobState, Settled
from node.domain.reasons import Reason, ReasonCode, reasons_from_json, reasons_to_json
from node.jobs.leases import FREE
from node.jobs.matches import (
    bind_match,
    bound_job,
    deciding,
    follow_job,
    is_wanted,
    newest_bound,
    say_why,
    tell_state,
)
from node.jobs.results import (
    QUEUED_AFRESH,
    files_of,
    give,
    give_more,
    is_any_deleted,
    job_of_held_study,
)
from node.jobs.revisions import (
    drop_unwanted,
    mark_superseded,
    replaced_object,
    restore,
    supersede_older,
    why_kept_back,
    withhold,
)
from node.jobs.tables import job
from node.jobs.values import JobRequest

FIRST_SERIES_NUMBER = 1001

_CANCELLABLE = stored(
    *(JobState.QUEUED, JobState.RUNNING, JobState.PARKED, JobState.FAILED, JobState.IMPLAUSIBLE)
)
_RETRIABLE = stored(JobState.PARKED, JobState.FAILED, JobState.CANCELLED)
_WAITS = stored(JobState.QUEUED, JobState.CANCELLED)
_AS_ASKED_FOR = (
    *("job_key", "model", "model_digest", "study_instance_uid", "inputs", "revision"),
    *("config_digest", "deadline_s"),
)


class JobStore:
    """One row per job key, whoever asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def enqueue(self, request: JobRequest, now: float | None = None) -> tuple[int, bool]:
        """Ask for a run; returns the job and whether it is new.

        The same key is the same job. A request that meets one joins it: destinations are united,
        the higher priority wins, and where the result is durable already a new destination only
        gets its delivery, of a form that was not asked for before when it is encoded. A parked or
        failed job stays so until a person retries it; a cancelled one runs again when a match asks
        that had not asked before.
        """
        with deciding(self._engine, now, request.study_instance_uid) as (connection, now):
            same = select(job).where(job.c.job_key == request.job_key)
            existing = connection.execute(same).one_or_none()
            before = bound_job(connection, request)
            if existing is None:
                job_id = _insert(connection, request, before, now)
            else:
                job_id = int(existing.id)
                is_new_wish = before != job_id
                _join(connection, existing, request, before if is_new_wish else None, now)
                if is_new_wish:
                    _renew(connection, existing, now)
            bind_match(connection, request, job_id, now)
            state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one()
            follow_job(connection, job_id, JobState(state), now)
            # a slow caller may ask for a revision that another has gone beyond meanwhile
            newest = newest_bound(connection, request)
            supersede_older(connection, request.rule, request.series_key, newest, now)
            if before is not None and before != job_id:
                why = Reason(ReasonCode.SUPERSEDED, {"job": job_id})
                drop_unwanted(connection, [before], why, now)
        return job_id, existing is None

    def supersede(
        self,
        study_instance_uid: str,
        rule: str,
        series_key: str,
        revision: int,
        now: float | None = None,
    ) -> None:
        """A revision was opened, though nothing can be asked for yet: older work is not wanted."""
        with deciding(self._engine, now, study_instance_uid) as (connection, now):
            supersede_older(connection, rule, series_key, revision, now)

    def cancel(self, job_id: int, now: float | None = None) -> None:
        """End a job that is not done; its worker finds the lease lost at its next heartbeat.

        Raises:
            NodeError: There is no such job, or it is done or cancelled.
        """
        cancelled = Reason(ReasonCode.CANCELLED)
        with deciding(self._engine, now) as (connection, now):
            values = {"state": JobState.CANCELLED.value, "finished_at": now, **FREE}
            _change(connection, job_id, _CANCELLABLE, "cancelled", values)
            tell_state(connection, job_id, JobState.CANCELLED, now, [cancelled])
            withhold(connection, job_id, cancelled.having(is_its_job=True))

    def accept(self, job_id: int, now: float | None = None) -> None:
        """Take an implausible result all the same: the job is done, its deliveries may leave.

        The object keeps the mark that it was made with.

        Raises:
            NodeError: There is no such job, it holds no implausible result, or none that is wanted or
                still kept.
        """
        with deciding(self._engine, now) as (connection, now):
            row = job_of_held_study(connection, job_id)
            if row.state == JobState.IMPLAUSIBLE and not is_wanted(connection, job_id):
                raise NodeError(f"job {job_id}: a newer revision of the series took its place")
            if row.state == JobState.IMPLAUSIBLE and is_any_deleted(connection, job_id):
                raise NodeError(f"job {job_id}: its result is not kept any more")
            values = {"state": JobState.DONE.value, "settled": Settled.ACCEPTED.value}
            _change(connection, job_id, stored(JobState.IMPLAUSIBLE), "accepted", values)
            taken = Reason(ReasonCode.TAKEN_ALL_THE_SAME)
            why = [*reasons_from_json(row.reasons), taken]
            tell_state(connection, job_id, JobState.DONE, now, why)
            mark_superseded(connection, job_id, row.replaces)
            restore(connection, job_id, now)

    def retry(self, job_id: int, now: float | None = None) -> None:
        """Queue a parked, failed or cancelled job again with all its attempts.

        Raises:
            NodeError: There is no such job, or it is queued, running or done.
        """
        with deciding(self._engine, now) as (connection, now):
            _change(
                connection,
                job_id,
                _RETRIABLE,
                "retried",
                {**QUEUED_AFRESH, **FREE, "not_before": now},
            )
            tell_state(connection, job_id, JobState.QUEUED, now)

    def give(
        self,
        job_id: int,
        destinations: Collection[str],
        taken: FormsTaken,
        now: float | None = None,
    ) -> None:
        """Let more destinations have a job's result, or one that takes more forms than before.

        Raises:
            NodeError: There is no such job.
        """
        with deciding(self._engine, now) as (connection, now):
            give_more(connection, job_id, destinations, taken, now)


def _insert(connection: Connection, request: JobRequest, before: int | None, now: float) -> int:
    # PS3.3 C.12.1: local date and time, as the modality writes them
    local = datetime.fromtimestamp(clock_time_s(connection, now), tz=UTC).astimezone()
    statement = job.insert().values(
        **{name: getattr(request, name) for name in _AS_ASKED_FOR},
        state=JobState.QUEUED.value,
        priority=int(request.priority),
        parameters=dict(request.parameters),
        destinations=list(dict.fromkeys(request.destinations)),
        replaces=replaced_object(connection, request, before),
        series_number=_series_number(connection, request),
        content_date=local.strftime("%Y%m%d"),
        content_time=local.strftime("%H%M%S"),
        reasons=reasons_to_json(request.reasons),
        created_at=now,
    )
    return int(connection.execute(statement).inserted_primary_key[0])  # type: ignore[index]


def _series_number(connection: Connection, request: JobRequest) -> int:
    """A Series Number that no result and no known series of the study has (PS3.3 C.7.3.1)."""
    used = select(job.c.series_number).where(job.c.study_instance_uid == request.study_instance_uid)
    taken = request.taken_series_numbers | set(connection.execute(used).scalars())
    number = FIRST_SERIES_NUMBER
    while number in taken:
        number += 1
    return number


def _join(
    connection: Connection, existing: Row[Any], request: JobRequest, before: int | None, now: float
) -> None:
    values: dict[str, Any] = {
        "priority": min(existing.priority, int(request.priority)),
        "destinations": list(dict.fromkeys([*existing.destinations, *request.destinations])),
    }
    if (
        existing.state in _WAITS
        and not files_of(connection, existing.id)
        and request.revision > existing.revision
    ):
        # equal pixels, newer header: the run is the same, the object carries the newer header
        values["inputs"] = request.inputs
        values["revision"] = request.revision
        values["replaces"] = replaced_object(connection, request, before)
        values["config_digest"] = request.config_digest
    connection.execute(update(job).where(job.c.id == existing.id).values(**values))
    withheld = why_kept_back(existing)
    give(connection, existing, request.destinations, request.taken, now, withheld=withheld)


def _renew(connection: Connection, existing: Row[Any], now: float) -> None:
    """A match asks that had not asked before."""
    if existing.state == JobState.CANCELLED.value:
        afresh = update(job).where(job.c.id == existing.id).values(**QUEUED_AFRESH, **FREE)
        connection.execute(afresh)
        say_why(connection, existing.id)
    restore(connection, existing.id, now)


def _change(
    connection: Connection, job_id: int, allowed: tuple[str, ...], verb: str, values: dict[str, Any]
) -> None:
    statement = update(job).where(job.c.id == job_id, job.c.state.in_(allowed))
    if connection.execute(statement.values(**values)).rowcount == 1:
        return
    state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one_or_none()
    if state is None:
        raise NodeError(f"there is no job {job_id}")
    raise NodeError(f"job {job_id} is {state} and cannot be {verb}")
