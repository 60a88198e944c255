"""What becomes of one series at one moment: facts in, a decision out. Pure; ``settle`` carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from node.assemble.completion import (
    Association,
    SeriesActivity,
    judge_completion,
    judge_late,
    learns_splitting,
    peer_key,
)
from node.domain.completion_policy import CompletionPolicy
from node.domain.instance import Ending, Evidence, Origin, SeriesRow, SeriesState, Transport
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode, has_code, reasons_to_json
from node.domain.received import Loss
from node.pipeline.judge import Judgement, Settling, settling
from node.pipeline.series import Series

_SETTLED = (SeriesState.COMPLETE, SeriesState.HELD)
_SENDER = ("peer", "calling_ae_title", "called_ae_title", "address", "http_user")
_AS_IT_STANDS = ("id", "opened_at", "heartbeat_at", "closed_at", "carried")
_DECIDED = (
    "revision", "snapshot", "gate", "forced", "state", "evidence", "reasons", "missing", "guard",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of a series with images at one moment.

    Args:
        was: The row as it is written.
        judgement: What the rules say of it.
        associations: Those that carried it, and of the same callers' others since.
        splits_series: Its sender is known to send one series over several associations.
        losses: Images of it that were refused, cut off or came without pixels, and have not come since.
        listening_since: Since when the transport that it came by is listened on.
        progress: How far the work of the revision in force went.
        is_current: Nothing arrived since these facts were gathered.
    """

    was: SeriesRow | None
    series: Series
    judgement: Judgement
    associations: Sequence[Mapping[str, Any]]
    splits_series: bool
    losses: Sequence[Loss]
    listening_since: float
    progress: Progress
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a series, in this order.

    Args:
        ends_work_before: Work of revisions before this one ends, as far as it has not left.
        forgets_deleted: What was deleted is no duplicate when it is sent again.
        settles: The next revision, which opens.
        row: To be written last; None where more arrived meanwhile and the next look decides.
        look_again_at: While it is receiving.
        learns_splitting: While it is receiving: its sender sends one series over several associations.
    """

    row: SeriesRow | None
    ends_work_before: int | None = None
    forgets_deleted: bool = False
    settles: Settling | None = None
    look_again_at: float = inf
    learns_splitting: bool = False


def decide(facts: Facts, policy: CompletionPolicy, now: float) -> Decision:
    """What becomes of a series with images."""
    was, row = facts.was, described(facts.series, facts.was, now)
    if was is None:
        return _judge(facts, row, policy, now)
    if was.state is SeriesState.DISCARDED and not was.forced:
        return Decision(row=row)
    if was.snapshot.keys() - facts.series.snapshot.keys():
        return send_again(row) if was.forced else _hold_for_deleted(row)
    if was.snapshot and was.state in _SETTLED and not was.forced:
        return _look_at_settled(facts, row, was, policy, now)
    return _judge(facts, row, policy, now)


def described(series: Series, was: SeriesRow | None, now: float) -> SeriesRow:
    """The row with what headers and instances say now; decisions are kept as they were."""
    header, everything = series.header, [*series.instances, *series.others]
    row = SeriesRow(
        series_instance_uid=series.series_instance_uid,
        study_instance_uid=series.study_instance_uid,
        patient_id=header.text("PatientID"),
        patient_name=header.text("PatientName"),
        modality=header.text("Modality"),
        series_description=header.text("SeriesDescription"),
        series_number=header.number("SeriesNumber"),
        header=header.to_json(),
        instances=len(everything),
        frames=len(series.frames),
        first_received_at=min(one.received_at for one in everything),
        last_received_at=max(one.received_at for one in everything),
        state=SeriesState.RECEIVING,
        updated_at=now,
        newest_row=series.newest_row,
    )
    if was is None:
        return row
    return replace(
        row,
        first_received_at=min(was.first_received_at, row.first_received_at),
        **{name: getattr(was, name) for name in _DECIDED},
    )


def discard(row: SeriesRow) -> Decision:
    """Leave a series alone, and end what was made of it and has not left."""
    row = replace(row, state=SeriesState.DISCARDED, forced=None)
    return Decision(row=row, ends_work_before=row.revision + 1)


def discard_as_told(was: SeriesRow, now: float) -> Decision:
    """A person gives a series up."""
    why = (Reason(ReasonCode.PERSON_DISCARDED),)
    return discard(replace(was, evidence=Evidence.PERSON, reasons=why, updated_at=now))


def send_again(row: SeriesRow) -> Decision:
    """A person asked for a series of which files were deleted: the sender has to send it again."""
    gone = Reason(ReasonCode.FILES_DELETED)
    row = replace(row, state=SeriesState.HELD, snapshot={}, forced=None, reasons=(gone,), missing=0)
    return Decision(row=row, forgets_deleted=True)


def _hold_for_deleted(row: SeriesRow) -> Decision:
    """Retention took a part of what is needed: nothing runs on the rest."""
    gone = Reason(ReasonCode.FILES_DELETED, {"revision": row.revision})
    return Decision(row=replace(row, state=SeriesState.HELD, reasons=(gone,)))


def _look_at_settled(
    facts: Facts, row: SeriesRow, was: SeriesRow, policy: CompletionPolicy, now: float
) -> Decision:
    """It was settled: more is lost of it, something new came, or only headers were corrected."""
    if len(facts.losses) > was.missing:
        return _judge(facts, row, policy, now, ends_work_before=was.revision + 1)
    late = len(facts.series.snapshot.keys() - was.snapshot.keys())
    if not late:
        is_held = was.state is SeriesState.HELD
        if is_held and has_code(was.reasons, ReasonCode.IMAGES_REFUSED):
            return _judge(facts, row, policy, now)
        # nothing new but corrected headers: later jobs carry them, none runs again for them
        snapshot = {**was.snapshot, **facts.series.snapshot}
        reasons = (Reason(ReasonCode.AS_SETTLED),) if is_held else row.reasons
        state = SeriesState.COMPLETE
        return Decision(row=replace(row, snapshot=snapshot, state=state, reasons=reasons))
    lateness = judge_late(
        policy, revision=was.revision, progress=facts.progress, late_instances=late
    )
    if lateness.held is not None:
        held = replace(row, state=SeriesState.HELD, reasons=(lateness.held,))
        return Decision(row=held)
    return _judge(facts, row, policy, now, ends_work_before=lateness.ends_work_before)


def _judge(
    facts: Facts,
    row: SeriesRow,
    policy: CompletionPolicy,
    now: float,
    *,
    ends_work_before: int | None = None,
) -> Decision:
    """Whether it is complete by the evidence; a settled one loses its work where images are lost."""
    if not facts.is_current:
        return Decision(row=None, ends_work_before=ends_work_before)
    was, activity = facts.was, _activity(facts)
    completion = judge_completion(activity, policy, now)
    row = replace(row, evidence=completion.level, reasons=completion.reasons)
    match completion.state:
        case SeriesState.COMPLETE:
            missing, gate = activity.missing, facts.series.gate
            marks = (Reason(ReasonCode.IMAGES_MISSING),) if missing else ()
            row = replace(
                row,
                state=SeriesState.COMPLETE,
                revision=row.revision + 1,
                snapshot=facts.series.snapshot,
                gate={
                    "findings": reasons_to_json(gate.findings),
                    "notes": reasons_to_json(gate.notes),
                },
                reasons=(*row.reasons, *marks),
                missing=missing,
                forced=None,
            )
            series = replace(facts.series, revision=row.revision, missing=missing)
            settles = settling(facts.judgement, series)
            return Decision(row=row, settles=settles, ends_work_before=ends_work_before)
        case SeriesState.DISCARDED:
            return discard(row)
        case SeriesState.HELD:
            if was is not None and was.snapshot and activity.misses_images:
                ends_work_before = was.revision + 1
            held = replace(row, state=SeriesState.HELD, forced=None)
            return Decision(row=held, ends_work_before=ends_work_before)
        case SeriesState.RECEIVING:
            return Decision(
                row=replace(row, state=SeriesState.RECEIVING),
                ends_work_before=ends_work_before,
                look_again_at=completion.look_again_at,
                learns_splitting=not facts.splits_series
                and learns_splitting(activity, policy, now),
            )


def _activity(facts: Facts) -> SeriesActivity:
    """How it arrived, as evidence."""
    was, series = facts.was, facts.series
    return SeriesActivity(
        instances=len(series.instances),
        last_received_at=series.instances[-1].received_at,
        is_regular=series.is_regular and len(series.frames) >= facts.judgement.minimum_slices,
        associations=[_association(row) for row in facts.associations],
        expected=series.expected,
        splits_series=facts.splits_series,
        forced=was.forced if was is not None else None,
        losses=facts.losses,
        accepted_losses=was.missing if was is not None and was.snapshot else 0,
        listening_since=facts.listening_since,
    )


def _association(row: Mapping[str, Any]) -> Association:
    """A row of an association, with what it carried of the series, as evidence."""
    sender = {name: row[name] for name in _SENDER}
    origin = Origin(transport=Transport(row["transport"]), association_id=row["id"], **sender)
    same = {name: row[name] for name in _AS_IT_STANDS}
    ended = Ending(row["end"]) if row["end"] else None
    return Association(**same, peer=peer_key(origin), ended=ended)
