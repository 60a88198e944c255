"""The outbox: one row per (result object, destination), tried for days."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    exists,
    func,
    or_,
    select,
    true,
    update,
)

from node.database.engine import reading, writing
from node.domain.delivery import DeliveryClass, FormsTaken, Outcome
from node.domain.errors import LeaseLost, NodeError
from node.domain.job import DeliveryState
from node.domain.reasons import ReasonCode, told
from node.jobs import breakers
from node.jobs.giving import give_more
from node.jobs.matches import is_wanted
from node.jobs.outbox_rows import add_rows
from node.jobs.retry import MAX_REFUSALS, delivery_delay_s
from node.jobs.revisions import is_kept_back
from node.jobs.rows import clock, hold_study, result_of
from node.jobs.tables import breaker, job, outbox, result
from node.jobs.values import LABELS, LeasedDelivery

# Senders that may be busy with one destination at a time: one that is slow to fail cannot take all
SENDERS_PER_DESTINATION = 2

_FREE: dict[str, Any] = {"owner": None, "lease_until": None}
_REARMED: dict[str, Any] = {
    "state": DeliveryState.WAITING.value,
    "attempts": 0,
    "refusals": 0,
    "reasons": [],
    **_FREE,
}
_NOT_REARMED = (DeliveryState.SENDING.value, DeliveryState.NO_DESTINATION.value)


class Outbox:
    """Takes deliveries, records how they ended, and keeps sick destinations apart.

    Args:
        config_digest: Of the configuration in force: rows it blocked are freed by another one.
        chance: Numbers in [0, 1) that spread retries.
        taken: Which forms destinations take.
    """

    def __init__(
        self,
        engine: Engine,
        config_digest: str = "",
        chance: Callable[[], float] | None = None,
        taken: FormsTaken | None = None,
    ) -> None:
        self._engine = engine
        self._taken = taken or FormsTaken()
        self._config_digest = config_digest
        self._chance = chance or secrets.SystemRandom().random

    def is_any_due(self, now: float | None = None) -> bool:
        """Whether ``lease_delivery`` is worth a call: asked often, it takes no lock."""
        with reading(self._engine) as connection:
            due = _is_due(clock(connection, now))
            return bool(connection.execute(select(exists().where(due))).scalar_one())

    def lease_delivery(
        self, owner: str, lease_s: float, now: float | None = None
    ) -> LeasedDelivery | None:
        """Take the next delivery that is due, or None; the attempt counts from here.

        Destinations with the fewest busy senders come first; those with an open breaker are left
        alone. A row whose sender went silent is due again when its lease ends.
        """
        with writing(self._engine) as connection:
            now = clock(connection, now)
            chosen = _next_due(now)
            taken = connection.execute(
                update(outbox)
                .where(outbox.c.id == chosen, _is_due(now))
                .values(
                    state=DeliveryState.SENDING.value,
                    owner=owner,
                    lease_until=now + lease_s,
                    attempts=outbox.c.attempts + 1,
                )
                .returning(outbox.c.id)
            ).scalar_one_or_none()
            return None if taken is None else _leased(connection, taken)

    def heartbeat(
        self, delivery_id: int, owner: str, lease_s: float, now: float | None = None
    ) -> None:
        """Keep a delivery for ``lease_s`` from now.

        Raises:
            LeaseLost: It is in other hands.
        """
        with writing(self._engine) as connection:
            until = clock(connection, now) + lease_s
            _change_held(connection, delivery_id, owner, {"lease_until": until})

    def release(self, delivery_id: int, owner: str) -> None:
        """Give a delivery back untried, as at a drain: the attempt does not count.

        Raises:
            LeaseLost: It is in other hands.
        """
        values = {
            "state": DeliveryState.WAITING.value,
            "attempts": outbox.c.attempts - 1,
            **_FREE,
        }
        with writing(self._engine) as connection:
            _change_held(connection, delivery_id, owner, values)

    def record(
        self, delivery_id: int, owner: str, outcome: Outcome, now: float | None = None
    ) -> DeliveryState:
        """Record how an attempt ended; returns what becomes of the row.

        Raises:
            LeaseLost: It is in other hands. The object may have arrived all the same; whoever holds
                the row sends it again, which a store treats as one object.
        """
        with writing(self._engine) as connection:
            now = clock(connection, now)
            row = _held(connection, delivery_id, owner)
            hold_study(connection, row.study_instance_uid)
            values = self._consequence(row, outcome, now)
            if not outcome.is_done and not is_wanted(connection, row.job_id):
                values["state"] = DeliveryState.WITHHELD.value
            _change_held(connection, delivery_id, owner, {**values, **_FREE})
            breakers.note(connection, row.destination, outcome, self._chance(), now)
        return DeliveryState(values["state"])

    def _consequence(self, row: Row[Any], outcome: Outcome, now: float) -> dict[str, Any]:
        values: dict[str, Any] = {
            "reasons": [told(ReasonCode.DELIVERY_TRIED, outcome.sentence).to_json()],
            "last_status": outcome.status,
            "refusals": 0,
            "config_digest": self._config_digest,
        }
        if outcome.is_done:
            return {**values, "state": outcome.kind.value, "sent_at": now}
        if outcome.kind is DeliveryClass.REFUSED:
            values["refusals"] = row.refusals + 1
        if outcome.kind is DeliveryClass.BLOCKED or values["refusals"] >= MAX_REFUSALS:
            blocked = told(ReasonCode.DELIVERY_BLOCKED, outcome.sentence)
            values["reasons"] = [blocked.to_json()]
            return {**values, "state": DeliveryState.BLOCKED.value}
        delay_s = delivery_delay_s(row.attempts, self._chance(), outcome.retry_after_s)
        return {**values, "state": DeliveryState.WAITING.value, "next_at": now + delay_s}

    def take_back(self, owner: str | None) -> int:
        """Make due at once what a process was sending that is known to be dead; returns how many.

        Args:
            owner: Its name; None for all owners, when no sender can be alive.
        """
        whose = outbox.c.owner == owner if owner is not None else true()
        values = {"state": DeliveryState.WAITING.value, **_FREE}
        with writing(self._engine) as connection:
            statement = update(outbox).where(outbox.c.state == DeliveryState.SENDING.value, whose)
            return connection.execute(statement.values(**values)).rowcount

    def free_blocked(self, now: float | None = None) -> int:
        """Let rows try again that another configuration blocked; returns how many."""
        with writing(self._engine) as connection:
            statement = (
                update(outbox)
                .where(
                    outbox.c.state == DeliveryState.BLOCKED.value,
                    outbox.c.config_digest != self._config_digest,
                )
                .values(next_at=clock(connection, now), **_REARMED)
            )
            return connection.execute(statement).rowcount

    def retry(self, delivery_id: int, now: float | None = None) -> None:
        """Send one row again, now, whatever it waits for; also one that was sent or withheld.

        Raises:
            NodeError: There is no such row, it is being sent, it has no destination, or its result is
                implausible and nobody took it.
        """
        with writing(self._engine) as connection:
            _refuse_kept_back(connection, outbox.c.id == delivery_id)
            if _rearm(connection, outbox.c.id == delivery_id, clock(connection, now)) == 0:
                raise NodeError(
                    f"delivery {delivery_id} does not exist, is being sent, or has no destination"
                )

    def retry_destination(self, destination: str, now: float | None = None) -> int:
        """Try everything again that waits for a destination or is blocked there; how many rows."""
        unfinished = outbox.c.state.in_([DeliveryState.WAITING.value, DeliveryState.BLOCKED.value])
        with writing(self._engine) as connection:
            breakers.close(connection, destination)
            where = and_(outbox.c.destination == destination, unfinished)
            return _rearm(connection, where, clock(connection, now))

    def send(self, result_id: int, destination: str, now: float | None = None) -> None:
        """Send a result to one more destination, or to one that has it once more.

        A destination that takes other forms gets those of the same job; what is not made yet is
        encoded first.

        Raises:
            NodeError: There is no such file of a result, it was deleted, or it is implausible and
                nobody took it.
        """
        with writing(self._engine) as connection:
            now = clock(connection, now)
            row = connection.execute(select(result).where(result.c.id == result_id)).one_or_none()
            if row is None or row.state == "deleted" or row.form == LABELS:
                raise NodeError(f"result {result_id} is no object that this node still has")
            _refuse_kept_back(connection, result.c.id == result_id)
            sent = result.c.id == result_id
            if row.form in self._taken.of(destination):
                add_rows(connection, result_id, [destination], now)
            else:
                give_more(connection, row.job_id, [destination], self._taken, now)
                sent = result.c.job_id == row.job_id
            given = select(result.c.id).where(sent)
            where = and_(outbox.c.result_id.in_(given), outbox.c.destination == destination)
            _rearm(connection, where, now)

    def counts(self) -> Mapping[str, int]:
        """How many rows are in each state."""
        statement = select(outbox.c.state, func.count().label("number")).group_by(outbox.c.state)
        with reading(self._engine) as connection:
            return {row.state: row.number for row in connection.execute(statement)}

    def open_breakers(self, now: float | None = None) -> Mapping[str, float]:
        """Destinations that are left alone, and until when."""
        with reading(self._engine) as connection:
            return breakers.open_at(connection, clock(connection, now))


def _refuse_kept_back(connection: Connection, where: ColumnElement[bool]) -> None:
    """An implausible result leaves when its job is accepted, and by no other command."""
    jobs = (
        select(job)
        .join(result, result.c.job_id == job.c.id)
        .join(outbox, outbox.c.result_id == result.c.id, isouter=True)
        .where(where)
    )
    for row in connection.execute(jobs):
        if is_kept_back(row):
            raise NodeError(f"the result is implausible: jobs accept {row.id} delivers it")


def _is_due(now: float) -> ColumnElement[bool]:
    return or_(
        and_(outbox.c.state == DeliveryState.WAITING.value, outbox.c.next_at <= now),
        and_(outbox.c.state == DeliveryState.SENDING.value, outbox.c.lease_until < now),
    )


def _next_due(now: float) -> Any:
    busy = outbox.alias("busy")
    senders = (
        select(func.count())
        .where(
            busy.c.destination == outbox.c.destination,
            busy.c.state == DeliveryState.SENDING.value,
            busy.c.lease_until >= now,
        )
        .scalar_subquery()
    )
    limit = func.coalesce(
        select(breakers.senders_allowed(SENDERS_PER_DESTINATION, now))
        .where(breaker.c.destination == outbox.c.destination)
        .scalar_subquery(),
        SENDERS_PER_DESTINATION,
    )
    return (
        select(outbox.c.id)
        .where(_is_due(now), senders < limit)
        .order_by(senders, outbox.c.next_at, outbox.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )


def _leased(connection: Connection, delivery_id: int) -> LeasedDelivery:
    row = connection.execute(select(outbox).where(outbox.c.id == delivery_id)).one()
    made = connection.execute(select(result).where(result.c.id == row.result_id)).one()
    by = connection.execute(select(job.c.model, job.c.inputs).where(job.c.id == made.job_id)).one()
    return LeasedDelivery(
        id=row.id,
        destination=row.destination,
        attempts=row.attempts,
        model=by.model,
        sources={role: str(given["series_instance_uid"]) for role, given in by.inputs.items()},
        result=result_of(made),
    )


def _held(connection: Connection, delivery_id: int, owner: str) -> Row[Any]:
    statement = (
        select(outbox, result.c.job_id, result.c.study_instance_uid)
        .join(result, result.c.id == outbox.c.result_id)
        .where(_is_held(delivery_id, owner))
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise LeaseLost(f"delivery {delivery_id}", owner)
    return row


def _change_held(
    connection: Connection, delivery_id: int, owner: str, values: dict[str, Any]
) -> None:
    statement = update(outbox).where(_is_held(delivery_id, owner)).values(**values)
    if connection.execute(statement).rowcount == 0:
        raise LeaseLost(f"delivery {delivery_id}", owner)


def _is_held(delivery_id: int, owner: str) -> ColumnElement[bool]:
    return and_(
        outbox.c.id == delivery_id,
        outbox.c.owner == owner,
        outbox.c.state == DeliveryState.SENDING.value,
    )


def _rearm(connection: Connection, where: ColumnElement[bool], now: float) -> int:
    statement = update(outbox).where(where, outbox.c.state.not_in(_NOT_REARMED))
    return connection.execute(statement.values(next_at=now, **_REARMED)).rowcount
