"""What becomes of one series at one moment: facts in, a decision out. Pure; ``settle`` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from node.assemble.completion import SeriesActivity, judge_completion, judge_late
from node.domain.completion_policy import CompletionPolicy
from node.domain.grid import GateVerdict
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode, has_code, reasons_to_json
from node.domain.series import Evidence, SeriesRow, SeriesState

_SETTLED = (SeriesState.COMPLETE, SeriesState.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A series with images, as it stands.

    Args:
        row: With what headers and instances say now, and what was decided before.
        was: The row as it is written.
        versions: SOP Instance UID -> version of each image.
        progress: How far the work of the revision in force went.
        is_current: Nothing arrived since these facts were gathered.
    """

    row: SeriesRow
    was: SeriesRow | None
    versions: Mapping[str, int]
    gate: GateVerdict
    activity: SeriesActivity
    progress: Progress
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a series, in this order.

    Args:
        ends_work_before: Work of revisions before this one ends, as far as it has not left.
        forgets_deleted: What was deleted is no duplicate when it is sent again.
        row: To be written last; None where more arrived meanwhile and the next look decides.
        look_again_at: While it is receiving.
    """

    row: SeriesRow | None
    ends_work_before: int | None = None
    forgets_deleted: bool = False
    look_again_at: float = inf


def decide(seen: Seen, policy: CompletionPolicy, now: float) -> Decision:
    """What becomes of a series with images."""
    was = seen.was
    if was is None:
        return _judge(seen, policy, now)
    if was.state is SeriesState.DISCARDED and not was.forced:
        return Decision(row=seen.row)
    if was.snapshot.keys() - seen.versions.keys():
        return send_again(seen.row) if was.forced else _hold_for_deleted(seen.row)
    if was.snapshot and was.state in _SETTLED and not was.forced:
        return _look_at_settled(seen, was, policy, now)
    return _judge(seen, policy, now)


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


def _look_at_settled(seen: Seen, was: SeriesRow, policy: CompletionPolicy, now: float) -> Decision:
    """It was settled: more is lost of it, something new came, or only headers were corrected."""
    if len(seen.activity.losses) > was.missing:
        return _judge(seen, policy, now, ends_work_before=was.revision + 1)
    late = len(seen.versions.keys() - was.snapshot.keys())
    if not late:
        is_held = was.state is SeriesState.HELD
        if is_held and has_code(was.reasons, ReasonCode.IMAGES_REFUSED):
            return _judge(seen, policy, now)
        return _stay_settled(seen, was)
    lateness = judge_late(
        policy, revision=was.revision, progress=seen.progress, late_instances=late
    )
    if lateness.held is not None:
        held = replace(seen.row, state=SeriesState.HELD, reasons=(lateness.held,))
        return Decision(row=held)
    return _judge(seen, policy, now, ends_work_before=lateness.ends_work_before)


def _stay_settled(seen: Seen, was: SeriesRow) -> Decision:
    """Nothing new but corrected headers: later jobs carry them, none runs again for them."""
    snapshot = {**was.snapshot, **seen.versions}
    row = replace(seen.row, snapshot=snapshot, state=SeriesState.COMPLETE)
    if was.state is SeriesState.HELD:
        row = replace(row, reasons=(Reason(ReasonCode.AS_SETTLED),))
    return Decision(row=row)


def _judge(
    seen: Seen, policy: CompletionPolicy, now: float, *, ends_work_before: int | None = None
) -> Decision:
    """Whether it is complete by the evidence; a settled one loses its work where images are lost."""
    if not seen.is_current:
        return Decision(row=None, ends_work_before=ends_work_before)
    activity = seen.activity
    completion = judge_completion(activity, policy, now)
    row = replace(seen.row, evidence=completion.level, reasons=completion.reasons)
    match completion.state:
        case SeriesState.COMPLETE:
            return Decision(row=_settled(seen, row), ends_work_before=ends_work_before)
        case SeriesState.DISCARDED:
            return discard(row)
        case SeriesState.HELD:
            if seen.was is not None and seen.was.snapshot and activity.misses_images:
                ends_work_before = seen.was.revision + 1
            held = replace(row, state=SeriesState.HELD, forced=None)
            return Decision(row=held, ends_work_before=ends_work_before)
        case SeriesState.RECEIVING:
            return Decision(
                row=replace(row, state=SeriesState.RECEIVING),
                ends_work_before=ends_work_before,
                look_again_at=completion.look_again_at,
            )


def _settled(seen: Seen, row: SeriesRow) -> SeriesRow:
    """The next revision: a snapshot of what is there."""
    missing, gate = seen.activity.missing, seen.gate
    marks = (Reason(ReasonCode.IMAGES_MISSING),) if missing else ()
    return replace(
        row,
        state=SeriesState.COMPLETE,
        revision=row.revision + 1,
        snapshot=dict(seen.versions),
        gate={"findings": reasons_to_json(gate.findings), "notes": reasons_to_json(gate.notes)},
        reasons=(*row.reasons, *marks),
        missing=missing,
        forced=None,
    )
