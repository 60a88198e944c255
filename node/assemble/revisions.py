"""Revisions: what an instance means that comes after a series was taken as complete.

A revision is a snapshot: which version of which instance a job was made of. A new instance opens
the next revision; an amended copy (the same pixels under a corrected header) does not, because the
same work has the same job key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from node.domain.completion_policy import CompletionPolicy, Late
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode


class OldWork(StrEnum):
    """What becomes of the work of the revision before."""

    NOTHING = "nothing"
    CANCEL = "cancel"  # a queued job never starts
    WITHHOLD = "withhold"  # it is finished and kept, and not delivered
    SUPERSEDE = "supersede"  # what was delivered is replaced and marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """What to do about an instance that came after the snapshot.

    Args:
        revision: The revision that the series opens, or stays at when held.
        is_held: A person decides; nothing runs until then.
    """

    revision: int
    old_work: OldWork
    is_held: bool
    reason: Reason


def is_late(snapshot: Mapping[str, int], sop_instance_uid: str) -> bool:
    """Whether an input instance is not part of a snapshot that was taken.

    Args:
        snapshot: SOP Instance UID to version; empty while no revision was taken.
    """
    return bool(snapshot) and sop_instance_uid not in snapshot


def judge_late(
    policy: CompletionPolicy,
    *,
    revision: int,
    progress: Progress,
    late_instances: int,
) -> Lateness:
    """What late instances do to revision ``revision``, which is in force.

    Before delivery nobody has seen a result, so the next revision simply takes its place, whatever
    the policy. After delivery the policy decides: ``rerun`` makes a result that replaces the old
    one, ``hold`` leaves that to a person.
    """
    if revision < 1 or late_instances < 1:
        raise ValueError("only instances after a first snapshot are late")
    late = Reason(ReasonCode.LATE_IMAGES, {"images": late_instances, "revision": revision})
    if progress is Progress.DELIVERED and policy.late is Late.HOLD:
        return Lateness(revision=revision, old_work=OldWork.NOTHING, is_held=True, reason=late)
    old_work = {
        Progress.NO_JOB: OldWork.NOTHING,
        Progress.QUEUED: OldWork.CANCEL,
        Progress.IN_WORK: OldWork.WITHHOLD,
        Progress.DELIVERED: OldWork.SUPERSEDE,
    }[progress]
    return Lateness(revision=revision + 1, old_work=old_work, is_held=False, reason=late)
