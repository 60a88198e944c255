"""The tick: take in what arrived, judge whether it is complete, and let the rules speak.

Everything here can be repeated: the index rows say what arrived, the series row says what was
settled, matches and jobs are keyed. What a series leads to is written before its row says that it
is settled, so a process that dies between two writes leaves a series that the next tick judges
again, to the same rows.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache, partial
from math import inf
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from node.assemble.completion import peer_key
from node.domain.agenda import Agenda
from node.domain.completion_policy import CompletionPolicy
from node.domain.errors import NodeError
from node.domain.instance import Forced, SeriesRow, SeriesState
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode
from node.jobs.matches import MatchStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.pipeline.build import Plan
from node.pipeline.crash_points import crash_point
from node.pipeline.decide import Decision, Facts, decide, described, discard_as_told, send_again
from node.pipeline.forms.form import forms_taken
from node.pipeline.in_hand import InHand
from node.pipeline.judge import Settling, judge_rules
from node.pipeline.matching import MatchDeps, StudyMoment, match_no_input, match_series
from node.pipeline.series import ReadHeader, Series, SeriesWatch, stored_header
from node.pipeline.studies import Studies
from node.route.rules import StudyRule
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders
from node.spool.losses import Losses

log = logging.getLogger(__name__)

# for how long a tick goes on; less than the time from one to the next
SLICE_S = 1.0  # some 2500 headers
TICK_WORK_S = 0.15
BROKEN_S = 60.0
MOST_DEATHS = 2
# of waiting series, in memory at once: about 2 kB each
MOST_IMAGES = 20_000
# the mark only saves work after a start
NOTE_EVERY_S = 5.0


class _Kind(IntEnum):
    """In this order where they come due together: a study is judged by what its series became."""

    SERIES = 0
    STUDY = 1


class _Look(NamedTuple):
    kind: _Kind
    uid: str


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
    """Looks at every series until it is settled, and at the study of one that did.

    Of a series that waits its watch is kept where there is room, and else read anew from the index and
    its files when it is due, or something of it arrives.

    Args:
        most_s: For how long a tick goes on; it looks at one series at least.
        slice_s: For how long headers of one series are read; the rest comes in the next tick.
        clock: Counts these seconds.
        most_images: How much is kept of series that wait, in images.
        in_hand: Is told of every series that is looked at: one that killed two processes is set aside.
    """

    def __init__(
        self,
        deps: SettleDeps,
        *,
        most_s: float = inf,
        slice_s: float = inf,
        clock: Callable[[], float] = time.monotonic,
        most_images: int = MOST_IMAGES,
        in_hand: InHand | None = None,
    ) -> None:
        self._deps = deps
        self._in_hand = in_hand
        self._suspects: set[str] = set()  # series that a process died with
        self._listening: Callable[[], Mapping[str, float]] = deps.losses.listening_since
        self._most_s = most_s
        self._slice_s = slice_s
        self._clock = clock
        self._agenda: Agenda[_Look] = Agenda()
        self._waiting: dict[str, frozenset[str]] = {}  # series -> open associations that carried it
        self._carried_by: dict[str, set[str]] = {}  # the same the other way round
        self._most_images = most_images
        self._size = 0
        self._watched: OrderedDict[str, SeriesWatch] = OrderedDict()  # needed last at the end
        self._studies = Studies(deps.index, deps.match, deps.read_header)
        self._broken: set[str] = set()
        self._row = -1
        self._loss_row = 0
        self._unknown: dict[str, int] = {}  # series -> its first row that its row knows not of
        self._known_until = 0
        self._noted_at = -inf

    def use(self, deps: SettleDeps) -> None:
        """Go on by another configuration."""
        self._deps = deps
        self._studies = Studies(deps.index, deps.match, deps.read_header)

    @property
    def watched_series(self) -> frozenset[str]:
        """Series Instance UIDs of what has not settled yet."""
        return frozenset(self._waiting)

    def tick(self, now: float) -> None:
        """Look at what is due, the oldest wish first, for a bounded time.

        What was not reached comes first in the next tick; a series that fails does not hold up the
        others.
        """
        began = self._clock()
        self._listening = cache(self._deps.losses.listening_since)  # asked once in a tick
        self._take_in(now)
        self._notice_departures()
        for due in sorted(self._agenda.come_due(now), key=lambda look: look.kind):
            self._agenda.wish(due)
        while (look := self._agenda.first()) is not None:
            if look.kind is _Kind.STUDY:
                self._look_at_study(look.uid, now)
            else:
                with self._apart(look.uid, now):
                    self._look_alive(look.uid, now)
            self._agenda.done(look)
            if self._clock() - began >= self._most_s:
                break
        self._note_how_far(now)

    # --- what to look at -------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        """Note what is new; where the database fails meanwhile, all of it is asked again."""
        deps, index = self._deps, self._deps.index
        if self._row < 0 and self._in_hand is not None:
            for uid in self._in_hand.left_by_the_dead():
                log.error(
                    "a process died with a series in hand", extra={"series_instance_uid": uid}
                )
                index.note_death(uid, now)
                self._suspects.add(uid)
            self._suspects |= index.suspects()
        row, loss_row = self._row, self._loss_row
        newest, newest_loss = index.newest()
        wished: list[str] = []
        if not 0 <= row <= newest:  # just started, or rows are counted anew in an emptied table
            loss_row = deps.losses.newest_row()
            self._known_until = index.known_until()
            unsettled, row = index.unsettled()
            self._unknown |= dict.fromkeys(unsettled, self._known_until + 1)
            wished += unsettled
            waiting = deps.match.matches.waiting_studies()
            for study in dict.fromkeys((*waiting, *index.unmatched_studies())):
                self._agenda.put(_Look(_Kind.STUDY, study), -inf)
        while row < newest and (rows := index.arrivals_after(row)):
            row = rows[-1][0]
            for number, uid in rows:
                self._unknown.setdefault(uid, number)
                wished.append(uid)
        wished += index.forced_series()
        if newest_loss != loss_row:
            loss_row, lost = deps.losses.after(loss_row)
            wished += (
                uid for uid in sorted(lost) if uid in self._waiting or index.series(uid) is not None
            )
        for uid in wished:
            self._wish(uid)
        self._row, self._loss_row = row, loss_row

    def _notice_departures(self) -> None:
        """Have a series looked at as soon as an association that carried it has ended."""
        if self._carried_by:
            ended = self._carried_by.keys() - self._deps.index.open_associations()
            for uid in sorted({uid for each in ended for uid in self._carried_by[each]}):
                self._wish(uid)

    def _wish(self, series_instance_uid: str) -> None:
        """Have a series looked at in its turn; one that could not be judged has its own time."""
        if series_instance_uid not in self._broken:
            self._agenda.wish(_Look(_Kind.SERIES, series_instance_uid))

    def _wait(self, watch: SeriesWatch, senders: frozenset[str], until: float) -> None:
        """Look at a series again at a time, or as soon as one of these associations ends."""
        uid = watch.series_instance_uid
        self._forget(uid)
        self._waiting[uid] = senders
        for sender in senders:
            self._carried_by.setdefault(sender, set()).add(uid)
        self._agenda.put(_Look(_Kind.SERIES, uid), until)
        self._watched[uid] = watch
        self._size += watch.size
        while self._size > self._most_images and len(self._watched) > 1:
            _, dropped = self._watched.popitem(last=False)
            self._size -= dropped.size

    def _take_watch(self, series_instance_uid: str) -> SeriesWatch | None:
        """What is kept of a series, if anything; whoever goes on waiting gives it back."""
        watch = self._watched.pop(series_instance_uid, None)
        self._size -= watch.size if watch is not None else 0
        return watch

    def _forget(self, series_instance_uid: str) -> None:
        """It waits for nothing any more."""
        for sender in self._waiting.pop(series_instance_uid, ()):
            self._carried_by[sender].discard(series_instance_uid)
            if not self._carried_by[sender]:
                del self._carried_by[sender]
        self._take_watch(series_instance_uid)
        self._agenda.put(_Look(_Kind.SERIES, series_instance_uid), inf)

    def _note_how_far(self, now: float) -> None:
        """Move the mark up to what series rows know of, so that a start asks only about the rest."""
        if 0 <= now - self._noted_at < NOTE_EVERY_S:
            return
        self._noted_at = now
        known = min(self._unknown.values(), default=self._row + 1) - 1
        if known != self._known_until:
            self._deps.index.note_known_until(known)
            self._known_until = known

    # --- one series ------------------------------------------------------------------------------

    def _look_alive(self, uid: str, now: float) -> None:
        """Look at a series, unless looking killed as many processes as it may."""
        if uid in self._suspects:
            deaths = self._deps.index.deaths(uid)
            if deaths >= MOST_DEATHS:
                self._set_aside(uid, Reason(ReasonCode.PROCESS_DIED, {"times": deaths}), now)
                return
        with self._in_hand.holding(uid) if self._in_hand is not None else nullcontext():
            self._look(uid, now)

    def _look(self, uid: str, now: float) -> None:
        """Gather what is known, decide, and do what was decided."""
        deps, index = self._deps, self._deps.index
        self._broken.discard(uid)
        watch, was = self._take_watch(uid), index.series(uid)
        if was is not None and was.forced is Forced.DISCARD:
            self._carry_out(discard_as_told(was, now), was, now)
            if was.newest_row < index.newest_row(uid):  # its row has to know of what came since
                self._unknown.setdefault(uid, was.newest_row + 1)
                self._agenda.put(_Look(_Kind.SERIES, uid), -inf)
            return
        # all that arrived: a series of which half is known looks complete when its sender is gone
        newest_row = index.newest_row(uid)
        known = watch.newest_row if watch is not None else 0
        rows = index.arrivals_of(uid, known) if newest_row > known else ()
        if watch is None and rows:
            watch = SeriesWatch(uid, rows[0][1].study_instance_uid, deps.read_header)
        if watch is None:
            if was is not None and was.forced:  # a person asked for it, and no file is left
                self._carry_out(send_again(replace(was, updated_at=now)), was, now)
            self._forget(uid)
            self._unknown.pop(uid, None)
            return
        until_s = self._clock() + self._slice_s if self._slice_s < inf else inf
        if not watch.take_rows(rows, until_s, self._clock):
            self._wait(watch, self._waiting.get(uid, frozenset()), -inf)  # others come between
            return
        watch.newest_row = max(watch.newest_row, newest_row)
        series = watch.now()
        if not series.instances:
            self._wait(watch, frozenset(), -inf)
            if self._keep_aside(series, was, now):
                self._unknown.pop(uid, None)
            return
        peer = peer_key(series.origin)
        judgement = judge_rules(deps.match.rules, series.header)
        associations = index.associations_around(uid)
        has_work = was is not None and bool(was.snapshot)
        facts = Facts(
            was=was,
            series=series,
            judgement=judgement,
            associations=associations,
            splits_series=index.splits_series(peer),
            losses=[*deps.losses.of_series(uid), *series.without_pixels],
            listening_since=self._listening().get(series.origin.transport.value, -inf),
            progress=deps.work.furthest(series.study_instance_uid, uid)
            if has_work
            else Progress.NO_JOB,
            is_current=index.newest_row(uid) <= series.newest_row,  # asked last
        )
        decision = decide(facts, deps.policy, now)
        is_receiving = decision.row is not None and decision.row.state is SeriesState.RECEIVING
        self._wait(
            watch,
            frozenset(x["id"] for x in associations if x["carried"] and x["closed_at"] is None),
            decision.look_again_at if is_receiving else -inf,  # until its row says that it settled
        )
        if decision.learns_splitting:
            log.info("peer sends one series over several associations", extra={"peer": peer})
            index.learn_splitting(peer, now)
        if self._carry_out(decision, was, now):
            self._unknown.pop(uid, None)

    def _carry_out(self, decision: Decision, was: SeriesRow | None, now: float) -> bool:
        """Do what was decided, the row last: a crash before it leaves a series to be judged again.

        Returns:
            Whether its row says so now.
        """
        row, deps = decision.row or was, self._deps
        if row is None:
            return False
        uid, study = row.series_instance_uid, row.study_instance_uid
        if decision.ends_work_before is not None:
            deps.work.supersede(study, uid, decision.ends_work_before, now)
        if decision.forgets_deleted:
            deps.index.forget_deleted(uid)
        if decision.row is None:
            return False
        is_given_up = row.state is SeriesState.DISCARDED and decision.ends_work_before is not None
        if decision.settles is not None:
            self._let_rules_speak(decision.settles, row, now)
        changes_sets = decision.settles is not None or is_given_up
        is_written = self._write(row, was, is_study_unmatched=changes_sets)
        if is_written and changes_sets:
            # after whatever else is due: of many series that settle together sets are made once
            self._agenda.wish(_Look(_Kind.STUDY, study))
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
        return is_written

    def _let_rules_speak(self, settling: Settling, row: SeriesRow, now: float) -> None:
        """What the next revision of a series leads to by itself."""
        deps, uid, study = self._deps, row.series_instance_uid, row.study_instance_uid
        crash_point("waiting for completion")
        others = deps.index.series_numbers(study) if settling.fired else ()
        at = StudyMoment.of(study, [row.series_number, *others], deps.match, now)
        match_series(at, settling)
        if row.revision > 1:
            deps.work.supersede(study, uid, row.revision, now)
        if self._has_study_rules:
            self._studies.remember(settling.series)
        crash_point("job queued")

    def _keep_aside(self, series: Series, was: SeriesRow | None, now: float) -> bool:
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
        return self._write(row, was)

    def _write(
        self, row: SeriesRow, was: SeriesRow | None, *, is_study_unmatched: bool = False
    ) -> bool:
        """Write the row unless nothing changed; what is not arriving waits no further."""
        uid = row.series_instance_uid
        is_same = was is not None and replace(row, updated_at=was.updated_at) == was
        unmatched = is_study_unmatched and self._has_study_rules
        if not is_same and not self._deps.index.put_series(
            row, was=was, is_study_unmatched=unmatched
        ):
            self._agenda.put(_Look(_Kind.SERIES, uid), -inf)
            return False
        if row.state is not SeriesState.RECEIVING:
            self._forget(uid)
        return True

    # --- the series of one study -----------------------------------------------------------------

    def _look_at_study(self, study_instance_uid: str, now: float) -> None:
        index = self._deps.index
        try:
            writes = index.writes_unmatched(study_instance_uid)
            again_at = (
                self._studies.match(study_instance_uid, now) if self._has_study_rules else inf
            )
            crash_point("study matched")
            index.note_matched(study_instance_uid, writes)
        except OperationalError:
            raise  # the database itself: the whole tick is tried again
        except Exception:
            log.exception("study not judged", extra={"study_instance_uid": study_instance_uid})
            again_at = now + BROKEN_S
        self._agenda.put(_Look(_Kind.STUDY, study_instance_uid), again_at)

    @property
    def _has_study_rules(self) -> bool:
        return any(isinstance(active.rule, StudyRule) for active in self._deps.match.rules)

    # --- what goes wrong -------------------------------------------------------------------------

    @contextmanager
    def _apart(self, series_instance_uid: str, now: float) -> Iterator[None]:
        """Keep one series' trouble from the rest; it is looked at anew after a while."""
        try:
            yield
        except OperationalError:
            raise  # the database itself: the whole tick is tried again
        except Exception as error:
            is_ours = isinstance(error, NodeError)
            why = str(error) if is_ours else type(error).__name__
            facts = {"series_instance_uid": series_instance_uid, "why": why}
            log.error("series not settled", exc_info=not is_ours, extra=facts)
            self._forget(series_instance_uid)
            self._broken.add(series_instance_uid)
            look = _Look(_Kind.SERIES, series_instance_uid)
            self._agenda.done(look)
            self._agenda.put(look, now + BROKEN_S)
            self._hold_broken(series_instance_uid, why, now)

    def _set_aside(self, series_instance_uid: str, why: Reason, now: float) -> None:
        """It is not looked at until a person decides; what comes to it changes nothing."""
        self._forget(series_instance_uid)
        index = self._deps.index
        newest_row = index.newest_row(series_instance_uid)
        if (known := self._known_of(series_instance_uid, now)) is None:
            return
        was, row = known
        if was is not None and was.state is SeriesState.DISCARDED:
            row = replace(row, state=SeriesState.DISCARDED)
        else:
            row = replace(row, state=SeriesState.HELD, reasons=(why,))
        row = replace(row, newest_row=newest_row, forced=None, updated_at=now)
        if index.put_series(row, was=was):
            self._unknown.pop(series_instance_uid, None)

    def _hold_broken(self, series_instance_uid: str, error: str, now: float) -> None:
        """Show a series that cannot be judged to whoever lists what is held."""
        index = self._deps.index
        was = index.series(series_instance_uid)
        if was is not None and was.state is SeriesState.DISCARDED and not was.forced:
            self._give_up_broken(was, now)
            return
        if (known := self._known_of(series_instance_uid, now)) is None:
            return
        was, row = known
        why = Reason(ReasonCode.NOT_JUDGED, {"error": error, "again_after_s": BROKEN_S})
        row = replace(row, state=SeriesState.HELD, reasons=(why,), updated_at=now)
        if index.put_series(row, was=was):
            self._unknown.pop(series_instance_uid, None)  # what is held is looked at after a start

    def _known_of(self, uid: str, now: float) -> tuple[SeriesRow | None, SeriesRow] | None:
        """The row of a series, and that or one of what the index says of it; None where it is gone."""
        index = self._deps.index
        if (was := index.series(uid)) is not None:
            return was, was
        instances = [one for _, one in index.arrivals_of(uid)]
        if not instances:
            return None
        return None, SeriesRow(
            series_instance_uid=uid,
            study_instance_uid=instances[0].study_instance_uid,
            instances=len(instances),
            frames=0,
            first_received_at=min(one.received_at for one in instances),
            last_received_at=max(one.received_at for one in instances),
            state=SeriesState.HELD,
            updated_at=now,
        )

    def _give_up_broken(self, was: SeriesRow, now: float) -> None:
        """A person gave it up before: it stays so, and is not tried again for itself."""
        uid, index = was.series_instance_uid, self._deps.index
        if index.put_series(
            replace(was, newest_row=index.newest_row(uid), updated_at=now), was=was
        ):
            self._unknown.pop(uid, None)
            self._broken.discard(uid)
            self._agenda.drop(_Look(_Kind.SERIES, uid))
