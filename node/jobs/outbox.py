"""The outbox: one row per (result object, destination), tried for days.

One subject: what is due next, and what the end of an attempt says of the row and its destination.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Engine,
    Row,
    bindparam,
    select,
    union_all,
    update,
)

from node.database.engine import (
    column_of,
    each_of,
    inserting,
    is_one_of,
    reading,
    rows_of,
    stored,
    update_each,
    writing,
)
from node.database.pages import counts_of
from node.domain.delivery import DeliveryClass, FormsTaken, Outcome
from node.domain.errors import NodeError
from node.domain.job import DeliveryState
from node.domain.reasons import ReasonCode, told
from node.jobs.leases import FREE, change_held, is_held, lease_lost
from node.jobs.matches import clock, deciding, hold_study, is_wanted
from node.jobs.results import add_rows, give_more, result_of
from node.jobs.retry import BREAKER_OPENS_AT, MAX_REFUSALS, breaker_delay_s, delivery_delay_s
from node.jobs.revisions import why_kept_back
from node.jobs.tables import breaker, job, outbox, result
from node.jobs.values import LABELS, LeasedDelivery

# Senders that may be busy with one destination at a time: one that is slow to fail cannot take all
SENDERS_PER_DESTINATION = 2

# Rows that are changed in one transaction: a sender that leases waits that long
_BATCH = 50

_IS_WAITING = outbox.c.state == DeliveryState.WAITING.value
_IS_SENDING = outbox.c.state == DeliveryState.SENDING.value

_REARMED: dict[str, Any] = {
    "state": DeliveryState.WAITING.value,
    "attempts": 0,
    "refusals": 0,
    "reasons": [],
    **FREE,
}
_NOT_REARMED = (DeliveryState.SENDING.value, DeliveryState.NO_DESTINATION.value)


class Outbox:
    """Takes deliveries, records how they ended, and keeps sick destinations apart.

    Args:
        config_digest: Of the configuration in force: rows it blocked are freed by another one.
        chance: Numbers in [0, 1) that spread retries.
        taken: Which forms destinations take.
    Raises:
        LeaseLost: From all that names an owner: the delivery is in other hands.
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
        """Whether ``lease_delivery`` is worth a call: asked often, it takes no lock.

        What is due at destinations that may take nothing now is no reason to call.
        """
        with reading(self._engine) as connection:
            return bool(_next_due(connection, clock(connection, now)))

    def lease_delivery(
        self, owner: str, lease_s: float, now: float | None = None
    ) -> LeasedDelivery | None:
        """Take the next delivery that is due, or None; the attempt counts from here.

        Destinations with the fewest busy senders come first, then what is due longest; those with an
        open breaker are left alone. A row whose sender went silent is due again when its lease ends.
        """
        with deciding(self._engine, now) as (connection, now):
            values = {
                "state": DeliveryState.SENDING.value,
                "owner": owner,
                "lease_until": now + lease_s,
                "attempts": outbox.c.attempts + 1,
            }
            for delivery_id in _next_due(connection, now):
                its = outbox.c.id == delivery_id
                free = select(outbox.c.id).where(its, _is_due(now))
                free = free.with_for_update(skip_locked=True)
                taken = update(outbox).where(outbox.c.id == free.scalar_subquery())
                if connection.execute(taken.values(**values)).rowcount:
                    return _leased(connection, delivery_id)
            return None

    def heartbeat(
        self, delivery_id: int, owner: str, lease_s: float, now: float | None = None
    ) -> None:
        """Keep a delivery for ``lease_s`` from now."""
        with deciding(self._engine, now) as (connection, now):
            change_held(connection, outbox, delivery_id, owner, {"lease_until": now + lease_s})

    def release(self, delivery_id: int, owner: str) -> None:
        """Give a delivery back untried, as at a drain: the attempt does not count."""
        values = {"state": DeliveryState.WAITING.value, "attempts": outbox.c.attempts - 1, **FREE}
        with writing(self._engine) as connection:
            change_held(connection, outbox, delivery_id, owner, values)

    def record(
        self, delivery_id: int, owner: str, outcome: Outcome, now: float | None = None
    ) -> DeliveryState:
        """Record how an attempt ended; returns what becomes of the row.

        Where its lease is lost the object may have arrived all the same; whoever holds the row sends
        it again, which a store treats as one object.
        """
        with deciding(self._engine, now) as (connection, now):
            row = _held(connection, delivery_id, owner)
            hold_study(connection, row.study_instance_uid)
            values = self._consequence(row, outcome, now)
            if not outcome.is_done and not is_wanted(connection, row.job_id):
                values["state"] = DeliveryState.WITHHELD.value
            change_held(connection, outbox, delivery_id, owner, {**values, **FREE})
            is_back = _note_end(connection, row.destination, outcome, self._chance(), now)
        if is_back:
            self._bring_forward(row.destination, now)
        return DeliveryState(values["state"])

    def _bring_forward(self, destination: str, now: float) -> None:
        """What waits for nothing but a destination's health need not wait any longer.

        Where this is cut short the rest comes at its own time.
        """
        for_health = (outbox.c.refusals == 0, outbox.c.next_at > now)
        its = (_IS_WAITING, outbox.c.destination == destination)
        self._in_batches({"next_at": now}, *its, *for_health)

    def _in_batches(self, values: Mapping[str, Any], *where: ColumnElement[bool]) -> int:
        """Change all rows of which something is true, in short transactions; returns how many."""
        ids = column_of(self._engine, select(outbox.c.id).where(*where).order_by(outbox.c.id))
        changed = 0
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            with writing(self._engine) as connection:
                changed += update_each(connection, outbox, some, values, *where)
        return changed

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
        held = update(outbox).where(_IS_SENDING)
        if owner is not None:
            held = held.where(outbox.c.owner == owner)
        values = {"state": DeliveryState.WAITING.value, **FREE}
        with writing(self._engine) as connection:
            return connection.execute(held.values(**values)).rowcount

    def free_blocked(self, now: float | None = None) -> int:
        """Let rows try again that another configuration blocked; returns how many."""
        is_blocked = outbox.c.state == DeliveryState.BLOCKED.value
        by_another = outbox.c.config_digest != self._config_digest
        with reading(self._engine) as connection:
            now = clock(connection, now)
        return self._in_batches({"next_at": now, **_REARMED}, is_blocked, by_another)

    def retry(self, delivery_id: int, now: float | None = None) -> None:
        """Send one row again, now, whatever it waits for; also one that was sent or withheld.

        Raises:
            NodeError: There is no such row, it is being sent, it has no destination, or its result is
                implausible and nobody took it.
        """
        with deciding(self._engine, now) as (connection, now):
            _refuse_kept_back(connection, outbox.c.id == delivery_id)
            if _rearm(connection, now, outbox.c.id == delivery_id) == 0:
                raise NodeError(
                    f"delivery {delivery_id} does not exist, is being sent, or has no destination"
                )

    def retry_destination(self, destination: str, now: float | None = None) -> int:
        """Try everything again that waits for a destination or is blocked there; how many rows."""
        unfinished = is_one_of(outbox.c.state, stored(DeliveryState.WAITING, DeliveryState.BLOCKED))
        with deciding(self._engine, now) as (connection, now):
            _set_breaker(connection, destination)
        rearmed = {"next_at": now, **_REARMED}
        return self._in_batches(rearmed, outbox.c.destination == destination, unfinished)

    def send(self, result_id: int, destination: str, now: float | None = None) -> None:
        """Send a result to one more destination, or to one that has it once more.

        A destination that takes other forms gets those of the same job; what is not made yet is
        encoded first.

        Raises:
            NodeError: There is no such file of a result, it was deleted, or it is implausible and
                nobody took it.
        """
        with deciding(self._engine, now) as (connection, now):
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
            given = outbox.c.result_id.in_(select(result.c.id).where(sent))
            _rearm(connection, now, given, outbox.c.destination == destination)

    def counts(self, *states: DeliveryState) -> Mapping[str, int]:
        """State -> number of deliveries; without an argument all that there are."""
        return counts_of(self._engine, outbox.c.state, states or DeliveryState)

    def sick_destinations(self) -> Mapping[str, int]:
        """Destinations that did not take what they were sent last, and how often in a row."""
        query = select(breaker).where(breaker.c.failures > 0).order_by(breaker.c.destination)
        return {row.destination: row.failures for row in rows_of(self._engine, query)}

    def open_breakers(self, now: float | None = None) -> Mapping[str, float]:
        """Destinations that are left alone, and until when."""
        with reading(self._engine) as connection:
            is_open = breaker.c.open_until > clock(connection, now)
            found = connection.execute(select(breaker).where(is_open))
            return {row.destination: row.open_until for row in found}


