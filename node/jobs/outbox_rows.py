"""How rows get into the outbox: one per (object, destination), in their maker's transaction."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from node.domain.job import DeliveryState
from node.jobs.rows import insert_if_absent
from node.jobs.tables import outbox

NO_DESTINATION_SENTENCE = "no destination is known: deliveries send RESULT --to NAME sends it"


def kept_back(job_id: int) -> str:
    """Why the deliveries of an implausible result wait, and what frees them."""
    return f"the result is implausible: jobs accept {job_id} delivers it"


def add_rows(
    connection: Connection,
    result_id: int,
    destinations: Iterable[str],
    now: float,
    *,
    withheld: str = "",
) -> int:
    """Add what is missing; returns how many rows are new.

    Args:
        destinations: Names; the empty name stands for a sender that nobody knows: the result is kept
            and an operator sees that it went nowhere.
        withheld: Why the rows must not be sent, or empty.
    """
    added = 0
    for name in dict.fromkeys(destinations):
        state, sentence = DeliveryState.WAITING, ""
        if not name:
            state, sentence = DeliveryState.NO_DESTINATION, NO_DESTINATION_SENTENCE
        elif withheld:
            state, sentence = DeliveryState.WITHHELD, withheld
        values = {
            "result_id": result_id,
            "destination": name,
            "state": state.value,
            "sentence": sentence,
            "next_at": now,
            "created_at": now,
        }
        added += insert_if_absent(connection, outbox, values)
    return added
