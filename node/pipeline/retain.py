"""Retention: files that nothing needs any more go, and later the rows that tell of them.

What an open series, an unfinished job or an undelivered result needs is never deleted, however full
the disk is. A disk beyond its watermark is swept more often and not more severely: ``keep_days``
says what may go.

A sweep looks at the studies of which a series is due (``series.sweep_at``), some at a time. What has
to go is judged again in the transaction in which it goes, while nobody can add to the study. What is
not due yet is looked at again when it is, and at most a day later: who ends a job need not tell.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from itertools import chain, islice
from math import inf
from pathlib import Path
from zlib import crc32

from sqlalchemy import Connection, Engine

from node.config import KeepDays
from node.database.engine import clock_time_s, reading, writing
from node.domain.instance import SeriesState
from node.domain.job import MatchState
from node.jobs.matches import hold_study
from node.jobs.results import ResultStore
from node.jobs.retention import StudyWork, delete_work, has_newest_work, hold_work, work_of
from node.pipeline.accept import spool_settings
from node.pipeline.build import Plan
from node.spool.arrivals import Arrivals
from node.spool.files import SeriesMarkers, SpaceGuard
from node.spool.index import hold_arrivals
from node.spool.parts import remove_stale_parts
from node.spool.retention import (
    Files,
    KeptSeries,
    bury,
    delete_series,
    delete_tombstones,
    due_studies,
    files_of,
    forget,
    forget_associations,
    forget_events,
    forget_losses,
    forget_quarantine,
    has_newest_instance,
    hold_series,
    look_again,
    notice_days,
    series_of,
    sweep_quarantine,
)

log = logging.getLogger(__name__)

DAY_S = 86_400.0
SWEEP_S = 60.0
_HOUR_S = 3_600.0
# what one call does at most: series to look at, files of each kind, batches of what is done daily
_LOOKS = 200
# studies in one transaction
_TOGETHER = 8
_FILES = 500
_STEPS = 8
# what one transaction deletes, and folders of jobs in a batch
_ROWS = 2_000
_FOLDERS = 200

_JOB_FOLDER = re.compile("[0-9]{1,9}")

_NEEDED = frozenset({MatchState.RECEIVING, MatchState.QUEUED, MatchState.RUNNING})
_PARKED = frozenset({MatchState.HELD, MatchState.PARKED, MatchState.FAILED, MatchState.IMPLAUSIBLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is to be done about one study at one moment.

    Args:
        rows: Its series.
        buries: Series whose files go.
        is_old: Nothing needs the study any more, and its history has its age.
        forgets: Its tombstones have to forget what they recognise.
        goes: Its rows go.
        again_at: When to look again, where nothing of this is to be done.
    """

    rows: tuple[KeptSeries, ...] = ()
    buries: tuple[KeptSeries, ...] = ()
    is_old: bool = False
    forgets: bool = False
    goes: bool = False
    again_at: float

    @property
    def is_nothing(self) -> bool:
        return not (self.buries or self.forgets or self.goes)


def keep_s(row: KeptSeries, work: StudyWork, keep: KeepDays) -> float:
    """How long files are kept after the last one came: the longest of what the series became.

    Without end while it is open, or a waiting rule or an unfinished job reads it.
    """
    uid = row.series_instance_uid
    states = work.fates.get(uid, frozenset())
    if row.state is SeriesState.RECEIVING or row.forced or uid in work.in_use or _NEEDED & states:
        return inf
    reasons = [
        (MatchState.DONE in states, keep.done),
        (bool(_PARKED & states) or row.state is SeriesState.HELD, keep.parked),
    ]
    return DAY_S * max((days for applies, days in reasons if applies), default=keep.unmatched)


def judge_study(
    rows: Sequence[KeptSeries],
    work: StudyWork,
    files: Mapping[str, Files],
    keep: KeepDays,
    now: float,
) -> Look:
    """What may go of a study.

    Args:
        files: Of the series whose days are over.
    """
    buries: list[KeptSeries] = []
    again_at = [now + DAY_S]
    for row in rows:
        kept_s = keep_s(row, work, keep)
        found = files.get(row.series_instance_uid)
        if kept_s == inf:
            again_at.append(now + _HOUR_S)
        elif found is None:
            again_at.append(row.last_received_at + kept_s)
        elif found.kept:
            if found.newest_row > row.newest_row:  # the tick has not seen all of it
                if row.state is not SeriesState.HELD:
                    again_at.append(now + _HOUR_S)
                    continue
                kept_s = max(kept_s, DAY_S)
            due_at = found.received_at + kept_s
            again_at.append(due_at)
            if due_at <= now:
                buries.append(row)
    look = Look(rows=tuple(rows), buries=tuple(buries), again_at=min(again_at))
    if not rows or not work.is_over or any(_has_files(row, files) for row in rows):
        return look
    changed_at = max(work.changed_at, *(row.updated_at for row in rows))
    changed_at = max(changed_at, *(files[row.series_instance_uid].deleted_at for row in rows))
    old_at = changed_at + keep.history * DAY_S
    if now < old_at:
        return replace(look, again_at=min(look.again_at, old_at))
    forgotten_at = [row.forgotten_at for row in rows if row.forgotten_at is not None]
    if len(forgotten_at) < len(rows):
        return replace(look, is_old=True, forgets=True)
    goes_at = max(forgotten_at) + DAY_S
    return replace(look, is_old=True, goes=goes_at <= now, again_at=min(look.again_at, goes_at))


