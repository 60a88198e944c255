"""What an operator may do and see, by command line and HTTP alike."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from node.database.engine import clock_of, epoch_s, reading, why_unwritable
from node.domain.health import Readiness
from node.domain.instance import Forced, SeriesState
from node.domain.job import DeliveryState, MatchState
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.jobs.store import JobStore
from node.pipeline.accept import IngestService
from node.pipeline.build import Plan
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard


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


class NodeHealth:
    """The state of the whole node, as the database and the disk show it."""

    def __init__(self, engine: Engine, space: SpaceGuard) -> None:
        self._engine = engine
        self._space = space

    def readiness(self) -> Readiness:
        """What ``/readyz`` and ``segnode status`` tell."""
        database = why_unwritable(self._engine)
        try:
            counts = self._counts()
        except DBAPIError as error:
            counts = {}
            database = database or f"the database cannot be read ({type(error.orig).__name__})"
        return Readiness(**counts, shortage=self._space.shortage, database=database)

    def _counts(self) -> dict[str, int]:
        held = SpoolCatalog(self._engine).count_series(SeriesState.HELD)
        stuck = (MatchState.HELD, MatchState.PARKED, MatchState.FAILED, MatchState.IMPLAUSIBLE)
        matches = MatchStore(self._engine).counts(*stuck)
        blocked = Outbox(self._engine).counts(DeliveryState.BLOCKED)
        return {
            "held": held.get(SeriesState.HELD, 0) + matches.get(MatchState.HELD, 0),
            "parked": matches.get(MatchState.PARKED, 0) + matches.get(MatchState.FAILED, 0),
            "implausible": matches.get(MatchState.IMPLAUSIBLE, 0),
            "blocked": blocked.get(DeliveryState.BLOCKED, 0),
            "ahead_s": self._ahead_s(),
        }

    def _ahead_s(self) -> int:
        with reading(self._engine) as connection:
            epoch_s(connection)
        return round(clock_of(self._engine).ahead_s)
