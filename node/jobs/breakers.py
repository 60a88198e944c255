"""Circuit breakers: a destination that failed three times in a row is left alone for a while.

Only ends that are the destination's own fault count. When its time is over one sender tries; an
answer closes the breaker, and a success brings forward what had been waiting for that.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, case, select, update

from node.domain.delivery import Outcome
from node.domain.job import DeliveryState
from node.jobs.retry import BREAKER_OPENS_AT, breaker_delay_s
from node.jobs.rows import insert_if_absent
from node.jobs.tables import breaker, outbox


def note(
    connection: Connection, destination: str, outcome: Outcome, jitter: float, now: float
) -> None:
    """Take one end into account."""
    insert_if_absent(
        connection, breaker, {"destination": destination, "failures": 0, "open_until": 0.0}
    )
    failures = connection.execute(
        select(breaker.c.failures).where(breaker.c.destination == destination).with_for_update()
    ).scalar_one()
    if outcome.destination_sick:
        delay_s = breaker_delay_s(failures + 1, jitter)
        _set(connection, destination, failures + 1, now + delay_s if delay_s else 0.0)
        return
    close(connection, destination)
    if failures and outcome.is_done:
        _wake(connection, destination, now)


def close(connection: Connection, destination: str) -> None:
    """Let everything through again."""
    _set(connection, destination, 0, 0.0)


def open_at(connection: Connection, now: float) -> dict[str, float]:
    """Destinations that are left alone, and until when."""
    rows = connection.execute(
        select(breaker.c.destination, breaker.c.open_until).where(breaker.c.open_until > now)
    )
    return {row.destination: row.open_until for row in rows}


def senders_allowed(usual: int, now: float) -> Any:
    """As SQL over ``breaker``: none while open, one to try after that, else the usual number."""
    return case(
        (breaker.c.open_until > now, 0),
        (breaker.c.failures >= BREAKER_OPENS_AT, 1),
        else_=usual,
    )


def _set(connection: Connection, destination: str, failures: int, open_until: float) -> None:
    connection.execute(
        update(breaker)
        .where(breaker.c.destination == destination)
        .values(failures=failures, open_until=open_until)
    )


def _wake(connection: Connection, destination: str, now: float) -> None:
    """What waits for nothing but this destination's health need not wait any longer."""
    connection.execute(
        update(outbox)
        .where(
            outbox.c.destination == destination,
            outbox.c.state == DeliveryState.WAITING.value,
            outbox.c.refusals == 0,
            outbox.c.next_at > now,
        )
        .values(next_at=now)
    )
