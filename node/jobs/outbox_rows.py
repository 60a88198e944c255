"""How rows get into the outbox: one per (object, destination), in their maker's transaction."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from node.domain.job import DeliveryState
from node.domain.reasons import Reason, ReasonCode, reasons_to_json
from node.jobs.rows import insert_if_absent
from node.jobs.tables import outbox


def kept_back(job_id: int) -> Reason:
    """Why the deliveries of an implausible result wait."""
    return Reason(ReasonCode.RESULT_IMPLAUSIBLE, {"job": job_id})


def add_rows(
    connection: Connection,
    result_id: int,
    destinations: Iterable[str],
    now: float,
    *,
    withheld: Reason | None = None,
) -> int:
    """Add what is missing; returns how many rows are new.

    Args:
        destinations: Names; the empty name stands for a sender that nobody knows: the result is kept
            and an operator sees that it went nowhere.
        withheld: Why the rows must not be sent, if they must not.
    """
    added = 0
    for name in dict.fromkeys(destinations):
        state, why = DeliveryState.WAITING, None
        if not name:
            state, why = DeliveryState.NO_DESTINATION, Reason(ReasonCode.NO_DESTINATION)
        elif withheld is not None:
            state, why = DeliveryState.WITHHELD, withheld
        values = {
            "result_id": result_id,
            "destination": name,
            "state": state.value,
            "reasons": reasons_to_json([why] if why is not None else ()),
            "next_at": now,
            "created_at": now,
        }
        added += insert_if_absent(connection, outbox, values)
    return added
