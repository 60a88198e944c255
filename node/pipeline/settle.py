"""The tick: take in what arrived, judge whether it is complete, and let the rules speak.

Everything here can be repeated: the index rows say what arrived, the series row says what was
settled, matches and jobs are keyed. A process that dies between two writes leaves a series that the
next tick judges again, to the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sqlalchemy.exc import OperationalError

from node.assemble.activity import Association, Ending, Forced, SeriesActivity, peer_key
from node.assemble.evidence import CompletionState, judge_completion, learns_splitting
from node.assemble.gate import is_regular
from node.assemble.policy import CompletionPolicy
from node.assemble.revisions import OldWork, Progress, is_amended, is_late, judge_late
from node.domain.header import Header
from node.domain.instance import Instance, Origin, Road
from node.domain.job import MatchState
from node.domain.series import SeriesRow, SeriesState
from node.jobs.values import MatchReport
from node.pipeline.crash_points import crash_point
from node.pipeline.matching import (
    NO_RULE,
    ActiveRule,
    CompleteSeries,
    MatchRoom,
    match_series,
    match_study,
)
from node.pipeline.watch import ReadHeader, SeriesWatch
from node.route.explain import explain
from node.route.rules import Rule
from node.route.verdict import Truth

log = logging.getLogger(__name__)

BROKEN_S = 60.0

_SETTLED = (SeriesState.COMPLETE, SeriesState.HELD)
_GONE = "earlier images of the series were deleted by retention: send the whole series again"


class ArrivalIndex(Protocol):
    """What the tick asks of the index, and what it writes back."""

    def arrivals_after(self, row: int) -> Sequence[tuple[int, Instance]]:
        """Instances whose row is newer, oldest first."""
        ...

    def unsettled(self) -> tuple[Sequence[str], int]:
        """Series that need a look after a start, and the newest row that this answer covers."""
        ...

    def instances_of(self, series_instance_uid: str) -> Sequence[Instance]:
        """All instances of a series, newest versions, files still there."""
        ...

    def associations_around(self, series_instance_uid: str) -> Sequence[Mapping[str, Any]]:
        """Rows of associations that carried a series, and of the same callers' others since."""
        ...

    def series(self, series_instance_uid: str) -> SeriesRow | None:
        """What is known of a series."""
        ...

    def series_of_study(self, study_instance_uid: str) -> Sequence[SeriesRow]:
        """All series of a study."""
        ...

    def put_series(self, row: SeriesRow, *, was: SeriesRow | None) -> bool:
        """Write a row if it is still as it was; False when another process was faster."""
        ...

    def forced_series(self) -> Sequence[str]:
        """Series that a person decided about."""
        ...

    def splits_series(self, peer: str) -> bool:
        """Whether a peer is known to send one series over several associations."""
        ...

    def learn_splitting(self, peer: str, now: float) -> None:
        """Remember it."""
        ...


