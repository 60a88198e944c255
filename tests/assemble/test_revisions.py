"""Late instances: what they do to work that was already taken up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.assemble.revisions import Lateness, OldWork, is_late, judge_late
from node.domain.completion_policy import CompletionPolicy, Late
from node.domain.job import Progress
from node.domain.reasons import ReasonCode
from node.words import tell

SNAPSHOT = {"1.2.1": 1, "1.2.2": 1}


def late(progress: Progress, policy: Late = Late.RERUN, count: int = 1) -> Lateness:
    return judge_late(
        replace(CompletionPolicy(), late=policy),
        revision=1,
        progress=progress,
        late_instances=count,
    )


def test_an_instance_after_the_snapshot_is_late_and_one_of_it_is_not() -> None:
    assert is_late(SNAPSHOT, "1.2.9")
    assert not is_late(SNAPSHOT, "1.2.1")


def test_before_the_first_snapshot_nothing_is_late() -> None:
    assert not is_late({}, "1.2.1")


@pytest.mark.parametrize(
    ("progress", "old_work"),
    [
        (Progress.NO_JOB, OldWork.NOTHING),
        (Progress.QUEUED, OldWork.CANCEL),
        (Progress.IN_WORK, OldWork.WITHHOLD),
        (Progress.DELIVERED, OldWork.SUPERSEDE),
    ],
)
def test_the_next_revision_takes_the_place_of_the_old_work(
    progress: Progress, old_work: OldWork
) -> None:
    found = late(progress)

    assert (found.revision, found.old_work, found.is_held) == (2, old_work, False)


def test_after_delivery_the_hold_policy_leaves_it_to_a_person() -> None:
    found = late(Progress.DELIVERED, Late.HOLD)

    assert (found.revision, found.old_work, found.is_held) == (1, OldWork.NOTHING, True)
    assert found.reason.code is ReasonCode.LATE_IMAGES


@pytest.mark.parametrize("progress", [p for p in Progress if p is not Progress.DELIVERED])
def test_before_delivery_the_hold_policy_changes_nothing(progress: Progress) -> None:
    assert late(progress, Late.HOLD) == late(progress, Late.RERUN)


def test_the_sentence_counts_the_images() -> None:
    assert "1 image came" in tell(late(Progress.QUEUED).reason)
    assert "3 images came" in tell(late(Progress.QUEUED, count=3).reason)


def test_lateness_needs_a_snapshot_and_an_instance() -> None:
    with pytest.raises(ValueError, match="late"):
        late(Progress.QUEUED, count=0)
