"""Completion, by a simulated clock: every time rule at its bound, and the stories of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.assemble.completion import (
    Association,
    Lateness,
    SeriesActivity,
    judge_completion,
    judge_late,
    learns_splitting,
)
from node.domain.completion_policy import CompletionPolicy, Late, OnGiveUp, OnRefused
from node.domain.instance import Ending, Evidence, Forced, SeriesState
from node.domain.job import Progress
from node.domain.reasons import ReasonCode, has_code
from node.domain.received import Loss
from node.words import tell, tell_all

POLICY = CompletionPolicy()
START = 1_800_000_000.0
TICK_S = 0.25


def association(
    number: int = 1,
    opened: float = 0.0,
    closed: float | None = None,
    ended: Ending | None = None,
    *,
    carried: int = 10,
    heartbeat: float | None = None,
    peer: str = "dimse:PACS",
) -> Association:
    if closed is not None and ended is None:
        ended = Ending.RELEASED
    if heartbeat is None:
        heartbeat = closed if closed is not None else opened
    return Association(
        id=f"a{number:03}",
        peer=peer,
        opened_at=START + opened,
        heartbeat_at=START + heartbeat,
        closed_at=None if closed is None else START + closed,
        ended=ended,
        carried=carried,
    )


def activity(
    *associations: Association, last: float = 10.0, regular: bool = True, instances: int = 10
) -> SeriesActivity:
    return SeriesActivity(
        instances=instances,
        last_received_at=START + last,
        is_regular=regular,
        associations=associations,
    )


def judge(subject: SeriesActivity, at: float, policy: CompletionPolicy = POLICY):
    return judge_completion(subject, policy, START + at)


# --- (2) release


def test_a_regular_stack_is_complete_when_release_has_settled() -> None:
    subject = activity(association(closed=10.5))

    before, after = judge(subject, 11.499), judge(subject, 11.5)

    assert before.state is SeriesState.RECEIVING
    assert before.look_again_at == START + 11.5
    assert (after.state, after.level) == (SeriesState.COMPLETE, Evidence.RELEASE)


def test_an_irregular_stack_does_not_follow_from_release() -> None:
    subject = activity(association(closed=10.5), regular=False)

    assert judge(subject, 69.9).state is SeriesState.RECEIVING
    assert judge(subject, 70.0).level is Evidence.QUIET_MAX


def test_an_open_association_of_the_same_peer_defers_to_quiet() -> None:
    other = association(2, opened=5.0, heartbeat=14.0, carried=0)
    subject = activity(association(closed=10.5), other)

    assert judge(subject, 14.9).state is SeriesState.RECEIVING
    assert judge(subject, 15.0).level is Evidence.QUIET


def test_an_association_opened_since_the_release_defers_to_quiet_even_when_closed() -> None:
    other = association(2, opened=10.9, closed=11.0, carried=0)
    subject = activity(association(closed=10.5), other)

    assert judge(subject, 12.0).state is SeriesState.RECEIVING
    assert judge(subject, 15.0).level is Evidence.QUIET


def test_associations_of_other_peers_do_not_matter() -> None:
    other = association(2, opened=10.9, heartbeat=11.0, carried=0, peer="dimse:CT1")

    assert judge(activity(association(closed=10.5), other), 11.5).level is Evidence.RELEASE


def test_an_association_that_closed_before_the_release_does_not_matter() -> None:
    other = association(2, opened=2.0, closed=4.0, carried=0)

    assert judge(activity(association(closed=10.5), other), 11.5).level is Evidence.RELEASE


def test_a_peer_known_to_split_series_is_judged_by_quiet() -> None:
    subject = replace(activity(association(closed=10.5)), splits_series=True)

    assert judge(subject, 14.9).state is SeriesState.RECEIVING
    assert judge(subject, 15.0).level is Evidence.QUIET


# --- aborts


def test_a_half_stack_cut_off_by_an_abort_waits_for_the_sender() -> None:
    subject = activity(association(closed=10.5, ended=Ending.ABORTED))

    waiting, given_up = judge(subject, 69.9), judge(subject, 70.0)

    assert waiting.state is SeriesState.RECEIVING
    assert has_code(waiting.reasons, ReasonCode.ABORTED)
    assert waiting.look_again_at == START + 70.0
    assert given_up.level is Evidence.QUIET_MAX


def test_a_later_release_speaks_again_after_an_abort() -> None:
    cut = association(1, closed=10.0, ended=Ending.ABORTED)
    rest = association(2, opened=20.0, closed=25.0)

    assert judge(activity(cut, rest, last=25.0), 26.0).level is Evidence.RELEASE


def test_without_a_heartbeat_an_association_is_an_abort() -> None:
    silent = association(opened=0.0, heartbeat=10.0)
    subject = activity(silent)

    assert has_code(judge(subject, 20.0).reasons, ReasonCode.ABORTED)


def test_silence_of_an_association_without_heartbeat_is_no_quiet() -> None:
    silent = association(opened=0.0, heartbeat=10.0)
    alive = replace(silent, heartbeat_at=START + 15.0)

    assert judge(activity(silent), 19.9).state is SeriesState.RECEIVING
    assert judge(activity(alive), 19.9).level is Evidence.QUIET


def test_silence_counts_from_when_somebody_listens() -> None:
    cut = activity(association(closed=10.5, ended=Ending.ABORTED))
    listening = replace(cut, listening_since=START + 100.0)

    assert judge(listening, 159.9).state is SeriesState.RECEIVING
    assert judge(listening, 160.0).level is Evidence.QUIET_MAX


# --- losses


def lost(*uids: str) -> tuple[Loss, ...]:
    return tuple(
        Loss(
            image=uid,
            sop_instance_uid=uid,
            association_id="a001",
            dimse_status=0xC000,
            reason="cut",
        )
        for uid in uids
    )


@pytest.mark.parametrize("regular", [True, False])
def test_lost_images_hold_a_series_when_it_would_be_complete(regular: bool) -> None:
    subject = replace(activity(association(closed=10.5), regular=regular), losses=lost("1", "2"))

    before, after = judge(subject, 11.4), judge(subject, 11.5)

    assert before.state is SeriesState.RECEIVING
    assert after.state is SeriesState.HELD
    assert [reason.code for reason in after.reasons] == [ReasonCode.IMAGES_REFUSED]
    assert tell_all(after.reasons) == "2 of 12 images were refused (2 x cut)"


def test_lost_images_count_beside_a_known_count_that_is_reached() -> None:
    subject = replace(activity(association(closed=10.5)), losses=lost("1"), expected=10)

    assert judge(subject, 100.0).state is SeriesState.HELD


def test_a_person_may_go_on_without_lost_images() -> None:
    subject = replace(activity(), losses=lost("1"), forced=Forced.PROCEED)

    judged = judge(subject, 11.0)

    assert (judged.state, judged.level) == (SeriesState.COMPLETE, Evidence.PERSON)
    assert tell_all(judged.reasons) == "a person said to go on with 10 of 11 images"


def test_to_judge_again_is_not_to_go_on_without_lost_images() -> None:
    subject = replace(activity(), losses=lost("1"), forced=Forced.RERUN)

    assert judge(subject, 100.0).state is SeriesState.HELD
    assert judge(replace(subject, accepted_losses=1), 100.0).level is Evidence.PERSON


def test_the_policy_may_go_on_without_lost_images() -> None:
    policy = replace(POLICY, on_refused=OnRefused.PROCEED)
    subject = replace(activity(association(closed=10.5)), losses=lost("1"))

    assert judge(subject, 11.5, policy).level is Evidence.RELEASE


def test_a_silent_association_of_the_peer_stops_blocking_when_it_is_stale() -> None:
    policy = replace(POLICY, quiet_s=30.0)
    other = association(2, opened=5.0, heartbeat=10.0, carried=0)
    subject = activity(association(closed=10.5), other)

    before = judge(subject, 19.9, policy)

    assert before.look_again_at == START + 20.0
    assert judge(subject, 20.0, policy).level is Evidence.RELEASE


def test_an_abort_at_the_same_moment_as_a_release_wins() -> None:
    subject = activity(
        association(1, closed=10.0), association(2, closed=10.0, ended=Ending.ABORTED)
    )

    assert judge(subject, 16.0).state is SeriesState.RECEIVING


# --- (3) and (4) quiet


def test_quiet_needs_a_regular_stack_and_quiet_max_needs_nothing() -> None:
    still_open = association(opened=0.0, heartbeat=69.0)
    regular = activity(still_open)
    irregular = activity(still_open, regular=False)

    assert judge(regular, 14.999).state is SeriesState.RECEIVING
    assert judge(regular, 15.0).level is Evidence.QUIET
    assert judge(irregular, 69.999).state is SeriesState.RECEIVING
    assert judge(irregular, 70.0).level is Evidence.QUIET_MAX


# --- (1) counts


def test_a_count_in_the_header_waits_for_one_more_image_that_would_refute_it() -> None:
    subject = replace(activity(association(heartbeat=10.0)), expected=10)

    before = judge(subject, 10.999)

    assert before.state is SeriesState.RECEIVING
    assert before.look_again_at == START + 11.0
    assert judge(subject, 11.0).level is Evidence.COUNT


def test_a_short_count_blocks_release_and_quiet_until_it_is_given_up() -> None:
    subject = replace(activity(association(closed=10.5)), expected=12)

    blocked, held = judge(subject, 5409.9), judge(subject, 5410.0)

    assert blocked.state is SeriesState.RECEIVING
    assert blocked.look_again_at == START + 5410.0
    assert held.state is SeriesState.HELD
    assert has_code(held.reasons, ReasonCode.COUNT_NOT_REACHED)
    assert "10 of 12" in tell_all(held.reasons)


@pytest.mark.parametrize(
    ("choice", "state"),
    [
        (OnGiveUp.HOLD, SeriesState.HELD),
        (OnGiveUp.PROCEED, SeriesState.COMPLETE),
        (OnGiveUp.DISCARD, SeriesState.DISCARDED),
    ],
)
def test_giving_up_does_what_the_policy_says(choice: OnGiveUp, state: SeriesState) -> None:
    subject = replace(activity(association(closed=10.5)), expected=12)

    found = judge(subject, 5410.0, replace(POLICY, on_give_up=choice))

    assert (found.state, found.level) == (state, Evidence.GIVE_UP)


@pytest.mark.parametrize(
    ("forced", "state"),
    [
        (Forced.PROCEED, SeriesState.COMPLETE),
        (Forced.RERUN, SeriesState.COMPLETE),
        (Forced.DISCARD, SeriesState.DISCARDED),
    ],
)
def test_a_person_frees_a_short_series_at_any_time(forced: Forced, state: SeriesState) -> None:
    short = replace(activity(association(heartbeat=10.0)), expected=12)

    found = judge(replace(short, forced=forced), 10.1)

    assert (found.state, found.level) == (state, Evidence.PERSON)


# --- habits


def test_two_released_associations_with_new_images_are_a_habit() -> None:
    subject = activity(association(1, closed=1.0), association(2, opened=2.5, closed=3.0))

    assert learns_splitting(subject, POLICY, START + 4.0)


def test_parallel_associations_are_a_habit() -> None:
    subject = activity(
        association(1, opened=0.0, heartbeat=3.0), association(2, opened=1.0, heartbeat=3.0)
    )

    assert learns_splitting(subject, POLICY, START + 4.0)


@pytest.mark.parametrize(
    "subject",
    [
        activity(association(1, closed=1.0)),
        activity(association(1, closed=1.0), association(2, opened=2.0, closed=3.0, carried=0)),
        activity(
            association(1, closed=1.0, ended=Ending.ABORTED), association(2, opened=2.0, closed=3.0)
        ),
        activity(association(1, closed=1.0), association(2, opened=61.1, closed=62.0)),
        activity(association(1, closed=1.0), association(2, opened=2.0, closed=3.0, peer="stow:x")),
        activity(association(1, heartbeat=1.0), association(2, opened=2.0, closed=3.0)),
    ],
    ids=["one", "only duplicates", "repair of an abort", "late", "two peers", "died silently"],
)
def test_what_is_no_habit(subject: SeriesActivity) -> None:
    assert not learns_splitting(subject, POLICY, START + 63.0)


# --- whole stories: instances arrive, a tick looks every quarter of a second


def play(
    arrivals: Sequence[tuple[float, str]],
    endings: dict[str, tuple[float, float, Ending]],
    *,
    minimum_slices: int = 3,
    until: float = 100.0,
) -> list[tuple[float, int, Evidence]]:
    """(time, images, evidence) of each completion, as a tick would find it.

    Args:
        arrivals: When each image came and by which association.
        endings: Name to (opened, closed, how).
    """
    found: list[tuple[float, int, Evidence]] = []
    splits, taken = False, 0
    for step in range(int(until / TICK_S)):
        at = step * TICK_S
        came = [(when, name) for when, name in arrivals if when <= at]
        if len(came) <= taken:
            continue
        rows = []
        for number, (name, (opened, closed, how)) in enumerate(endings.items()):
            if opened <= at:
                over = closed <= at
                carried = sum(which == name for _, which in came)
                rows.append(
                    association(
                        number,
                        opened,
                        closed if over else None,
                        how if over else None,
                        carried=carried,
                        heartbeat=min(at, closed),
                    )
                )
        subject = SeriesActivity(
            instances=len(came),
            last_received_at=START + max(when for when, _ in came),
            is_regular=len(came) >= minimum_slices,
            associations=rows,
            splits_series=splits,
        )
        splits = splits or learns_splitting(subject, POLICY, START + at)
        judged = judge_completion(subject, POLICY, START + at)
        if judged.state is SeriesState.COMPLETE:
            found.append((at, len(came), judged.level))
            taken = len(came)
    return found


def one_association_per_image(count: int, apart_s: float, each_s: float = 0.1):
    starts = [k * apart_s for k in range(count)]
    arrivals = [(start + each_s / 2, f"a{k}") for k, start in enumerate(starts)]
    endings = {f"a{k}": (start, start + each_s, Ending.RELEASED) for k, start in enumerate(starts)}
    return arrivals, endings


@pytest.mark.parametrize("apart_s", [0.3, 1.5, 4.0, 7.0])
def test_one_association_per_slice_is_one_job(apart_s: float) -> None:
    arrivals, endings = one_association_per_image(36, apart_s)

    found = play(arrivals, endings, until=36 * apart_s + 70)

    assert [images for _, images, _ in found] == [36]


def test_an_association_aborted_at_slice_20_and_resumed_is_one_job() -> None:
    arrivals = [(k * 0.1, "first") for k in range(20)]
    arrivals += [(12.0 + k * 0.1, "second") for k in range(16)]
    endings = {"first": (0.0, 2.0, Ending.ABORTED), "second": (11.9, 13.7, Ending.RELEASED)}

    found = play(arrivals, endings)

    assert [(images, level) for _, images, level in found] == [(36, Evidence.RELEASE)]
    assert found[0][0] - 13.7 < 1.0 + 2 * TICK_S


def test_blocks_of_ten_with_pauses_are_learned_after_one_revision() -> None:
    arrivals = [(b * 2.5 + k * 0.1, f"b{b}") for b in range(4) for k in range(10)]
    endings = {f"b{b}": (b * 2.5, b * 2.5 + 1.0, Ending.RELEASED) for b in range(4)}

    found = play(arrivals, endings)

    assert [images for _, images, _ in found] == [10, 40]


def test_a_study_in_one_open_association_does_not_hold_up_its_first_series() -> None:
    found = play([(k * 0.1, "a") for k in range(30)], {"a": (0.0, 300.0, Ending.RELEASED)})

    assert [(images, level) for _, images, level in found] == [(30, Evidence.QUIET)]


# --- laws


@given(
    last=st.floats(0, 100),
    ages=st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 20), st.sampled_from([None, *Ending])), max_size=4
    ),
    regular=st.booleans(),
    expected=st.none() | st.integers(1, 12),
    at=st.floats(0, 200),
)
def test_nothing_changes_before_the_time_to_look_again(
    last: float,
    ages: list[tuple[float, float, Ending | None]],
    regular: bool,
    expected: int | None,
    at: float,
) -> None:
    rows = [
        association(k, opened, opened + length if how else None, how, heartbeat=opened + length)
        for k, (opened, length, how) in enumerate(ages)
    ]
    subject = activity(*rows, last=last, regular=regular)
    if expected is not None:
        subject = replace(subject, expected=expected)

    now = judge(subject, at)

    if now.look_again_at == inf:
        assert now.state is not SeriesState.RECEIVING
    else:
        assert now.look_again_at > START + at
        halfway = (START + at + now.look_again_at) / 2
        if halfway < now.look_again_at:
            assert judge_completion(subject, POLICY, halfway).state is SeriesState.RECEIVING


@given(st.floats(0, 4000), st.booleans())
def test_without_a_known_count_silence_always_ends_the_wait(last: float, regular: bool) -> None:
    subject = activity(association(heartbeat=last), last=last, regular=regular)

    assert judge(subject, last + 60.5).state is SeriesState.COMPLETE


@pytest.mark.parametrize(
    "times",
    [{"quiet_s": 0.5}, {"quiet_max_s": 2.0}, {"give_up_s": 30.0}, {"release_settle_s": -1.0}],
)
def test_times_that_contradict_each_other_make_no_policy(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"raise it|0 or more"):
        CompletionPolicy(**times)


# --- late images


def late(progress: Progress, policy: Late = Late.RERUN, count: int = 1) -> Lateness:
    return judge_late(
        replace(POLICY, late=policy), revision=1, progress=progress, late_instances=count
    )


@pytest.mark.parametrize(
    ("progress", "ends_work_before"),
    [
        (Progress.NO_JOB, None),
        (Progress.QUEUED, 2),
        (Progress.IN_WORK, 2),
        (Progress.DELIVERED, 2),
    ],
)
def test_the_next_revision_takes_the_place_of_the_old_work(
    progress: Progress, ends_work_before: int | None
) -> None:
    assert late(progress) == Lateness(ends_work_before=ends_work_before)


def test_after_delivery_the_hold_policy_leaves_it_to_a_person() -> None:
    found = late(Progress.DELIVERED, Late.HOLD, count=3)

    assert found.ends_work_before is None
    assert found.held is not None
    assert found.held.code is ReasonCode.LATE_IMAGES
    assert "3 images came" in tell(found.held)


@pytest.mark.parametrize("progress", [p for p in Progress if p is not Progress.DELIVERED])
def test_before_delivery_the_hold_policy_changes_nothing(progress: Progress) -> None:
    assert late(progress, Late.HOLD) == late(progress, Late.RERUN)


def test_the_sentence_of_one_late_image_is_singular() -> None:
    found = late(Progress.DELIVERED, Late.HOLD)

    assert found.held is not None
    assert "1 image came" in tell(found.held)


def test_lateness_needs_a_snapshot_and_an_instance() -> None:
    with pytest.raises(ValueError, match="late"):
        late(Progress.QUEUED, count=0)
