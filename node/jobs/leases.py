"""Leases: jobs as workers see them.

A lease is an owner and a time by the database's clock. Every statement of a worker names itself, so
a worker that lost its lease can change nothing any more: it gets ``LeaseLost`` and drops its work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    cast,
    literal,
    select,
    update,
)  # fmt: skip

from node.database.engine import each_of, reading, value_of, writing
from node.domain.errors import LeaseLost
from node.domain.job import DeliveryState, JobState, Settled
from node.domain.reasons import Reason, ReasonCode
from node.jobs.matches import clock, deciding, tell_state
from node.jobs.retry import MAX_ATTEMPTS, MOST_LOST, job_delay_s, lost_delay_s
from node.jobs.tables import job, outbox
from node.jobs.values import LeasedJob

# After so many leases in a row of a higher priority the job that waits longest has its turn
TURNS_OF_HIGHER = 2

_AGE = ("created_at", "id")
_PRIORITY = ("priority", *_AGE)
_IS_QUEUED = job.c.state == JobState.QUEUED.value

# stages are those of one attempt, and of forms that are made later
_has_no_form = cast(job.c.forms, String) == "[]"

FREE: dict[str, Any] = {"owner": None, "lease_until": None}
# what is leased -> its state while somebody holds it
_IN_HANDS = {job: JobState.RUNNING.value, outbox: DeliveryState.SENDING.value}


class JobLeases:
    """Takes jobs, keeps them, gives them back.

    Args:
        max_attempts: A job that failed, or killed the child that it ran in, so often is parked.
    Raises:
        LeaseLost: From all that names an owner: the job was cancelled, or given to another worker.
    """

    def __init__(self, engine: Engine, *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._engine = engine
        self._max_attempts = max_attempts

    def is_any_ready(self, now: float | None = None, *, without: Collection[str] = ()) -> bool:
        """Whether ``lease`` is worth a call: asked often, it takes no lock."""
        with reading(self._engine) as connection:
            return bool(_first_of_models(connection, clock(connection, now), without))

    def lease(
        self, owner: str, lease_s: float, now: float | None = None, *, without: Collection[str] = ()
    ) -> LeasedJob | None:
        """Take the next job, or None where nothing is ready; the attempt counts from here.

        By priority, then age; the job that waits longest overtakes after two leases in a row of a
        higher priority, so that a busy day delays background work and never stops it.

        Args:
            without: Models whose jobs are left to other workers.
        """
        with deciding(self._engine, now) as (connection, now):
            ready = _first_of_models(connection, now, without)
            if not ready:
                return None
            oldest = min(ready, key=attrgetter(*_AGE))
            order = _AGE if _had_to_wait(connection, oldest.priority) else _PRIORITY
            ready.sort(key=attrgetter(*order))
            values = {
                "state": JobState.RUNNING.value,
                "owner": owner,
                "lease_until": now + lease_s,
                "attempts": job.c.attempts + 1,
                "started_at": now,
                "stages": case((_has_no_form, literal({}, JSON)), else_=job.c.stages),
            }
            for model in dict.fromkeys(row.model for row in ready):
                first = {"now": now, "model": model}
                taken = connection.execute(_FIRST[order], first).scalar_one_or_none()
                if taken is not None:
                    break
            else:
                return None
            connection.execute(update(job).where(job.c.id == taken).values(**values))
            tell_state(connection, taken, JobState.RUNNING, now)
            return _leased_job(connection, taken)

    def heartbeat(self, job_id: int, owner: str, lease_s: float, now: float | None = None) -> None:
        """Keep a job for ``lease_s`` from now."""
        with deciding(self._engine, now) as (connection, now):
            change_held(connection, job, job_id, owner, {"lease_until": now + lease_s})

    def stage(self, job_id: int, owner: str, stage: str, seconds: float) -> None:
        """Record how long a stage took, besides what it took before in this attempt."""
        with writing(self._engine) as connection:
            row = held(connection, job_id, owner)
            stages = {**row.stages, stage: round(row.stages.get(stage, 0.0) + seconds, 4)}
            change_held(connection, job, job_id, owner, {"stages": stages})

    def fail(
        self,
        job_id: int,
        owner: str,
        reasons: Sequence[Reason],
        *,
        permanent: bool = False,
        now: float | None = None,
    ) -> JobState:
        """This attempt is over; returns what becomes of the job.

        Failed where another attempt would end the same way, parked after three attempts, else
        queued again after a delay.
        """
        with deciding(self._engine, now) as (connection, now):
            row = held(connection, job_id, owner)
            attempt = {"attempt": row.attempts, "attempts": self._max_attempts}
            state, not_before, finished_at = JobState.QUEUED, 0.0, None
            if permanent:
                state, finished_at, attempt = JobState.FAILED, now, {}
            elif row.attempts >= self._max_attempts:
                state, finished_at = JobState.PARKED, now
            else:
                not_before = now + job_delay_s(row.attempts)
                attempt["is_tried_again"] = True
            values = {"not_before": not_before, "finished_at": finished_at, "lost": 0}
            why = [reason.having(**attempt) for reason in reasons]
            _let_go(connection, job_id, owner, state, now, why, **values)
        return state

    def cancel(
        self, job_id: int, owner: str, reasons: Sequence[Reason], now: float | None = None
    ) -> None:
        """End a job that is not to be done as it was asked for."""
        with deciding(self._engine, now) as (connection, now):
            finish_held(connection, job_id, owner, reasons, now, state=JobState.CANCELLED)

    def release(
        self,
        job_id: int,
        owner: str,
        *,
        reasons: Sequence[Reason] = (),
        wait_s: float = 0.0,
        now: float | None = None,
    ) -> None:
        """Give a job back unfinished, as at a drain: the attempt does not count.

        Args:
            wait_s: Nobody takes it before; for a resource that is short.
        """
        with deciding(self._engine, now) as (connection, now):
            values = {"attempts": job.c.attempts - 1, "not_before": now + wait_s}
            _let_go(connection, job_id, owner, JobState.QUEUED, now, reasons, **values)

    def take_back(self, owner: str | None, now: float | None = None) -> int:
        """Take back at once what a process held that is known to be dead; returns how many.

        Args:
            owner: Its name; None for all owners, when no worker can be alive.
        """
        whose = [] if owner is None else [job.c.owner == owner]
        with deciding(self._engine, now) as (connection, now):
            return self._take_back_all(connection, now, *whose)

    def reap(self, now: float | None = None) -> int:
        """Take back the jobs of workers that went silent; returns how many.

        No attempt counts: a worker ends with its node, whatever it had in hand. A job that loses one
        worker after the other waits while others have their turn, and is parked in the end: it may
        be what kills them.
        """
        with deciding(self._engine, now) as (connection, now):
            return self._take_back_all(connection, now, job.c.lease_until < now)

    def _take_back_all(
        self, connection: Connection, now: float, *whose: ColumnElement[bool]
    ) -> int:
        rows = connection.execute(
            select(job.c.id, job.c.owner, job.c.attempts, job.c.lost)
            .where(job.c.state == JobState.RUNNING.value, *whose)
            .order_by(job.c.id)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            lost = row.lost + 1
            values = {"attempts": row.attempts - 1, "lost": lost}
            if lost >= MOST_LOST:
                why = Reason(ReasonCode.KILLS_WORKERS, {"times": lost})
                values["finished_at"], state = now, JobState.PARKED
            else:
                why = Reason(ReasonCode.WORKER_LOST, {"times": lost})
                values["not_before"], state = now + lost_delay_s(lost), JobState.QUEUED
            _let_go(connection, row.id, row.owner, state, now, [why], **values)
        return len(rows)


def held(connection: Connection, job_id: int, owner: str) -> Row[Any]:
    """The row of a job that this owner holds, locked until the transaction ends.

    Raises:
        LeaseLost: It does not hold it.
    """
    its = select(job).where(is_held(job, job_id, owner))
    row = connection.execute(its.with_for_update()).one_or_none()
    if row is None:
        raise lease_lost(job, job_id, owner)
    return row


def change_held(
    connection: Connection, table: Table, row_id: int, owner: str, values: dict[str, Any]
) -> None:
    """Change a job or a delivery that this owner holds.

    Raises:
        LeaseLost: It does not hold it.
    """
    statement = update(table).where(is_held(table, row_id, owner)).values(**values)
    if connection.execute(statement).rowcount == 0:
        raise lease_lost(table, row_id, owner)


def is_held(table: Table, row_id: int, owner: str) -> ColumnElement[bool]:
    """Whether this owner holds a job or a delivery."""
    its = table.c
    return and_(its.id == row_id, its.owner == owner, its.state == _IN_HANDS[table])


def lease_lost(table: Table, row_id: int, owner: str) -> LeaseLost:
    return LeaseLost(f"{'job' if table is job else 'delivery'} {row_id}", owner)


def _let_go(
    connection: Connection,
    job_id: int,
    owner: str,
    state: JobState,
    now: float,
    why: Iterable[Reason],
    **values: Any,
) -> None:
    change_held(connection, job, job_id, owner, {"state": state.value, **FREE, **values})
    tell_state(connection, job_id, state, now, why)


def finish_held(
    connection: Connection,
    job_id: int,
    owner: str,
    reasons: Sequence[Reason],
    now: float,
    *,
    state: JobState = JobState.DONE,
    forms: Collection[str] = (),
) -> Row[Any]:
    """End a job that this owner holds; returns its row as it is then.

    Args:
        reasons: How it ended, besides what it was marked with before.
        forms: What its result was made into, besides those of before.
    Raises:
        LeaseLost: It does not hold it.
    """
    had = held(connection, job_id, owner)
    values = {"forms": list(dict.fromkeys([*had.forms, *forms])), "finished_at": now}
    _let_go(connection, job_id, owner, state, now, reasons, **values)
    return connection.execute(select(job).where(job.c.id == job_id)).one()


def _first(model: ColumnElement[str], order: Sequence[str]) -> Select[int]:
    """The job of one model that is first in an order, of those that are ready at ``now``."""
    is_ready = job.c.not_before <= bindparam("now")
    ready = select(job.c.id).where(_IS_QUEUED, job.c.model == model, is_ready)
    return ready.order_by(*(job.c[name] for name in order)).limit(1)


def _first_of_each() -> Select[Any]:
    """The oldest ready job of each model but ``without``, and the first by priority."""
    models = each_of(job.c.model, _IS_QUEUED)
    firsts = (
        _first(models.c.value, order).correlate(models).scalar_subquery().label(None)
        for order in (_AGE, _PRIORITY)
    )
    taken = models.c.value.not_in(bindparam("without", expanding=True))
    return select(*firsts).select_from(models).where(taken)


# made once: to make them takes longer than to ask them
_FIRST_OF_EACH = _first_of_each()
_FIRST = {
    order: _first(bindparam("model"), order).with_for_update(skip_locked=True)
    for order in (_AGE, _PRIORITY)
}


def _first_of_models(
    connection: Connection, now: float, without: Collection[str]
) -> list[Row[Any]]:
    """The oldest ready job of each model, and the first by priority and age."""
    found = connection.execute(_FIRST_OF_EACH, {"now": now, "without": list(without)}).all()
    ids = {job_id for row in found for job_id in row if job_id is not None}
    # a question of its own: as one with the other PostgreSQL joins over all jobs
    its: Select[Any] = select(job.c.id, job.c.model, job.c.priority, job.c.created_at)
    return list(connection.execute(its.where(job.c.id.in_(ids))).all()) if ids else []


def _had_to_wait(connection: Connection, priority: int) -> bool:
    """Whether the leases just before were all of a higher priority."""
    recent = connection.execute(
        select(job.c.priority)
        .where(job.c.started_at.is_not(None))
        .order_by(job.c.started_at.desc(), job.c.id.desc())
        .limit(TURNS_OF_HIGHER)
    ).scalars()
    higher = [before < priority for before in recent]
    return len(higher) == TURNS_OF_HIGHER and all(higher)


def _leased_job(connection: Connection, job_id: int) -> LeasedJob:
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    return value_of(
        LeasedJob,
        row,
        destinations=tuple(row.destinations),
        forms=tuple(row.forms),
        settled=Settled(row.settled),
    )
