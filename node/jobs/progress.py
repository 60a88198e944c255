"""How far the work of a revision went: what a late instance does depends on it."""

from __future__ import annotations

from sqlalchemy import Engine, select

from node.database.engine import reading
from node.domain.job import DeliveryState, JobState
from node.jobs.tables import job, match, outbox, result

_DELIVERED = (DeliveryState.SENT.value, DeliveryState.WARNED.value)
_IN_WORK = (JobState.RUNNING.value, JobState.DONE.value)


class WorkProgress:
    """Reads matches, jobs and deliveries of one series and revision."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def furthest(self, series_instance_uid: str, revision: int) -> str:
        """NO_JOB, QUEUED, IN_WORK or DELIVERED, whichever its work reached."""
        mine = select(match.c.job_id).where(
            match.c.series_key == series_instance_uid,
            match.c.revision == revision,
            match.c.job_id.is_not(None),
        )
        sent = (
            select(outbox.c.id)
            .join(result, result.c.id == outbox.c.result_id)
            .where(result.c.job_id.in_(mine), outbox.c.state.in_(_DELIVERED))
        )
        with reading(self._engine) as connection:
            states = set(
                connection.execute(select(job.c.state).where(job.c.id.in_(mine))).scalars()
            )
            if connection.execute(sent).first() is not None:
                return "DELIVERED"
        if states.intersection(_IN_WORK):
            return "IN_WORK"
        return "QUEUED" if states else "NO_JOB"
