"""The tick: take in what arrived, judge whether it is complete, and let the rules speak.

Everything here can be repeated: the index rows say what arrived, the series row says what was
settled, matches and jobs are keyed. What a series leads to is written before its row says that it
is settled, so a process that dies between two writes leaves a series that the next tick judges
again, to the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from node.assemble.completion import peer_key
from node.domain.completion_policy import CompletionPolicy
from node.domain.instance import Forced, Instance, SeriesRow, SeriesState
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode
from node.jobs.matches import MatchStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.pipeline.build import Plan
from node.pipeline.crash_points import crash_point
from node.pipeline.decide import Decision, Facts, decide, described, discard_as_told, send_again
from node.pipeline.forms.form import forms_taken
from node.pipeline.judge import Settling, judge_rules
from node.pipeline.matching import (
    MatchDeps,
    StudyMoment,
    match_no_input,
    match_series,
    match_study,
)
from node.pipeline.series import ReadHeader, Series, SeriesWatch, stored_header
from node.route.rules import StudyRule
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders
from node.spool.losses import Losses

log = logging.getLogger(__name__)

BROKEN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleDeps:
    """The index, the work so far, and the rules; made anew when the configuration is reloaded."""

    index: Arrivals
    losses: Losses
    work: SeriesWork
    match: MatchDeps
    policy: CompletionPolicy
    read_header: ReadHeader


def settle_deps(plan: Plan, engine: Engine) -> SettleDeps:
    """What the route process works with."""
    instances = SpoolFolders.of(plan.config.data_dir).instances

    return SettleDeps(
        index=Arrivals(engine),
        losses=Losses(engine, around_s=plan.policy.quiet_max_s),
        work=SeriesWork(engine),
        match=MatchDeps(
            matches=MatchStore(engine),
            jobs=JobStore(engine),
            rules=plan.rules,
            peers=plan.config.peers,
            config_digest=plan.config.digest,
            taken=forms_taken(plan.destinations),
            study_wait_s=plan.config.completion.study_wait_s,
        ),
        policy=plan.policy,
        read_header=partial(stored_header, instances),
    )


class Settler:
    """Keeps one watch per series that is arriving; what is settled is forgotten until it changes."""

    def __init__(self, deps: SettleDeps) -> None:
        self._deps = deps
        self._watched: dict[str, SeriesWatch] = {}
        self._studies: dict[str, float] = {}
        self._broken: dict[str, float] = {}
        self._new: dict[str, None] = {}  # a set that keeps the order of arrival
        self._row = -1
        self._loss_row = 0

    def use(self, deps: SettleDeps) -> None:
        """Go on by another configuration."""
        self._deps = deps

    @property
    def watched_series(self) -> frozenset[str]:
        """Series Instance UIDs of what has not settled yet."""
        return frozenset(self._watched)

    def tick(self, now: float) -> None:
        """One look at everything that is due; a series that fails does not hold up the others."""
        self._take_in(now)
        self._notice_departures()
        due = [uid for uid, watch in self._watched.items() if watch.look_again_at <= now]
        for uid in dict.fromkeys((*due, *self._new)):
            with self._apart(uid, now):
                self._look(uid, now)
            self._new.pop(uid, None)
        for study, look_at in list(self._studies.items()):
            if look_at <= now:
                self._look_at_study(study, now)

    # --- what to look at -------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        """Note what is new; where the database fails meanwhile, all of it is read again."""
        deps, index = self._deps, self._deps.index
        row, loss_row = self._row, self._loss_row
        unsettled: Sequence[str] = ()
        waiting: Sequence[str] = ()
        if row < 0:
            loss_row = deps.losses.newest_row()
            unsettled, row = index.unsettled()
            waiting = deps.match.matches.waiting_studies()
        arrived: dict[str, list[tuple[int, Instance]]] = {}
        # all of them: a series of which half is known looks complete when its sender is gone
        while rows := index.arrivals_after(row):
            row = rows[-1][0]
            for number, instance in rows:
                arrived.setdefault(instance.series_instance_uid, []).append((number, instance))
        decided = index.forced_series()
        loss_row, lost = deps.losses.after(loss_row)
        known = [uid for uid in lost if uid in self._watched or index.series(uid) is not None]
        self._studies |= dict.fromkeys(waiting, -inf)
        for uid, mine in arrived.items():
            if uid in self._watched:
                with self._apart(uid, now):
                    self._watched[uid].take_rows(mine)
        for uid in (*unsettled, *arrived, *sorted(known), *decided):
            if uid in self._watched:
                self._watched[uid].look_again_at = -inf
            else:
                self._new[uid] = None
        for uid, again_at in list(self._broken.items()):
            if again_at <= now:
                del self._broken[uid]
                self._new[uid] = None
            else:
                self._new.pop(uid, None)
        self._row, self._loss_row = row, loss_row

    def _notice_departures(self) -> None:
        """Have a series looked at as soon as an association that carried it has ended."""
        waiting = [watch for watch in self._watched.values() if watch.senders]
        if waiting:
            still_open = self._deps.index.open_associations()
            for watch in waiting:
                if not watch.senders <= still_open:
                    watch.look_again_at = -inf

    # --- one series ------------------------------------------------------------------------------

    def _look(self, uid: str, now: float) -> None:
        """Gather what is known, decide, and do what was decided."""
        deps, index = self._deps, self._deps.index
        was = index.series(uid)
        if was is not None and was.forced is Forced.DISCARD:
            self._carry_out(discard_as_told(was, now), was, now)
            return
        watch = self._watched.get(uid)
        if watch is None:
            newest_row, rows = index.newest_row(uid), index.arrivals_of(uid)
            if not rows:
                if was is not None and was.forced:  # a person asked for it, and no file is left
                    self._carry_out(send_again(replace(was, updated_at=now)), was, now)
                return
            watch = SeriesWatch(uid, rows[0][1].study_instance_uid, deps.read_header)
            watch.take_rows(rows)
            watch.newest_row = max(watch.newest_row, newest_row)
            self._watched[uid] = watch
        series = watch.now()
        if not series.instances:
            self._keep_aside(series, was, now)
            return
        peer = peer_key(series.origin)
        judgement = judge_rules(deps.match.rules, series.header)
        associations = index.associations_around(uid)
        watch.senders = frozenset(
            row["id"] for row in associations if row["carried"] and row["closed_at"] is None
        )
        has_work = was is not None and bool(was.snapshot)
        facts = Facts(
            was=was,
            series=series,
            judgement=judgement,
            associations=associations,
            splits_series=index.splits_series(peer),
            losses=[*deps.losses.of_series(uid), *series.without_pixels],
            listening_since=deps.losses.listening_since().get(series.origin.transport.value, -inf),
            progress=deps.work.furthest(series.study_instance_uid, uid)
            if has_work
            else Progress.NO_JOB,
            is_current=index.newest_row(uid) <= series.newest_row,  # asked last
        )
        decision = decide(facts, deps.policy, now)
        if decision.row is not None and decision.row.state is SeriesState.RECEIVING:
            watch.look_again_at = decision.look_again_at
        if decision.learns_splitting:
            log.info("peer sends one series over several associations", extra={"peer": peer})
            index.learn_splitting(peer, now)
        self._carry_out(decision, was, now)

    def _carry_out(self, decision: Decision, was: SeriesRow | None, now: float) -> None:
        """Do what was decided, the row last: a crash before it leaves a series to be judged again."""
        row, deps = decision.row or was, self._deps
        if row is None:
            return
        uid, study = row.series_instance_uid, row.study_instance_uid
        if decision.ends_work_before is not None:
            deps.work.supersede(study, uid, decision.ends_work_before, now)
        if decision.forgets_deleted:
            deps.index.forget_deleted(uid)
        if decision.row is None:
            return
        is_given_up = row.state is SeriesState.DISCARDED and decision.ends_work_before is not None
        if decision.settles is not None:
            self._let_rules_speak(decision.settles, row, now)
        elif is_given_up:
            self._match_study(study, now, settling=row)
        if self._write(row, was) and (decision.settles is not None or is_given_up):
            self._studies[study] = -inf
            log.info(
                "series settled",
                extra={
                    "series_instance_uid": uid,
                    "state": row.state.value,
                    "revision": row.revision,
                    "instances": row.instances,
                    "evidence": row.evidence.value,
                },
            )

    def _let_rules_speak(self, settling: Settling, row: SeriesRow, now: float) -> None:
        """What the next revision of a series leads to, alone and in sets."""
        deps, uid, study = self._deps, row.series_instance_uid, row.study_instance_uid
        crash_point("waiting for completion")
        rows = [row, *deps.index.series_of_study(study)]
        match_series(StudyMoment.of(study, rows, deps.match, now), settling)
        deps.work.supersede(study, uid, row.revision, now)
        self._match_study(study, now, settling=row, series=settling.series)
        crash_point("job queued")

    def _keep_aside(self, series: Series, was: SeriesRow | None, now: float) -> None:
        """Nothing here is an input: it never waits, and only a rule that names its class is asked."""
        at = StudyMoment.of(series.study_instance_uid, (), self._deps.match, now)
        match_no_input(at, series)
        row = replace(
            described(series, was, now),
            state=SeriesState.COMPLETE,
            reasons=(Reason(ReasonCode.NO_INPUT),),
            revision=1,
            forced=None,
        )
        self._write(row, was)

    def _write(self, row: SeriesRow, was: SeriesRow | None) -> bool:
        """Write the row unless nothing changed; only what is arriving is watched further."""
        uid = row.series_instance_uid
        is_same = was is not None and replace(row, updated_at=was.updated_at) == was
        if not is_same and not self._deps.index.put_series(row, was=was):
            if uid in self._watched:
                self._watched[uid].look_again_at = -inf
            return False
        if row.state is not SeriesState.RECEIVING:
            self._watched.pop(uid, None)
        return True

    # --- the series of one study -----------------------------------------------------------------

    def _look_at_study(self, study_instance_uid: str, now: float) -> None:
        try:
            again_at = self._match_study(study_instance_uid, now)
        except OperationalError:
            raise  # the database itself: the whole tick is tried again
        except Exception:
            log.exception("study not judged", extra={"study_instance_uid": study_instance_uid})
            again_at = now + BROKEN_S
        self._studies.pop(study_instance_uid)
        if again_at is not None:
            self._studies[study_instance_uid] = again_at

    def _match_study(
        self,
        study_instance_uid: str,
        now: float,
        settling: SeriesRow | None = None,
        series: Series | None = None,
    ) -> float | None:
        """Judge the study rules; returns when to do it again although nothing new came.

        Args:
            settling: The row of a series that is about to be written.
            series: That series, unless it is given up.
        """
        if not any(isinstance(active.rule, StudyRule) for active in self._deps.match.rules):
            return None
        rows = {
            row.series_instance_uid: row
            for row in self._deps.index.series_of_study(study_instance_uid)
        }
        if settling is not None:
            rows[settling.series_instance_uid] = settling

        def read(series_instance_uid: str) -> Series | None:
            row = rows[series_instance_uid]
            return series if row is settling else self._read_settled(row)

        at = StudyMoment.of(study_instance_uid, rows.values(), self._deps.match, now)
        complete = [r for r in rows.values() if r.state is SeriesState.COMPLETE and r.snapshot]
        return match_study(at, complete, read)

    def _read_settled(self, row: SeriesRow) -> Series | None:
        """A settled series as its snapshot says; None where files of it are gone."""
        rows = self._deps.index.arrivals_of(row.series_instance_uid)
        watch = SeriesWatch(row.series_instance_uid, row.study_instance_uid, self._deps.read_header)
        watch.take_rows(one for one in rows if one[1].sop_instance_uid in row.snapshot)
        series = watch.now()
        if len(series.instances) < len(row.snapshot):
            return None
        return replace(series, revision=row.revision, missing=row.missing)

    # --- what goes wrong -------------------------------------------------------------------------

    @contextmanager
    def _apart(self, series_instance_uid: str, now: float) -> Iterator[None]:
        """Keep one series' trouble from the rest; it is looked at anew after a while."""
        try:
            yield
        except OperationalError:
            raise  # the database itself: the whole tick is tried again
        except Exception as error:
            log.exception("series not settled", extra={"series_instance_uid": series_instance_uid})
            self._watched.pop(series_instance_uid, None)
            self._broken[series_instance_uid] = now + BROKEN_S
            self._hold_broken(series_instance_uid, type(error).__name__, now)

    def _hold_broken(self, series_instance_uid: str, error: str, now: float) -> None:
        """Show a series that cannot be judged to whoever lists what is held."""
        index = self._deps.index
        was = index.series(series_instance_uid)
        instances = [one for _, one in index.arrivals_of(series_instance_uid)]
        known = was or SeriesRow(
            series_instance_uid=series_instance_uid,
            study_instance_uid=instances[0].study_instance_uid,
            instances=len(instances),
            frames=0,
            first_received_at=min(one.received_at for one in instances),
            last_received_at=max(one.received_at for one in instances),
            state=SeriesState.HELD,
            updated_at=now,
        )
        why = Reason(ReasonCode.NOT_JUDGED, {"error": error, "again_after_s": BROKEN_S})
        row = replace(known, state=SeriesState.HELD, reasons=(why,), updated_at=now)
        index.put_series(row, was=was)