def _refuse_kept_back(connection: Connection, where: ColumnElement[bool]) -> None:
    """An implausible result leaves when its job is accepted, and by no other command."""
    jobs = (
        select(job)
        .join(result, result.c.job_id == job.c.id)
        .join(outbox, outbox.c.result_id == result.c.id, isouter=True)
        .where(where)
    )
    for row in connection.execute(jobs):
        if why_kept_back(row):
            raise NodeError(f"the result is implausible: jobs accept {row.id} delivers it")


def _is_due(now: float) -> ColumnElement[bool]:
    is_lost = _IS_SENDING & (outbox.c.lease_until < now)
    return (_IS_WAITING & (outbox.c.next_at <= now)) | is_lost


def _first_and_busy() -> CompoundSelect[int | None]:
    """Rows that are due first at each destination at the time ``now``, and all that are being sent."""
    names = each_of(outbox.c.destination, _IS_WAITING)
    is_due = outbox.c.next_at <= bindparam("now")
    first = (
        select(outbox.c.id)
        .where(_IS_WAITING, outbox.c.destination == names.c.value, is_due)
        .order_by(outbox.c.next_at, outbox.c.id)
        .limit(1)
        .correlate(names)
    )
    waiting = select(first.scalar_subquery()).select_from(names)
    return union_all(waiting, select(outbox.c.id).where(_IS_SENDING))


