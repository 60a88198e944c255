"""Giving a result to destinations: what is made of it is delivered, what is not is made first.

A form that is asked for when a job has ended queues the job again. Its labels are durable, so its next
attempt only encodes and verifies; where retention took them the model runs once more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, select, update

from node.domain.delivery import FormsTaken
from node.domain.errors import NodeError
from node.domain.job import JobState, Settled
from node.domain.reasons import Reason
from node.jobs.matches import follow_job
from node.jobs.outbox_rows import add_rows, kept_back
from node.jobs.revisions import is_kept_back
from node.jobs.rows import files_of, hold_study, say_why
from node.jobs.tables import job

_HOW_IT_ENDED = {
    JobState.DONE.value: Settled.DONE,
    JobState.IMPLAUSIBLE.value: Settled.IMPLAUSIBLE,
}


def give(
    connection: Connection,
    row: Row[Any],
    destinations: Collection[str],
    taken: FormsTaken,
    now: float,
    *,
    withheld: Reason | None = None,
) -> None:
    """Let destinations have a job's result, each in the forms that it takes.

    Args:
        row: Of the job; these are destinations of it already.
        withheld: Why nothing may leave now, if it may not.
    """
    for made in files_of(connection, row.id):
        takers = taken.takers(made.file.form, destinations)
        add_rows(connection, made.id, takers, now, withheld=withheld)
    if row.state not in _HOW_IT_ENDED:
        return  # an unfinished job is made into all that its destinations take when it ends
    if set(taken.of_all(destinations)) <= set(row.forms):
        return
    settled = _HOW_IT_ENDED[row.state]
    if row.settled == Settled.ACCEPTED:
        settled = Settled.ACCEPTED
    connection.execute(
        update(job)
        .where(job.c.id == row.id)
        .values(
            state=JobState.QUEUED.value,
            settled=settled.value,
            attempts=0,
            not_before=0.0,
            finished_at=None,
        )
    )
    say_why(connection, row.id)
    follow_job(connection, row.id, JobState.QUEUED, now)


def give_more(
    connection: Connection,
    job_id: int,
    destinations: Collection[str],
    taken: FormsTaken,
    now: float,
) -> None:
    """Give a job's result to destinations that may be new to it.

    Raises:
        NodeError: There is no such job.
    """
    row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
    if row is None:
        raise NodeError(f"there is no job {job_id}")
    hold_study(connection, row.study_instance_uid)
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    together = list(dict.fromkeys([*row.destinations, *destinations]))
    connection.execute(update(job).where(job.c.id == job_id).values(destinations=together))
    withheld = kept_back(job_id) if is_kept_back(row) else None
    give(connection, row, destinations, taken, now, withheld=withheld)
