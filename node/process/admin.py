"""What an operator may do, by command line and HTTP alike."""

from __future__ import annotations

from sqlalchemy import Engine

from node.domain.instance import Forced
from node.jobs.outbox import Outbox
from node.jobs.store import JobStore
from node.pipeline.accept import IngestService
from node.pipeline.build import Plan
from node.spool.arrivals import Arrivals


class Admin:
    """Decisions of an operator, written down for the processes that carry them out.

    Args:
        door: The ingest that takes what leaves quarantine.
    """

    def __init__(self, plan: Plan, engine: Engine, door: IngestService) -> None:
        self._arrivals = Arrivals(engine)
        self._jobs = JobStore(engine)
        self._outbox = Outbox(engine, plan.config.digest)
        self._door = door

    def proceed_series(self, series_instance_uid: str, /) -> None:
        """Take a series as complete with what is there."""
        self._arrivals.force(series_instance_uid, Forced.PROCEED)

    def rerun_series(self, series_instance_uid: str, /) -> None:
        """Judge a series again, as a new revision, by the rules in force."""
        self._arrivals.force(series_instance_uid, Forced.RERUN)

    def discard_series(self, series_instance_uid: str, /) -> None:
        """Leave a series alone from now on."""
        self._arrivals.force(series_instance_uid, Forced.DISCARD)

    def retry_job(self, job_id: int, /) -> None:
        """Queue a parked, failed or cancelled job again."""
        self._jobs.retry(job_id)

    def accept_job(self, job_id: int, /) -> None:
        """Take an implausible result all the same; its deliveries leave."""
        self._jobs.accept(job_id)

    def cancel_job(self, job_id: int, /) -> None:
        """End a job that is not done."""
        self._jobs.cancel(job_id)

    def retry_delivery(self, delivery_id: int, /) -> None:
        """Send again, now."""
        self._outbox.retry(delivery_id)

    def accept_quarantine(self, quarantine_id: int, /) -> None:
        """Take an instance in after all."""
        self._door.quarantine.accept(quarantine_id)

    def discard_quarantine(self, quarantine_id: int, /) -> None:
        """Delete an instance from quarantine."""
        self._door.quarantine.discard(quarantine_id)
