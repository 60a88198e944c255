"""The tick: take in what arrived, judge whether it is complete, and let the rules speak.

Everything here can be repeated: the index rows say what arrived, the series row says what was
settled, matches and jobs are keyed. What a series leads to is written before its row says that it
is settled, so a process that dies between two writes leaves a series that the next tick judges
again, to the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from sqlalchemy.exc import OperationalError

from node.assemble.activity import Forced, SeriesActivity, peer_key
from node.assemble.evidence import CompletionState, Evidence, judge_completion, learns_splitting
from node.assemble.gate import is_regular
from node.assemble.revisions import OldWork, Progress, judge_late
from node.domain.header import Header
from node.domain.instance import Instance
from node.domain.job import MatchState
from node.domain.loss import Loss
from node.domain.reasons import ReasonCode, codes_of
from node.domain.series import SeriesRow, SeriesState
from node.jobs.values import MatchReport
from node.pipeline.crash_points import crash_point
from node.pipeline.matching import NO_RULE, ActiveRule, CompleteSeries, match_series
from node.pipeline.matching_sets import match_study
from node.pipeline.series_rows import (
    association_of,
    complete_series,
    described,
    late_images,
    not_judged,
    series_numbers,
    was_held_for_losses,
)
from node.pipeline.settle_deps import SettleDeps
from node.pipeline.watch import SeriesWatch
from node.route.explain import explain
from node.route.rules import StudyRule, names_sop_class
from node.route.verdict import Truth

log = logging.getLogger(__name__)

BROKEN_S = 60.0

_SETTLED = (SeriesState.COMPLETE, SeriesState.HELD)


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
                self._have_it_sent_again(series_instance_uid, now)
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
            if was is not None and was.forced == Forced.DISCARD:
                with self._apart(uid, now):
                    sentence = "discarded by a person"
                    row = replace(was, evidence=Evidence.PERSON.value, sentence=sentence)
                    self._discard(row, was, now)
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
        if was is not None and not was.forced and was.state is SeriesState.DISCARDED:
            self._write(row, was)
            return
        if was is not None and was.snapshot:
            if was.snapshot.keys() - {one.sop_instance_uid for one in watch.inputs}:
                self._hold_for_deleted(row, was)
                return
            if was.state in _SETTLED and not was.forced:
                lost = len(self._losses(watch))
                if lost > was.missing:
                    self._withhold(was, now)
                elif not late_images(watch, was) and not was_held_for_losses(was):
                    self._stay_settled(watch, row, was)
                    return
                elif late_images(watch, was) and self._is_held_for_late(watch, row, was, now):
                    return
        self._judge(watch, row, was, now)

    def _judge(self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float) -> None:
        activity = self._activity(watch, was)
        if self._deps.index.newest_row(watch.series_instance_uid) > watch.newest_row:
            return  # more arrived since the tick began: judged in the next one, with it
        completion = judge_completion(activity, self._deps.policy, now)
        row = replace(
            row,
            sentence=completion.sentence,
            evidence=completion.level.value,
            reasons=tuple(reason.value for reason in completion.reasons),
        )
        match completion.state:
            case CompletionState.COMPLETE:
                missing = activity.missing
                reasons = (ReasonCode.IMAGES_MISSING.value,) if missing else ()
                self._settle(watch, replace(row, missing=missing, reasons=reasons), was, now)
            case CompletionState.DISCARDED:
                self._discard(row, was, now)
            case CompletionState.HELD:
                if was is not None and was.snapshot and activity.misses_images:
                    self._withhold(was, now)
                self._write(replace(row, state=SeriesState.HELD, forced=""), was)
            case CompletionState.RECEIVING:
                self._learn(watch, activity, now)
                watch.look_again_at = completion.look_again_at or inf
                self._write(replace(row, state=SeriesState.RECEIVING), was)

    def _activity(self, watch: SeriesWatch, was: SeriesRow | None) -> SeriesActivity:
        index = self._deps.index
        found = index.associations_around(watch.series_instance_uid)
        associations = [association_of(row) for row in found]
        watch.senders = frozenset(
            one.id for one in associations if one.carried and one.closed_at is None
        )
        return SeriesActivity(
            series_instance_uid=watch.series_instance_uid,
            instances=len(watch.inputs),
            last_received_at=max(one.received_at for one in watch.inputs),
            is_regular=is_regular(watch.frames, self._minimum_slices(watch.header())),
            associations=associations,
            expected=watch.expected(),
            splits_series=index.splits_series(peer_key(watch.newest.origin)),
            forced=Forced(was.forced) if was is not None and was.forced else None,
            losses=self._losses(watch),
            accepted_losses=was.missing if was is not None and was.snapshot else 0,
            listening_since=self._deps.losses.listening_since().get(
                watch.newest.origin.transport.value, -inf
            ),
        )

    def _losses(self, watch: SeriesWatch) -> Sequence[Loss]:
        """Images of it that were refused, cut off or came without pixels, and have not come since."""
        return [*self._deps.losses.of_series(watch.series_instance_uid), *watch.without_pixels]

    def _minimum_slices(self, header: Header) -> int:
        """The most slices that a model of a rule firing on this header needs."""
        wanted = [
            active.minimum(role).slices
            for active in self._deps.match.rules
            for role in _roles_true(active, header)
        ]
        return max(wanted, default=2)

    def _learn(self, watch: SeriesWatch, activity: SeriesActivity, now: float) -> None:
        if not activity.splits_series and learns_splitting(activity, self._deps.policy, now):
            peer = peer_key(watch.newest.origin)
            log.info("peer sends one series over several associations", extra={"peer": peer})
            self._deps.index.learn_splitting(peer, now)

    def _settle(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        """Complete: take the snapshot, let the rules speak, then say that it is settled."""
        deps, uid, study = self._deps, row.series_instance_uid, row.study_instance_uid
        gate = watch.gate()
        row = replace(
            row,
            state=SeriesState.COMPLETE,
            revision=(was.revision if was is not None else 0) + 1,
            snapshot={one.sop_instance_uid: one.version for one in watch.inputs},
            gate={
                "findings": [finding.sentence for finding in gate.findings],
                "reasons": codes_of(gate.findings),
                "notes": list(gate.notes),
            },
            forced="",
        )
        complete = complete_series(watch, row)
        crash_point("waiting for completion")
        others = deps.index.series_of_study(study)
        match_series(deps.match, complete, series_numbers([row, *others]), now)
        deps.work.supersede(study, uid, row.revision, now)
        self._match_study(study, now, settling={uid: (row, complete)})
        crash_point("job queued")
        if self._write(row, was):
            self._studies[study] = -inf
            log.info(
                "series complete",
                extra={
                    "series_instance_uid": uid,
                    "revision": row.revision,
                    "instances": row.instances,
                    "evidence": row.evidence,
                },
            )

    def _withhold(self, was: SeriesRow, now: float) -> None:
        """Images of a settled series turn out to be lost: what has not left does not leave."""
        self._deps.work.supersede(
            was.study_instance_uid, was.series_instance_uid, was.revision + 1, now
        )

    def _is_held_for_late(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow, now: float
    ) -> bool:
        """Something new came to a settled series: a person decides, or the next revision opens."""
        study, uid = was.study_instance_uid, was.series_instance_uid
        lateness = judge_late(
            self._deps.policy,
            revision=was.revision,
            progress=Progress[self._deps.work.furthest(study, uid)],
            late_instances=late_images(watch, was),
            series_instance_uid=uid,
        )
        if lateness.is_held:
            reasons = (ReasonCode.LATE_IMAGES.value,)
            row = replace(row, state=SeriesState.HELD, sentence=lateness.sentence, reasons=reasons)
            self._write(row, was)
            return True
        log.info(lateness.sentence, extra={"series_instance_uid": uid})
        if lateness.old_work is not OldWork.NOTHING:
            self._deps.work.supersede(study, uid, lateness.revision, now)
        return False

    def _stay_settled(self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow) -> None:
        """Nothing new but corrected headers: later jobs carry them, none runs again for them."""
        versions = {one.sop_instance_uid: one.version for one in watch.inputs}
        row = replace(row, snapshot={**was.snapshot, **versions}, state=SeriesState.COMPLETE)
        if was.state is SeriesState.HELD:
            row = replace(row, sentence="complete as it was settled", reasons=())
        self._write(row, was)

    def _hold_for_deleted(self, row: SeriesRow, was: SeriesRow) -> None:
        """Retention took a part of what is needed: nothing runs on the rest."""
        if was.forced:
            self._send_again(row, was)
            return
        free = f"to have all of it taken again: segnode series rerun {row.series_instance_uid}"
        sentence = (
            f"images came after earlier ones of revision {was.revision} were deleted by retention; "
            f"{free}"
        )
        reasons = (ReasonCode.FILES_DELETED.value,)
        row = replace(row, state=SeriesState.HELD, sentence=sentence, reasons=reasons)
        self._write(row, was)

    def _have_it_sent_again(self, series_instance_uid: str, now: float) -> None:
        """A person asked for a series of which no file is left."""
        was = self._deps.index.series(series_instance_uid)
        if was is not None and was.forced:
            self._send_again(replace(was, updated_at=now), was)

    def _send_again(self, row: SeriesRow, was: SeriesRow) -> None:
        """Forget what was deleted, so that it is not taken for a duplicate when it is sent again."""
        self._deps.index.forget_deleted(row.series_instance_uid)
        sentence = "its images were deleted by retention: send the series again"
        row = replace(
            row,
            state=SeriesState.HELD,
            snapshot={},
            forced="",
            sentence=sentence,
            reasons=(ReasonCode.FILES_DELETED.value,),
            missing=0,
        )
        self._write(row, was)

    def _keep_aside(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        """Nothing here is an input: it never waits, and only a rule that names its class is asked."""
        sentence = "no grayscale images of a patient: nothing for a model"
        asking = [active for active in self._deps.match.rules if _names(active, watch)]
        reports = [
            (active.rule.name, MatchState.PARKED, f"{active.model.name} takes images; {sentence}")
            for active in asking
        ]
        for rule, state, why in reports or [(NO_RULE, MatchState.NOT_AN_INPUT, sentence)]:
            report = MatchReport(
                rule=rule,
                study_instance_uid=watch.study_instance_uid,
                series_key=watch.series_instance_uid,
                roles={"": watch.series_instance_uid},
                revision=1,
                state=state,
                sentence=why,
            )
            self._deps.match.matches.put(report, now)
        row = replace(row, state=SeriesState.COMPLETE, sentence=sentence, revision=1, forced="")
        self._write(row, was)

    def _discard(self, row: SeriesRow, was: SeriesRow | None, now: float) -> None:
        """Leave a series alone, and end what was made of it and has not left."""
        uid, study = row.series_instance_uid, row.study_instance_uid
        self._deps.work.supersede(study, uid, row.revision + 1, now)
        row = replace(row, state=SeriesState.DISCARDED, forced="", updated_at=now)
        self._match_study(study, now, settling={uid: (row, None)})
        if self._write(row, was):
            self._studies[study] = -inf

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
        return complete_series(watch, row) if len(watch.inputs) == len(row.snapshot) else None

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
        free = f"to leave it alone: segnode series discard {series_instance_uid}"
        sentence = f"{error} when it was judged, tried again every {BROKEN_S:.0f} s; {free}"
        was = index.series(series_instance_uid)
        instances = [one for _, one in index.arrivals_of(series_instance_uid)]
        row = not_judged(was, instances, sentence, now)
        index.put_series(row, was=was)


def _roles_true(active: ActiveRule, header: Header) -> Iterable[str]:
    """Roles of the model that this series could fill; a rule on single series has one."""
    for role, verdict in explain(active.rule, header).roles.items():
        if verdict.truth is Truth.TRUE:
            yield role or active.model.grid_role


def _names(active: ActiveRule, watch: SeriesWatch) -> bool:
    """Whether a rule asks for this series by naming its SOP class, and fires on it."""
    if isinstance(active.rule, StudyRule):
        return False
    classes = {one.sop_class_uid for one in watch.others}
    is_named = any(names_sop_class(active.rule.condition, each) for each in classes)
    return is_named and explain(active.rule, watch.header()).truth is Truth.TRUE
