"""The tick: take in what arrived, judge whether it is complete, and let the rules speak.

Everything here can be repeated: the index rows say what arrived, the series row says what was
settled, matches and jobs are keyed. What a series leads to is written before its row says that it
is settled, so a process that dies between two writes leaves a series that the next tick judges
again, to the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any

from sqlalchemy.exc import OperationalError

from node.assemble.completion import SeriesActivity, learns_splitting, peer_key
from node.assemble.gate import is_regular
from node.domain.instance import Instance
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode
from node.domain.series import Forced, SeriesRow, SeriesState
from node.pipeline.crash_points import crash_point
from node.pipeline.decide import Decision, Seen, decide, discard_as_told, send_again
from node.pipeline.judge import minimum_slices
from node.pipeline.matching import match_series, reports_of_no_input
from node.pipeline.matching_sets import match_study
from node.pipeline.series_rows import association_of, described, not_judged, series_numbers
from node.pipeline.settle_deps import SettleDeps
from node.pipeline.watch import CompleteSeries, SeriesWatch
from node.route.rules import StudyRule

log = logging.getLogger(__name__)

BROKEN_S = 60.0


class Settler:
    """Keeps one watch per series that is arriving; what is settled is forgotten until it changes."""

    def __init__(self, deps: SettleDeps) -> None:
        self._deps = deps
        self._watched: dict[str, SeriesWatch] = {}
        self._studies: dict[str, float] = {}
        self._broken: dict[str, float] = {}
        self._row = -1
        self._loss_row = 0

    def use(self, deps: SettleDeps) -> None:
        """Go on with another configuration."""
        self._deps = deps

    @property
    def watched_series(self) -> frozenset[str]:
        """Series Instance UIDs of what has not settled yet."""
        return frozenset(self._watched)

    def tick(self, now: float) -> None:
        """One look at everything that is due; a series that fails does not hold up the others."""
        self._take_in(now)
        self._do_what_was_decided(now)
        self._notice_departures()
        for uid, watch in list(self._watched.items()):
            if watch.look_again_at <= now:
                with self._apart(uid, now):
                    self._look(watch, now)
        for study, due in list(self._studies.items()):
            if due <= now:
                self._look_at_study(study, now)

    # --- what to look at -------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        """Watch the series that something arrived for."""
        index = self._deps.index
        whole: dict[str, None] = {}  # a set that keeps the order of arrival
        if self._row < 0:
            self._loss_row = self._deps.losses.newest_row()
            unsettled, self._row = index.unsettled()
            whole |= dict.fromkeys(unsettled)
            self._studies = dict.fromkeys(self._deps.match.matches.waiting_studies(), -inf)
        arrived: dict[str, list[tuple[int, Instance]]] = {}
        # all of them: a series of which half is known looks complete when its sender is gone
        while rows := index.arrivals_after(self._row):
            self._row = rows[-1][0]
            for row, instance in rows:
                arrived.setdefault(instance.series_instance_uid, []).append((row, instance))
        for uid, mine in arrived.items():
            if uid in self._watched:
                with self._apart(uid, now):
                    self._watched[uid].take_rows(mine)
            elif uid not in self._broken:
                whole[uid] = None
        whole |= dict.fromkeys(uid for uid, due in self._broken.items() if due <= now)
        whole |= dict.fromkeys(self._missing_images())
        for uid in whole:
            self._watch_whole(uid, now)

    def _missing_images(self) -> Iterable[str]:
        """Series that images were lost of just now; those that are watched are looked at again."""
        self._loss_row, concerned = self._deps.losses.after(self._loss_row)
        for uid in sorted(concerned):
            if uid in self._watched:
                self._watched[uid].look_again_at = -inf
            elif uid not in self._broken and self._deps.index.series(uid) is not None:
                yield uid

    def _watch_whole(self, series_instance_uid: str, now: float) -> None:
        self._broken.pop(series_instance_uid, None)
        with self._apart(series_instance_uid, now):
            index = self._deps.index
            newest_row = index.newest_row(series_instance_uid)
            rows = index.arrivals_of(series_instance_uid)
            if not rows:
                was = index.series(series_instance_uid)
                if was is not None and was.forced:  # a person asked for it, and no file is left
                    self._carry_out(send_again(replace(was, updated_at=now)), was, now)
                return
            study = rows[0][1].study_instance_uid
            watch = SeriesWatch(series_instance_uid, study, self._deps.read_header)
            watch.take_rows(rows)
            watch.newest_row = max(watch.newest_row, newest_row)
            self._watched[series_instance_uid] = watch

    def _do_what_was_decided(self, now: float) -> None:
        """Turn to the series that a person decided about."""
        for uid in self._deps.index.forced_series():
            if uid in self._broken:
                continue
            was = self._deps.index.series(uid)
            if was is not None and was.forced is Forced.DISCARD:
                with self._apart(uid, now):
                    self._carry_out(discard_as_told(was, now), was, now)
            elif uid in self._watched:
                self._watched[uid].look_again_at = -inf
            else:
                self._watch_whole(uid, now)

    def _notice_departures(self) -> None:
        """Have a series looked at as soon as an association that carried it has ended."""
        waiting = [watch for watch in self._watched.values() if watch.senders]
        if waiting:
            still_open = self._deps.index.open_associations()
            for watch in waiting:
                if not watch.senders <= still_open:
                    watch.look_again_at = -inf

    # --- one series ------------------------------------------------------------------------------

    def _look(self, watch: SeriesWatch, now: float) -> None:
        was = self._deps.index.series(watch.series_instance_uid)
        row = described(watch, was, now)
        if not watch.inputs:
            self._keep_aside(watch, row, was, now)
            return
        seen = self._see(watch, row, was)
        decision = decide(seen, self._deps.policy, now)
        is_next = decision.row is not None and decision.row.revision > row.revision
        if decision.row is not None and decision.row.state is SeriesState.RECEIVING:
            self._learn(watch, seen.activity, now)
            watch.look_again_at = decision.look_again_at
        self._carry_out(decision, was, now, settles=watch if is_next else None)

    def _see(self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None) -> Seen:
        """All that is known of a series now; what arrives meanwhile is seen by ``is_current``."""
        index, uid = self._deps.index, watch.series_instance_uid
        return Seen(
            row=row,
            was=was,
            versions={one.sop_instance_uid: one.version for one in watch.inputs},
            gate=watch.gate(),
            activity=self._activity(watch, was),
            progress=self._progress(was),
            is_current=index.newest_row(uid) <= watch.newest_row,
        )

    def _progress(self, was: SeriesRow | None) -> Progress:
        if was is None or not was.snapshot:
            return Progress.NO_JOB
        return self._deps.work.furthest(was.study_instance_uid, was.series_instance_uid)

    def _activity(self, watch: SeriesWatch, was: SeriesRow | None) -> SeriesActivity:
        index, losses = self._deps.index, self._deps.losses
        found = index.associations_around(watch.series_instance_uid)
        associations = [association_of(row) for row in found]
        watch.senders = frozenset(
            one.id for one in associations if one.carried and one.closed_at is None
        )
        origin = watch.newest.origin
        return SeriesActivity(
            instances=len(watch.inputs),
            last_received_at=max(one.received_at for one in watch.inputs),
            is_regular=is_regular(
                watch.frames, minimum_slices(self._deps.match.rules, watch.header())
            ),
            associations=associations,
            expected=watch.expected(),
            splits_series=index.splits_series(peer_key(origin)),
            forced=was.forced if was is not None else None,
            losses=[*losses.of_series(watch.series_instance_uid), *watch.without_pixels],
            accepted_losses=was.missing if was is not None and was.snapshot else 0,
            listening_since=losses.listening_since().get(origin.transport.value, -inf),
        )

    def _learn(self, watch: SeriesWatch, activity: SeriesActivity, now: float) -> None:
        if not activity.splits_series and learns_splitting(activity, self._deps.policy, now):
            peer = peer_key(watch.newest.origin)
            log.info("peer sends one series over several associations", extra={"peer": peer})
            self._deps.index.learn_splitting(peer, now)

    def _carry_out(
        self,
        decision: Decision,
        was: SeriesRow | None,
        now: float,
        *,
        settles: SeriesWatch | None = None,
    ) -> None:
        """Do what was decided, the row last: a crash before it leaves a series to be judged again.

        Args:
            settles: The series, where this opens its next revision.
        """
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
        if settles is not None:
            self._let_rules_speak(settles, row, now)
        elif is_given_up:
            self._match_study(study, now, settling={uid: (row, None)})
        if self._write(row, was) and (settles is not None or is_given_up):
            self._studies[study] = -inf
            log.info("series settled", extra=_told(row))

    def _let_rules_speak(self, watch: SeriesWatch, row: SeriesRow, now: float) -> None:
        """What the next revision of a series leads to, alone and in sets."""
        deps, uid, study = self._deps, row.series_instance_uid, row.study_instance_uid
        complete = watch.complete(revision=row.revision, missing=row.missing)
        crash_point("waiting for completion")
        others = deps.index.series_of_study(study)
        match_series(deps.match, complete, series_numbers([row, *others]), now)
        deps.work.supersede(study, uid, row.revision, now)
        self._match_study(study, now, settling={uid: (row, complete)})
        crash_point("job queued")

    def _keep_aside(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        """Nothing here is an input: it never waits, and only a rule that names its class is asked."""
        for report in reports_of_no_input(self._deps.match.rules, watch):
            self._deps.match.matches.put(report, now)
        why = (Reason(ReasonCode.NO_INPUT),)
        row = replace(row, state=SeriesState.COMPLETE, reasons=why, revision=1, forced=None)
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
            again_at = self._match_study(study_instance_uid, now, settling={})
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
        settling: Mapping[str, tuple[SeriesRow, CompleteSeries | None]],
    ) -> float | None:
        """Judge the study rules; returns when to do it again although nothing new came.

        Args:
            settling: Series whose row is about to be written.
        """
        if not any(isinstance(active.rule, StudyRule) for active in self._deps.match.rules):
            return None
        rows = {
            row.series_instance_uid: row
            for row in self._deps.index.series_of_study(study_instance_uid)
        }
        rows.update({uid: row for uid, (row, _) in settling.items()})

        def read(series_instance_uid: str) -> CompleteSeries | None:
            if series_instance_uid in settling:
                return settling[series_instance_uid][1]
            return self._read_settled(rows[series_instance_uid])

        return match_study(
            self._deps.match,
            study_instance_uid,
            [row for row in rows.values() if row.state is SeriesState.COMPLETE and row.snapshot],
            read,
            series_numbers(rows.values()),
            now,
        )

    def _read_settled(self, row: SeriesRow) -> CompleteSeries | None:
        """A settled series as its snapshot says; None where files of it are gone."""
        rows = self._deps.index.arrivals_of(row.series_instance_uid)
        watch = SeriesWatch(row.series_instance_uid, row.study_instance_uid, self._deps.read_header)
        watch.take_rows(one for one in rows if one[1].sop_instance_uid in row.snapshot)
        if len(watch.inputs) < len(row.snapshot):
            return None
        return watch.complete(revision=row.revision, missing=row.missing)

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
        why = Reason(ReasonCode.NOT_JUDGED, {"error": error, "again_after_s": BROKEN_S})
        was = index.series(series_instance_uid)
        instances = [one for _, one in index.arrivals_of(series_instance_uid)]
        row = not_judged(was, instances, why, now)
        index.put_series(row, was=was)


def _told(row: SeriesRow) -> dict[str, Any]:
    """What the log says of a series that was settled."""
    return {
        "series_instance_uid": row.series_instance_uid,
        "state": row.state.value,
        "revision": row.revision,
        "instances": row.instances,
        "evidence": row.evidence.value,
    }