# made once: to make it takes longer than to ask it
_FIRST_AND_BUSY = _first_and_busy()


def _next_due(connection: Connection, now: float) -> Sequence[int]:
    """What is due first at each destination that may take one more now, in the order to try.

    One row for each: senders that ask at once get the same, only one of them takes it, and whoever
    asks after that counts it. So their number is kept without a lock.
    """
    found = connection.execute(_FIRST_AND_BUSY, {"now": now}).scalars()
    ids = [delivery for delivery in found if delivery is not None]
    if not ids:
        return []
    due: list[Row[Any]] = []
    busy: Counter[str] = Counter()
    # a question of its own: as one with the other PostgreSQL joins over all deliveries
    for row in connection.execute(select(outbox).where(outbox.c.id.in_(ids))):
        if row.state == DeliveryState.SENDING.value and row.lease_until >= now:
            busy[row.destination] += 1
        else:
            due.append(row)  # it waits, or its sender went silent
    limits = {
        row.destination: 0 if row.open_until > now else 1
        for row in connection.execute(select(breaker).where(_is_sick(now)))
    }
    free = [
        row
        for row in due
        if busy[row.destination] < limits.get(row.destination, SENDERS_PER_DESTINATION)
    ]
    free.sort(key=lambda row: (busy[row.destination], row.next_at, row.id))
    return [row.id for row in free]


def _is_sick(now: float) -> ColumnElement[bool]:
    """Whether a destination is left alone, or one sender at a time tries how it is."""
    return (breaker.c.failures >= BREAKER_OPENS_AT) | (breaker.c.open_until > now)


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
        .where(is_held(outbox, delivery_id, owner))
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise lease_lost(outbox, delivery_id, owner)
    return row


def _rearm(connection: Connection, now: float, *where: ColumnElement[bool]) -> int:
    statement = update(outbox).where(*where, outbox.c.state.not_in(_NOT_REARMED))
    return connection.execute(statement.values(next_at=now, **_REARMED)).rowcount


def _note_end(
    connection: Connection, destination: str, outcome: Outcome, jitter: float, now: float
) -> bool:
    """Take one end into account; returns whether a destination that was sick is well again.

    Only ends that are the destination's own fault count: three in a row, and it is left alone for a
    while. When its time is over one sender tries; an answer closes the breaker, and a success
    brings forward what had been waiting for that.
    """
    fresh = inserting(connection, breaker).values(destination=destination)
    connection.execute(fresh.on_conflict_do_nothing())
    its = select(breaker.c.failures).where(breaker.c.destination == destination)
    failures = connection.execute(its.with_for_update()).scalar_one()
    if outcome.destination_sick:
        delay_s = breaker_delay_s(failures + 1, jitter)
        _set_breaker(connection, destination, failures + 1, now + delay_s if delay_s else 0.0)
        return False
    _set_breaker(connection, destination)
    return bool(failures) and outcome.is_done


def _set_breaker(
    connection: Connection, destination: str, failures: int = 0, open_until: float = 0.0
) -> None:
    its = update(breaker).where(breaker.c.destination == destination)
    connection.execute(its.values(failures=failures, open_until=open_until))