def _has_files(row: KeptSeries, files: Mapping[str, Files]) -> bool:
    """Whether files of a series are there, or may be."""
    found = files.get(row.series_instance_uid)
    return found is None or found.kept > 0


class Retention:
    """Sweeps studies, results, quarantine and what goes by age; belongs to the process "route".

    Attributes:
        has_more: The last sweep left something that is due; the next one goes on with it.
    """

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        spool = spool_settings(plan.config)
        self._folders = spool.folders.made()
        self._space = SpaceGuard.of(spool)
        self._markers = SeriesMarkers(spool.folders.series)
        self._results = ResultStore(engine)
        self._swept_at = self._aged_at = -inf
        self._ageing: Iterator[object] | None = None
        self.has_more = False

    def use(self, plan: Plan) -> None:
        self._plan = plan
        self._swept_at = self._aged_at = -inf

    @property
    def _keep(self) -> KeepDays:
        return self._plan.config.storage.keep_days

    def sweep(self, now: float) -> None:
        """One bounded round, if it is time for one, the last left something, or the disk is short.

        Where files cannot be deleted now, neither are their rows.
        """
        if not os.access(self._folders.instances, os.W_OK):
            return
        is_short = bool(self._space.shortage)
        if now - self._swept_at < SWEEP_S and not (self.has_more or is_short):
            return
        self._swept_at = now
        notice_days(self._engine, crc32(repr(astuple(self._keep)).encode()) >> 1, now)
        Arrivals(self._engine).close_dead_associations(now)
        # on a short disk also what something needed at its last look: it may be over
        due = due_studies(self._engine, now + _HOUR_S if is_short else now, _LOOKS)
        freed = self._sweep_studies(frozenset(due), now)
        refused = sweep_quarantine(
            self._engine,
            self._folders.quarantine,
            now - self._keep.quarantine * DAY_S,
            limit=_FILES,
        )
        results = self._sweep_results(now)
        self.has_more = len(due) == _LOOKS or _FILES in (refused, results)
        self.has_more |= self._age(now)
        if freed or refused or results:
            log.info(
                "retention",
                extra={"instances": freed, "quarantine": refused, "results": results},
            )

    # --- studies ---------------------------------------------------------------------------------

    def _sweep_studies(self, studies: Collection[str], now: float) -> int:
        """Look at some studies; how many files went."""
        freed = 0
        looked_at: list[tuple[KeptSeries, float]] = []
        with reading(self._engine) as connection:
            looks = self._looks(connection, studies, now)
        due = sorted(study for study, look in looks.items() if not look.is_nothing)
        for start in range(0, len(due), _TOGETHER):
            names, carried_out = self._carry_out(due[start : start + _TOGETHER], now)
            looks = {**looks, **carried_out}
            freed += len(names)
        for look in looks.values():
            again_at = look.again_at if look.is_nothing else now
            looked_at += [(row, max(again_at, now + SWEEP_S)) for row in look.rows]
        look_again(self._engine, looked_at)
        if freed:
            self._space.forget()
        return freed

    def _looks(
        self, connection: Connection, studies: Collection[str], now: float
    ) -> Mapping[str, Look]:
        """What is to be done about some studies; rows stay while something outside needs them."""
        judged = self._judged(connection, studies, now)
        return {
            uid: self._held_back(connection, look, work, now) if look.goes else look
            for uid, (look, work) in judged.items()
        }

    def _judged(
        self, connection: Connection, studies: Collection[str], now: float
    ) -> Mapping[str, tuple[Look, StudyWork]]:
        """Judge some studies by themselves; the same number of queries for any number of them."""
        if not studies:
            return {}
        keep, work = self._keep, work_of(connection, studies)
        series: dict[str, list[KeptSeries]] = {uid: [] for uid in studies}
        for row in series_of(connection, studies):
            series[row.study_instance_uid].append(row)
        over = [
            row.series_instance_uid
            for uid, rows in series.items()
            for row in rows
            if row.last_received_at + keep_s(row, work[uid], keep) <= now
        ]
        files = {**dict.fromkeys(over, Files()), **files_of(connection, over)}
        return {
            uid: (judge_study(rows, work[uid], files, keep, now), work[uid])
            for uid, rows in series.items()
        }

    def _held_back(self, connection: Connection, look: Look, work: StudyWork, now: float) -> Look:
        """A study keeps its rows while they hold the newest numbers, or a younger one names its jobs."""
        study = look.rows[0].study_instance_uid
        uids = [row.series_instance_uid for row in look.rows]
        namers = self._judged(connection, work.named_by, now).values()
        if (
            has_newest_instance(connection, uids)
            or has_newest_work(connection, study)
            or any(one.rows and not one.is_old for one, _ in namers)
        ):
            return replace(look, goes=False, again_at=now + DAY_S)
        return look

    def _carry_out(
        self, studies: Sequence[str], now: float
    ) -> tuple[Sequence[str], Mapping[str, Look]]:
        """Judge a few studies again while nobody can add to them, and do what is due.

        Returns:
            Names of the files that went, and what was found.
        """
        names: Sequence[str] = ()
        with writing(self._engine) as connection:
            for study in studies:
                hold_study(connection, study)
                hold_work(connection, study)
                hold_series(connection, study)
            hold_arrivals(connection)
            looks = self._looks(connection, studies, now)
            released = [row for look in looks.values() for row in look.buries]
            if released:
                names = bury(connection, released, now)
            forgetful = [row for look in looks.values() if look.forgets for row in look.rows]
            if forgetful:
                forget(connection, [row.series_instance_uid for row in forgetful], now)
            for study, look in looks.items():
                uids = [row.series_instance_uid for row in look.rows]
                if look.goes and delete_tombstones(connection, uids, _ROWS) < _ROWS:
                    delete_series(connection, uids)
                    delete_work(connection, study)
                    released += look.rows
        for name in names:
            (self._folders.instances / name).unlink(missing_ok=True)
        uids = [row.series_instance_uid for row in released]
        with reading(self._engine) as connection:
            came_again = {uid for uid, one in files_of(connection, uids).items() if one.kept}
        for uid in set(uids) - came_again:
            self._markers.release(uid)
        return names, looks

    # --- what goes by its age alone --------------------------------------------------------------

    def _sweep_results(self, now: float) -> int:
        """Delete a batch of old results; how many."""
        keep, folder = self._keep, self._plan.results_folder
        gone = self._results.retire(
            now - keep.results * DAY_S,
            undecided_before=now - max(keep.results, keep.parked) * DAY_S,
            limit=_FILES,
        )
        for stored in gone:
            path = folder / stored.file.file_name
            path.unlink(missing_ok=True)
            _remove_if_empty(path.parent)
        return len(gone)

    def _age(self, now: float) -> bool:
        """Go on with what is done once a day; whether something is left of it."""
        if self._ageing is None:
            if now - self._aged_at < DAY_S:
                return False
            self._aged_at, self._ageing = now, self._what_ages(now)
        steps = sum(1 for _ in islice(self._ageing, _STEPS))
        if steps < _STEPS:
            self._ageing = None
        return self._ageing is not None

    def _what_ages(self, now: float) -> Iterator[object]:
        """Rows and files that belong to no study, batch by batch; a day old at least."""
        keep, engine = self._keep, self._engine
        quarantine = self._folders.quarantine
        history = now - max(keep.history, 1.0) * DAY_S
        refused = now - max(keep.history, keep.quarantine, 1.0) * DAY_S
        by_files = clock_time_s(engine, now)
        return chain(
            forget_events(engine, history),
            forget_losses(engine, now - keep.quarantine * DAY_S),
            forget_associations(engine, history),
            forget_quarantine(engine, quarantine, refused),
            self._tidy_results(by_files - max(keep.results, 1.0) * DAY_S),
            self._tidy_spool(by_files - DAY_S),
        )

    def _tidy_results(self, before: float) -> Iterator[int]:
        """Delete old files that no row names: logs, and what was left by who was killed."""
        folder = self._plan.results_folder
        if not folder.is_dir():  # no job was done yet
            return
        with os.scandir(folder) as entries:
            of_jobs = (Path(one) for one in entries if _JOB_FOLDER.fullmatch(one.name))
            while some := list(islice(of_jobs, _FOLDERS)):
                kept = self._results.kept_files([int(each.name) for each in some])
                yield sum(_tidy(each, kept, before) for each in some)

    def _tidy_spool(self, before: float) -> Iterator[int]:
        yield remove_stale_parts(self._folders.incoming, before)


def _tidy(folder: Path, kept: Collection[str], before: float) -> int:
    """Delete the old files of the folder of a job but those that are kept, and the empty folder."""
    old = [
        path
        for path in folder.iterdir()
        if f"{folder.name}/{path.name}" not in kept
        and path.is_file()
        and path.stat().st_mtime < before
    ]
    for path in old:
        path.unlink(missing_ok=True)
    _remove_if_empty(folder)
    return len(old)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
