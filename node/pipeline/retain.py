"""Retention: files that nothing needs any more are deleted, their rows stay as tombstones.

What an open series, an unfinished job or an undelivered result needs is never deleted, however full
the disk is. A disk beyond its watermark is swept more often and not more severely: ``keep_days``
says what may go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine

from node.config import KeepDays
from node.domain.instance import Instance
from node.domain.job import MatchState
from node.infer.report import LOG_FILE
from node.jobs.results import ResultStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.pipeline.accept import spool_settings
from node.pipeline.build import Plan
from node.spool.arrivals import Arrivals
from node.spool.files import Spool
from node.spool.index import Index
from node.spool.losses import Losses
from node.spool.retention import sweep_instances, sweep_quarantine

log = logging.getLogger(__name__)

DAY_S = 86_400.0
SWEEP_S = 60.0

_NEEDED = frozenset({MatchState.RECEIVING, MatchState.QUEUED, MatchState.RUNNING})
_PARKED = frozenset({MatchState.HELD, MatchState.PARKED, MatchState.FAILED, MatchState.IMPLAUSIBLE})


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of series, as one sweep sees it.

    Args:
        matches: Series Instance UID -> states of the matches that it has a part in.
        open: Series that are arriving, or whose row is older than their newest instance.
        held: Series that wait for a person.
        in_use: Series that unfinished jobs read.
    """

    matches: Mapping[str, frozenset[MatchState]]
    open: frozenset[str]
    held: frozenset[str]
    in_use: frozenset[str]
    keep: KeepDays

    def is_needed(self, instance: Instance) -> bool:
        """Whether an open series, a waiting rule or an unfinished job reads it still."""
        uid = instance.series_instance_uid
        if uid in self.open or uid in self.in_use:
            return True
        return bool(_NEEDED & self.matches.get(uid, frozenset()))

    def keep_days(self, instance: Instance) -> float:
        """How long it is kept after it came in; the longest of what its series became."""
        uid = instance.series_instance_uid
        states = self.matches.get(uid, frozenset())
        reasons = [
            (MatchState.DONE in states, self.keep.done),
            (bool(_PARKED & states) or uid in self.held, self.keep.parked),
        ]
        return max((days for applies, days in reasons if applies), default=self.keep.unmatched)


class Retention:
    """Sweeps instances, results and quarantine; belongs to the process "route"."""

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        self._spool = Spool(spool_settings(plan.config), Index(engine))
        self._swept_at = float("-inf")

    def use(self, plan: Plan) -> None:
        self._plan = plan
        self._swept_at = float("-inf")

    def sweep(self, now: float) -> None:
        """One round, if it is time for one or the disk is short."""
        if now - self._swept_at < SWEEP_S and not self._spool.shortage:
            return
        self._swept_at = now
        keep = self._plan.config.storage.keep_days
        arrivals = Arrivals(self._engine)
        arrivals.close_dead_associations(now)
        # what is open is asked first: a series that is settled after that is needed in this sweep,
        # and one that comes after that is beyond the newest row
        unsettled, newest_row = arrivals.unsettled()
        held = frozenset(arrivals.held_series())
        fates = Fates(
            matches=SeriesWork(self._engine).fates(),
            open=frozenset(unsettled) - held,
            held=held,
            in_use=JobStore(self._engine).series_in_use(),
            keep=keep,
        )
        freed = sweep_instances(
            self._engine,
            self._spool,
            now=now,
            keep_days=fates.keep_days,
            is_needed=fates.is_needed,
            up_to_row=newest_row,
        )
        refused = sweep_quarantine(
            self._engine,
            self._spool.quarantine.folder,
            now=now,
            keep_days=keep.quarantine,
        )
        Losses(self._engine).sweep(now=now, keep_s=keep.quarantine * DAY_S)
        results = self._sweep_results(now - keep.results * DAY_S)
        if freed or refused or results:
            log.info(
                "retention",
                extra={"instances": freed, "quarantine": refused, "results": results},
            )

    def _sweep_results(self, before: float) -> int:
        gone = ResultStore(self._engine).retire(before)
        for stored in gone:
            path = self._plan.results_folder / stored.file.file_name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other results of the job are still there
                path.parent.rmdir()
        for path in self._plan.results_folder.glob(f"*/{LOG_FILE}"):
            if path.stat().st_mtime < before:  # of a job without results, too
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
        return len(gone)
