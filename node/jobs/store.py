"""Jobs as those see them who ask for work: rules and operators."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from node.database.engine import reading, writing
from node.domain.delivery import FormsTaken
from node.domain.errors import NodeError
from node.domain.job import JobState, Settled
from node.domain.reasons import Reason, ReasonCode, reasons_from_json, reasons_to_json
from node.jobs.giving import give, give_more
from node.jobs.matches import bind_match, bound_job, follow_job, is_wanted, newest_bound
from node.jobs.outbox_rows import kept_back
from node.jobs.revisions import (
    drop_unwanted,
    is_kept_back,
    mark_superseded,
    replaced_object,
    restore,
    supersede_older,
    withhold,
)
from node.jobs.rows import clock, files_of, hold_study, say_why
from node.jobs.tables import job
from node.jobs.values import JobRequest

FIRST_SERIES_NUMBER = 1001


_CANCELLABLE = (
    *(JobState.QUEUED, JobState.RUNNING, JobState.PARKED, JobState.FAILED),
    JobState.IMPLAUSIBLE,
)
_RETRIABLE = (JobState.PARKED, JobState.FAILED, JobState.CANCELLED)
_RESET = {
    "state": JobState.QUEUED.value,
    "attempts": 0,
    "not_before": 0.0,
    "owner": None,
    "lease_until": None,
    "finished_at": None,
}


class JobStore:
    """One row per job key, whoever asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def enqueue(self, request: JobRequest, now: float | None = None) -> tuple[int, bool]:
        """Ask for a run; returns the job and whether it is new.

        The same key is the same job. A request that meets one joins it: destinations are united,
        the higher priority wins, and where the result is durable already a new destination only
        gets its delivery, of a form that was not asked for before when it is encoded. A parked or failed job stays so until a person retries it; a cancelled
        one runs again when a match asks that had not asked before.
        """
        with writing(self._engine) as connection:
            hold_study(connection, request.study_instance_uid)
            now = clock(connection, now)
            existing = connection.execute(
                select(job).where(job.c.job_key == request.job_key)
            ).one_or_none()
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
            _publish(connection, job_id, now)
            # a slow caller may ask for a revision that another has gone beyond meanwhile
            newest = newest_bound(connection, request)
            supersede_older(connection, request.rule, request.series_key, newest, now)
            if before is not None and before != job_id:
                drop_unwanted(
                    connection, {before}, Reason(ReasonCode.SUPERSEDED, {"job": job_id}), now
                )
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
        with writing(self._engine) as connection:
            hold_study(connection, study_instance_uid)
            supersede_older(connection, rule, series_key, revision, clock(connection, now))

    def cancel(self, job_id: int, now: float | None = None) -> None:
        """End a job that is not done; its worker finds the lease lost at its next heartbeat.

        Raises:
            NodeError: There is no such job, or it is done or cancelled.
        """
        cancelled = Reason(ReasonCode.CANCELLED)
        with writing(self._engine) as connection:
            now = clock(connection, now)
            _change(
                connection,
                job_id,
                _CANCELLABLE,
                "cancelled",
                {
                    "state": JobState.CANCELLED.value,
                    "owner": None,
                    "lease_until": None,
                    "finished_at": now,
                },
            )
            say_why(connection, job_id, [cancelled])
            follow_job(connection, job_id, JobState.CANCELLED, now)
            withhold(connection, job_id, cancelled.having(is_its_job=True))

    def accept(self, job_id: int, now: float | None = None) -> None:
        """Take an implausible result all the same: the job is done, its deliveries may leave.

        The object keeps the mark that it was made with.

        Raises:
            NodeError: There is no such job, it holds no implausible result, or none that is wanted.
        """
        with writing(self._engine) as connection:
            row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
            if row is not None:
                hold_study(connection, row.study_instance_uid)
                row = connection.execute(select(job).where(job.c.id == job_id)).one()
                if row.state == JobState.IMPLAUSIBLE and not is_wanted(connection, job_id):
                    raise NodeError(f"job {job_id}: a newer revision of the series took its place")
            now = clock(connection, now)
            values = {"state": JobState.DONE.value, "settled": Settled.ACCEPTED.value}
            _change(connection, job_id, (JobState.IMPLAUSIBLE,), "accepted", values)
            had = reasons_from_json(row.reasons) if row is not None else ()
            say_why(connection, job_id, [*had, Reason(ReasonCode.TAKEN_ALL_THE_SAME)])
            follow_job(connection, job_id, JobState.DONE, now)
            mark_superseded(connection, job_id, row.replaces if row is not None else "")
            restore(connection, job_id, now)

    def retry(self, job_id: int, now: float | None = None) -> None:
        """Queue a parked, failed or cancelled job again with all its attempts.

        Raises:
            NodeError: There is no such job, or it is queued, running or done.
        """
        with writing(self._engine) as connection:
            _change(connection, job_id, _RETRIABLE, "retried", _RESET)
            say_why(connection, job_id)
            follow_job(connection, job_id, JobState.QUEUED, clock(connection, now))

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
        with writing(self._engine) as connection:
            give_more(connection, job_id, destinations, taken, clock(connection, now))

    def series_in_use(self) -> frozenset[str]:
        """Series Instance UIDs that unfinished jobs still read: their files must stay."""
        unfinished = job.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value])
        with reading(self._engine) as connection:
            inputs = connection.execute(select(job.c.inputs).where(unfinished)).scalars().all()
        return frozenset(
            str(role["series_instance_uid"]) for roles in inputs for role in roles.values()
        )