class WorkProgress(Protocol):
    """How far the work of a revision went."""

    def furthest(self, series_instance_uid: str, revision: int) -> str:
        """The furthest of its jobs and deliveries, as a name of ``Progress``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRoom:
    """What the tick works with; made anew when the configuration is reloaded."""

    index: ArrivalIndex
    work: WorkProgress
    match: MatchRoom
    policy: CompletionPolicy
    read_header: ReadHeader


class Settler:
    """Keeps one watch per series that is not settled."""

    def __init__(self, room: SettleRoom) -> None:
        self._room = room
        self._watched: dict[str, SeriesWatch] = {}
        self._studies: dict[str, float] = {}
        self._broken: dict[str, float] = {}
        self._row = -1

    def use(self, room: SettleRoom) -> None:
        """Go on with another configuration."""
        self._room = room

    def tick(self, now: float) -> None:
        """One look at everything that is due; a series that fails does not hold up the others."""
        self._take_in(now)
        for uid, watch in list(self._watched.items()):
            if watch.look_again_at <= now:
                with self._apart(uid, now):
                    self._look(watch, now)
        for study, due in list(self._studies.items()):
            if due <= now:
                self._match_study(study, now)

    def _take_in(self, now: float) -> None:
        index = self._room.index
        renewed: set[str] = set()
        if self._row < 0:
            unsettled, self._row = index.unsettled()
            renewed.update(unsettled)
        arrivals: dict[str, list[Instance]] = {}
        for row, instance in index.arrivals_after(self._row):
            self._row = row
            arrivals.setdefault(instance.series_instance_uid, []).append(instance)
        renewed.update(uid for uid, due in self._broken.items() if due <= now)
        renewed.update(uid for uid in arrivals if uid not in self._watched)
        for uid, instances in arrivals.items():
            if uid not in renewed:
                with self._apart(uid, now):
                    self._watched[uid].take_all(instances)
        for uid in index.forced_series():
            if uid in self._watched:
                self._watched[uid].look_again_at = 0.0
            else:
                renewed.add(uid)
        for uid in renewed:
            with self._apart(uid, now):
                self._watch_whole(uid, now)

    def _watch_whole(self, series_instance_uid: str, now: float) -> None:
        self._broken.pop(series_instance_uid, None)
        instances = self._room.index.instances_of(series_instance_uid)
        if not instances:
            self._all_gone(series_instance_uid, now)
            return
        watch = SeriesWatch(
            series_instance_uid, instances[0].study_instance_uid, self._room.read_header
        )
        watch.take_all(instances)
        self._watched[series_instance_uid] = watch

    def _all_gone(self, series_instance_uid: str, now: float) -> None:
        """Retention took the files: what a person asked for cannot be done any more."""
        was = self._room.index.series(series_instance_uid)
        if was is not None and was.forced:
            row = replace(was, forced="", sentence=_GONE, updated_at=now)
            self._room.index.put_series(row, was=was)

    @contextmanager
    def _apart(self, series_instance_uid: str, now: float) -> Iterator[None]:
        """Keep one series' trouble from the rest; it is looked at anew after a while."""
        try:
            yield
        except OperationalError:
            raise  # the database itself: the whole tick is tried again
        except Exception:
            log.exception("series not settled", extra={"series_instance_uid": series_instance_uid})
            self._watched.pop(series_instance_uid, None)
            self._broken[series_instance_uid] = now + BROKEN_S

    def _look(self, watch: SeriesWatch, now: float) -> None:
        was = self._room.index.series(watch.series_instance_uid)
        row = _described(watch, was, now)
        if not watch.inputs:
            self._keep_aside(watch, row, was, now)
            return
        if was is not None and was.snapshot and was.state in _SETTLED and not was.forced:
            if not any(is_late(was.snapshot, i.sop_instance_uid) for i in watch.inputs):
                self._amend(watch, row, was)
                return
            row, held = self._open_revision(watch, row, was, now)
            if held:
                self._write(watch, row, was, look_again_at=float("inf"))
                return
        activity = self._activity(watch, was)
        completion = judge_completion(activity, self._room.policy, now)
        row = replace(row, sentence=completion.sentence, evidence=completion.level.value)
        match completion.state:
            case CompletionState.COMPLETE:
                self._settle(watch, row, was, now)
            case CompletionState.DISCARDED:
                self._discard(watch, row, was, now)
            case CompletionState.HELD:
                self._write(watch, replace(row, state=SeriesState.HELD), was, float("inf"))
            case CompletionState.RECEIVING:
                again = completion.look_again_at
                self._learn(watch, activity, now)
                self._write(
                    watch, replace(row, state=SeriesState.RECEIVING), was, again or float("inf")
                )

    def _activity(self, watch: SeriesWatch, was: SeriesRow | None) -> SeriesActivity:
        index = self._room.index
        peer = peer_key(watch.newest.origin)
        return SeriesActivity(
            series_instance_uid=watch.series_instance_uid,
            instances=len(watch.inputs),
            last_received_at=max(one.received_at for one in watch.inputs),
            is_regular=is_regular(watch.frames, self._minimum_slices(watch.header())),
            associations=[
                _association(found)
                for found in index.associations_around(watch.series_instance_uid)
            ],
            expected=watch.expected(),
            splits_series=index.splits_series(peer),
            forced=Forced(was.forced) if was is not None and was.forced else None,
        )

    def _minimum_slices(self, header: Header) -> int:
        """The most slices that a model of a rule firing on this header needs."""
        wanted = [
            active.minimum(role).slices
            for active in self._room.match.rules
            for role in _roles_true(active, header)
        ]
        return max(wanted, default=2)

    def _learn(self, watch: SeriesWatch, activity: SeriesActivity, now: float) -> None:
        if not activity.splits_series and learns_splitting(activity, self._room.policy, now):
            peer = peer_key(watch.newest.origin)
            log.info("peer sends one series over several associations", extra={"peer": peer})
            self._room.index.learn_splitting(peer, now)

    def _settle(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        """Complete: take the snapshot, let the rules speak, then say that it is settled."""
        gate = watch.gate()
        row = replace(
            row,
            state=SeriesState.COMPLETE,
            revision=(was.revision if was is not None else 0) + 1,
            snapshot={one.sop_instance_uid: one.version for one in watch.inputs},
            gate={"findings": list(gate.findings), "notes": list(gate.notes)},
            forced="",
        )
        crash_point("waiting for completion")
        match_series(self._room.match, _complete(watch, row), self._taken_numbers(row), now)
        crash_point("job queued")
        if self._write(watch, row, was, float("inf")):
            self._studies[row.study_instance_uid] = 0.0
            log.info(
                "series complete",
                extra={
                    "series_instance_uid": row.series_instance_uid,
                    "revision": row.revision,
                    "instances": row.instances,
                    "evidence": row.evidence,
                },
            )

    def _open_revision(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow, now: float
    ) -> tuple[SeriesRow, bool]:
        """Something new came to a settled series: reopen it, or hold it for a person."""
        there = {one.sop_instance_uid for one in watch.inputs}
        if set(was.snapshot) - there:
            return replace(row, state=SeriesState.HELD, sentence=_GONE), True
        late = [uid for uid in there if is_late(was.snapshot, uid)]
        lateness = judge_late(
            self._room.policy,
            revision=was.revision,
            progress=Progress[self._room.work.furthest(was.series_instance_uid, was.revision)],
            late_instances=len(late),
            series_instance_uid=was.series_instance_uid,
        )
        log.info(
            "late instances",
            extra={"series_instance_uid": was.series_instance_uid, "count": len(late)},
        )
        if lateness.is_held:
            return replace(row, state=SeriesState.HELD, sentence=lateness.sentence), True
        if lateness.old_work is not OldWork.NOTHING:
            for active in self._room.match.rules:
                self._room.match.jobs.supersede(
                    row.study_instance_uid,
                    active.rule.name,
                    row.series_instance_uid,
                    lateness.revision,
                    now,
                )
        return row, False

    def _amend(self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow) -> None:
        """Nothing new but corrected headers: later jobs carry them, none runs again for them."""
        versions = {one.sop_instance_uid: one.version for one in watch.inputs}
        if any(is_amended(was.snapshot, uid, version) for uid, version in versions.items()):
            row = replace(
                row,
                state=was.state,
                sentence=was.sentence,
                evidence=was.evidence,
                snapshot={**was.snapshot, **versions},
            )
        else:
            row = was
        self._write(watch, row, was, float("inf"))

    def _keep_aside(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        """Nothing here is an input: it never waits, and no rule is asked."""
        sentence = "no images with pixels: nothing for a model"
        report = MatchReport(
            rule=NO_RULE,
            study_instance_uid=watch.study_instance_uid,
            series_key=watch.series_instance_uid,
            roles={"": watch.series_instance_uid},
            revision=1,
            state=MatchState.NOT_AN_INPUT,
            sentence=sentence,
        )
        self._room.match.matches.put(report, now)
        row = replace(row, state=SeriesState.COMPLETE, sentence=sentence, revision=1, forced="")
        self._write(watch, row, was, float("inf"))

    def _discard(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, now: float
    ) -> None:
        revision = (was.revision if was is not None else 0) + 1
        for active in self._room.match.rules:
            self._room.match.jobs.supersede(
                row.study_instance_uid, active.rule.name, row.series_instance_uid, revision, now
            )
        row = replace(row, state=SeriesState.DISCARDED, forced="")
        self._write(watch, row, was, float("inf"))

    def _write(
        self, watch: SeriesWatch, row: SeriesRow, was: SeriesRow | None, look_again_at: float
    ) -> bool:
        """Write the row unless nothing changed; a settled series is not watched any more."""
        if row != was and not self._room.index.put_series(row, was=was):
            watch.look_again_at = 0.0
            return False
        watch.look_again_at = look_again_at
        if row.state in (SeriesState.COMPLETE, SeriesState.DISCARDED):
            self._watched.pop(watch.series_instance_uid, None)
        return True

    def _match_study(self, study_instance_uid: str, now: float) -> None:
        rows = self._room.index.series_of_study(study_instance_uid)
        complete: dict[str, CompleteSeries] = {}
        if any(not isinstance(active.rule, Rule) for active in self._room.match.rules):
            for row in rows:
                if row.state is SeriesState.COMPLETE and row.snapshot:
                    watch = self._watch_of(row)
                    if watch is not None:
                        complete[row.series_instance_uid] = _complete(watch, row)
        numbers = _numbers(rows)
        again_at = match_study(self._room.match, complete, numbers, now) if complete else None
        if again_at is None:
            self._studies.pop(study_instance_uid, None)
        else:
            self._studies[study_instance_uid] = again_at

    def _watch_of(self, row: SeriesRow) -> SeriesWatch | None:
        instances = self._room.index.instances_of(row.series_instance_uid)
        watch = SeriesWatch(row.series_instance_uid, row.study_instance_uid, self._room.read_header)
        watch.take_all(one for one in instances if one.sop_instance_uid in row.snapshot)
        return watch if watch.inputs else None

    def _taken_numbers(self, row: SeriesRow) -> frozenset[int]:
        return _numbers([row, *self._room.index.series_of_study(row.study_instance_uid)])


def _roles_true(active: ActiveRule, header: Header) -> Iterable[str]:
    """Roles of the model that this series could fill; a rule on single series has one."""
    for role, verdict in explain(active.rule, header).roles.items():
        if verdict.truth is Truth.TRUE:
            yield role or active.model.grid_role


def _association(row: Mapping[str, Any]) -> Association:
    origin = Origin(
        road=Road(row["road"]),
        association_id=row["id"],
        peer=row["peer"],
        calling_ae_title=row["calling_ae_title"],
        called_ae_title=row["called_ae_title"],
        address=row["address"],
        http_user=row["http_user"],
    )
    return Association(
        id=row["id"],
        peer=peer_key(origin),
        opened_at=row["opened_at"],
        heartbeat_at=row["heartbeat_at"],
        closed_at=row["closed_at"],
        ended=Ending(row["end"]) if row["end"] else None,
        carried=row["carried"],
    )


def _described(watch: SeriesWatch, was: SeriesRow | None, now: float) -> SeriesRow:
    """The row with what the headers and instances say now; decisions are kept as they were."""
    header = watch.header()
    everything = [*watch.inputs, *watch.others]
    fresh = SeriesRow(
        series_instance_uid=watch.series_instance_uid,
        study_instance_uid=watch.study_instance_uid,
        patient_id=header.text("PatientID"),
        patient_name=header.text("PatientName"),
        modality=header.text("Modality"),
        series_description=header.text("SeriesDescription"),
        header=header.to_json(),
        instances=len(everything),
        frames=len(watch.frames),
        first_received_at=min(one.received_at for one in everything),
        last_received_at=max(one.received_at for one in everything),
        state=SeriesState.RECEIVING,
        updated_at=now,
        index_rows=sum(one.version for one in everything),
    )
    if was is None:
        return fresh
    return replace(
        fresh,
        revision=was.revision,
        snapshot=was.snapshot,
        gate=was.gate,
        forced=was.forced,
        state=was.state,
        guard=was.guard,
    )


def _complete(watch: SeriesWatch, row: SeriesRow) -> CompleteSeries:
    return CompleteSeries(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        revision=row.revision,
        header=watch.header(),
        instances=sorted(watch.inputs, key=lambda one: one.received_at),
        frames=watch.frames,
        origin=watch.newest.origin,
        first_received_at=row.first_received_at,
        phase_hints=watch.phase_hints,
    )


def _numbers(rows: Iterable[SeriesRow]) -> frozenset[int]:
    """Series Numbers in use (PS3.3 C.7.3.1)."""
    found = (Header.from_json(row.header).get("SeriesNumber") for row in rows)
    return frozenset(
        value
        for values in found
        if isinstance(values, tuple)
        for value in values
        if isinstance(value, int)
    )