def _insert(connection: Connection, request: JobRequest, before: int | None, now: float) -> int:
    # PS3.3 C.12.1: local date and time, as the modality writes them
    local = datetime.fromtimestamp(now, tz=UTC).astimezone()
    statement = job.insert().values(
        job_key=request.job_key,
        state=JobState.QUEUED.value,
        priority=int(request.priority),
        model=request.model,
        model_digest=request.model_digest,
        parameters=dict(request.parameters),
        study_instance_uid=request.study_instance_uid,
        inputs={role: dict(value) for role, value in request.inputs.items()},
        destinations=list(dict.fromkeys(request.destinations)),
        revision=request.revision,
        replaces=_replaces(connection, request, before),
        config_digest=request.config_digest,
        series_number=_series_number(connection, request),
        content_date=local.strftime("%Y%m%d"),
        content_time=local.strftime("%H%M%S"),
        deadline_s=request.deadline_s,
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


def _replaces(connection: Connection, request: JobRequest, before: int | None) -> str:
    return replaced_object(connection, request.rule, request.series_key, request.revision, before)


def _join(
    connection: Connection,
    existing: Row[Any],
    request: JobRequest,
    before: int | None,
    now: float,
) -> None:
    destinations = list(dict.fromkeys([*existing.destinations, *request.destinations]))
    values: dict[str, Any] = {
        "priority": min(existing.priority, int(request.priority)),
        "destinations": destinations,
    }
    waits = existing.state in (JobState.QUEUED.value, JobState.CANCELLED.value)
    if waits and not files_of(connection, existing.id) and request.revision > existing.revision:
        # equal pixels, newer header: the run is the same, the object carries the newer header
        values["inputs"] = {role: dict(value) for role, value in request.inputs.items()}
        values["revision"] = request.revision
        values["replaces"] = _replaces(connection, request, before)
        values["config_digest"] = request.config_digest
    connection.execute(update(job).where(job.c.id == existing.id).values(**values))
    withheld = kept_back(existing.id) if is_kept_back(existing) else None
    give(connection, existing, request.destinations, request.taken, now, withheld=withheld)


def _renew(connection: Connection, existing: Row[Any], now: float) -> None:
    """A match asks that had not asked before."""
    if existing.state == JobState.CANCELLED.value:
        connection.execute(update(job).where(job.c.id == existing.id).values(**_RESET))
        say_why(connection, existing.id)
    restore(connection, existing.id, now)


def _publish(connection: Connection, job_id: int, now: float) -> None:
    state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one()
    follow_job(connection, job_id, JobState(state), now)


def _change(
    connection: Connection,
    job_id: int,
    allowed: tuple[JobState, ...],
    verb: str,
    values: dict[str, Any],
) -> None:
    statement = update(job).where(
        job.c.id == job_id, job.c.state.in_([state.value for state in allowed])
    )
    if connection.execute(statement.values(**values)).rowcount == 1:
        return
    state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one_or_none()
    if state is None:
        raise NodeError(f"there is no job {job_id}")
    raise NodeError(f"job {job_id} is {state} and cannot be {verb}")
