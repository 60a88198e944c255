"""Completion: is a series complete, by what the index knows of how it is arriving?

No part of DICOM says "that was the last image", so the node weighs what it sees. Against: a known
count that is not reached blocks everything weaker until ``give_up_s``. For, strongest first:

1. ``count``: the known count is reached.
2. ``release``: the last association that carried the series was released, ``release_settle_s`` ago;
   none of that peer is open or was opened since; the stack is regular. Not for a peer that is known
   to split series over associations.
3. ``quiet``: no image for ``quiet_s``, and the stack is regular.
4. ``quiet_max``: no image for ``quiet_max_s``, whatever the stack looks like.

Losses are the strongest evidence against: what the node itself refused, quarantined or saw cut off is
missing, however regular the rest looks (every second slice refused leaves a regular stack). Such a
series is *held* at the moment at which it would have been complete, until the images come after all,
a person goes on without them, or the policy says so beforehand.

An abort is a doubt: after an abort that was the last word the sender means to come back, and half a
stack is as regular as a whole one. So (3) does not count then; the series waits for a later association
that is released, or for (4). Twenty of 36 slices cut off by an abort and resumed ten seconds later are
one series of 36, not a job of 20 and another of 36.

Parts of one series sent with pauses longer than half of ``quiet_s`` would look complete in each pause;
so where several associations carry one series, (3) waits for twice the longest pause seen between
them, at most ``quiet_max_s``.

Silence tells something only while somebody listens. It is counted from the last image, or from the
time since which the transport is listened on, whichever is later, and while an association that carried
the series is open, up to its last heartbeat: a process that was killed does not beat, and its sender
needs time to come back.

All transports are alike: a STOW request or a folder scan is one association that ends by being released.

Source: PS3.8 7 (association release and abort), PS3.4 B (storage has no notion of a series' end).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, starmap
from math import inf
from typing import Any

from node.domain.completion_policy import CompletionPolicy, Late, OnGiveUp, OnRefused
from node.domain.header import Header
from node.domain.instance import Ending, Evidence, Forced, Origin, SeriesState
from node.domain.job import Progress
from node.domain.reasons import Reason, ReasonCode
from node.domain.received import Loss, images_refused

_PAUSES = 2.0
_NEXT_HEARTBEAT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """One association, STOW request or folder scan of a peer that sends the series.

    Args:
        peer: ``peer_key`` of its origin.
        carried: New instances of this series that it brought; 0 for an association of the same peer
            that carried other things.
        ended: How it ended by its row; None while the row is open.
    """

    id: str
    peer: str
    opened_at: float
    heartbeat_at: float
    closed_at: float | None = None
    ended: Ending | None = None
    carried: int = 0

    def __post_init__(self) -> None:
        if (self.closed_at is None) != (self.ended is None):
            raise ValueError("an association ends at a time and in a way, or not at all")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesActivity:
    """How one series is arriving, by the database's clock.

    Args:
        instances: Input instances stored so far, amended copies not counted twice.
        is_regular: ``is_regular(frames, minimum slices of the model)``.
        associations: All that carried the series, and those of the same peers that are open or were
            opened after the last of these ended.
        expected: How many instances there are, where ``trusted_images_in_acquisition`` tells.
        splits_series: The peer was once seen to send one series over several associations.
        losses: Images that were lost and have not come since.
        accepted_losses: As many were missing when a person, or the policy, went on without them.
        listening_since: Since when somebody listens on the transport that it came by.
    """

    instances: int
    last_received_at: float
    is_regular: bool
    associations: Sequence[Association] = field(default_factory=tuple)
    expected: int | None = None
    splits_series: bool = False
    forced: Forced | None = None
    losses: Sequence[Loss] = ()
    accepted_losses: int = 0
    listening_since: float = -inf

    @property
    def misses_images(self) -> bool:
        """Whether more images are lost than anybody agreed to do without."""
        return len(self.losses) > self.accepted_losses

    @property
    def missing(self) -> int:
        """How many images are known to be missing: lost, or short of a known count."""
        return max(len(self.losses), (self.expected or 0) - self.instances)


def peer_key(origin: Origin) -> str:
    """Whose habit it is: the configured peer, else title, user and address as they came."""
    name = origin.peer or f"{origin.calling_ae_title}{origin.http_user}@{origin.address}"
    return f"{origin.transport}:{name}"[:80]


def trusted_images_in_acquisition(
    header: Header, instance_numbers: Sequence[int | None], *, is_single_frame: bool
) -> int | None:
    """Images in Acquisition (0020,1002) as a count of the series, where it can be trusted.

    The attribute counts an acquisition, not a series, and vendors fill it with all sorts of
    numbers. It is believed only where everything else in the headers agrees with it:

    - every instance is single-frame and carries the same positive value;
    - all instances belong to one acquisition: one Acquisition Number, present and equal;
    - no more instances came than it says;
    - Instance Numbers are present, distinct and within 1 to the value, as in a series that is the
      acquisition, numbered through.

    Otherwise it is ignored, as evidence for and against. Believed and not reached, it holds the
    series (a person can free it); believed and reached, it is evidence once no image has come for
    ``release_settle_s``, so that a number too small is found out by the next image.

    Args:
        instance_numbers: Instance Number of each stored instance, None where it cannot be read.
    Source: PS3.3 C.7.6.1 (general image)
    """
    counts, acquisition = header.known("ImagesInAcquisition"), header.known("AcquisitionNumber")
    numbers = set(instance_numbers)
    if not (is_single_frame and len(counts) == len(acquisition) == 1):
        return None
    count = counts[0]
    agrees = (
        isinstance(count, int)
        and 0 < len(numbers) == len(instance_numbers)
        and all(number in range(1, count + 1) for number in numbers)
    )
    return int(count) if agrees else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The judgement of one moment.

    Args:
        look_again_at: The next time at which the answer can change by itself; infinite when only a
            new image, an association or a person can change it.
        reasons: Why it is in this state.
    """

    state: SeriesState
    level: Evidence = Evidence.NONE
    reasons: tuple[Reason, ...]
    look_again_at: float = inf


def judge_completion(activity: SeriesActivity, policy: CompletionPolicy, now: float) -> Completion:
    """Whether the series is complete at ``now``, on what evidence, or what it waits for."""
    forced = activity.forced
    if forced is Forced.RERUN and activity.misses_images:
        forced = None  # to judge again is not to do without what is missing
    if forced is Forced.DISCARD:
        return _ended(SeriesState.DISCARDED, Evidence.PERSON, ReasonCode.PERSON_DISCARDED)
    if forced is not None:
        facts = {"images": activity.instances, "of": activity.instances + activity.missing}
        return _ended(SeriesState.COMPLETE, Evidence.PERSON, ReasonCode.PERSON_WENT_ON, **facts)
    if not activity.misses_images or policy.on_refused is OnRefused.PROCEED:
        return _Moment(activity, policy, now).judge()
    # held once it would be complete, for what is lost explains what it lacks
    as_if = replace(activity, losses=(), expected=None, is_regular=True)
    arrived = _Moment(as_if, policy, now).judge()
    refused = images_refused(activity.losses, activity.instances)
    if arrived.state is not SeriesState.COMPLETE:
        return replace(arrived, reasons=(refused, *arrived.reasons))
    return Completion(state=SeriesState.HELD, reasons=(refused,))


def learns_splitting(activity: SeriesActivity, policy: CompletionPolicy, now: float) -> bool:
    """Whether the peer sent this one series over several associations.

    True once an association brought new images although an earlier one, that was not aborted, had
    ended no more than ``quiet_max_s`` before it was opened, or was alive beside it. Going on after
    an abort is repair, and an image an hour later is late: neither is a habit.
    """
    return _Moment(activity, policy, now).learns_splitting()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """What becomes of images that came after a series was taken as complete.

    Args:
        held: Why a person decides, and nothing runs until then.
        ends_work_before: The revision that they open, where there is work of those before it: a
            queued job never starts, one in work is kept and not delivered, what was delivered is
            replaced and marked.
    """

    held: Reason | None = None
    ends_work_before: int | None = None


def judge_late(
    policy: CompletionPolicy, *, revision: int, progress: Progress, late_instances: int
) -> Lateness:
    """What late instances do to revision ``revision``, which is in force.

    A revision is a snapshot: which version of which instance a job was made of. A new instance opens
    the next one; an amended copy (the same pixels under a corrected header) does not, because the
    same work has the same job key.

    Before delivery nobody has seen a result, so the next revision simply takes its place, whatever
    the policy. After delivery the policy decides: ``rerun`` makes a result that replaces the old
    one, ``hold`` leaves that to a person.
    """
    if revision < 1 or late_instances < 1:
        raise ValueError("only instances after a first snapshot are late")
    if progress is Progress.DELIVERED and policy.late is Late.HOLD:
        facts = {"images": late_instances, "revision": revision}
        return Lateness(held=Reason(ReasonCode.LATE_IMAGES, facts))
    return Lateness(ends_work_before=None if progress is Progress.NO_JOB else revision + 1)


class _Moment:
    """What has arrived at one moment, whatever is known to be lost."""

    def __init__(self, activity: SeriesActivity, policy: CompletionPolicy, now: float) -> None:
        self.activity, self.policy, self.now = activity, policy, now
        # those that brought instances of the series, in the order they were opened
        carriers = [association for association in activity.associations if association.carried]
        self.carriers = sorted(carriers, key=lambda carrier: (carrier.opened_at, carrier.id))

    def judge(self) -> Completion:
        """Complete by the strongest evidence there is, or waiting for what comes soonest."""
        activity = self.activity
        if activity.expected is not None and activity.instances < activity.expected:
            return self._short(activity.expected)
        found = [each for each in (self._counted(), self._released(), self._quiet()) if each]
        for each in found:
            if each.state is SeriesState.COMPLETE:
                return each
        soonest = min(found, key=lambda wait: wait.look_again_at)
        # an association that is open now may come to count as aborted
        stale = [beat + self.policy.stale_s for beat in self._heartbeats(activity.associations)]
        return replace(soonest, look_again_at=min((soonest.look_again_at, *stale)))

    def _short(self, expected: int) -> Completion:
        """A known count is not reached: nothing weaker counts until ``give_up_s``."""
        facts = {"images": self.activity.instances, **_count(expected)}
        give_up_at = self.activity.last_received_at + self.policy.give_up_s
        if self.now < give_up_at:
            return _wait(ReasonCode.COUNT_SHORT, give_up_at, **facts)
        facts["none_for_s"] = self.policy.give_up_s
        if self.policy.on_give_up is OnGiveUp.HOLD:
            code = ReasonCode.COUNT_NOT_REACHED
            return _ended(SeriesState.HELD, Evidence.GIVE_UP, code, **facts)
        facts["is_discarded"] = self.policy.on_give_up is OnGiveUp.DISCARD
        state = SeriesState.DISCARDED if facts["is_discarded"] else SeriesState.COMPLETE
        return _ended(state, Evidence.GIVE_UP, ReasonCode.GAVE_UP_WAITING, **facts)

    def _counted(self) -> Completion | None:
        """Evidence (1); the count was compared before."""
        expected = self.activity.expected
        if expected is None:
            return None
        settled_at = self.activity.last_received_at + self.policy.release_settle_s
        if self.now < settled_at:
            return _wait(ReasonCode.COUNT_JUST_REACHED, settled_at)
        return _complete(Evidence.COUNT, ReasonCode.COUNT_REACHED, **_count(expected))

    def _released(self) -> Completion | None:
        """Evidence (2); None where only quiet can tell."""
        activity, last = self.activity, self._last_end()
        if last is None or last[1] is Ending.ABORTED or not activity.is_regular:
            return None
        if activity.splits_series or self.learns_splitting():
            return None
        closed_at = last[0]
        if self._peer_is_busy(closed_at):
            return None
        settled_at = closed_at + self.policy.release_settle_s
        if self.now < settled_at:
            return _wait(ReasonCode.JUST_RELEASED, settled_at)
        facts = {"ago_s": self.now - closed_at, "images": activity.instances}
        return _complete(Evidence.RELEASE, ReasonCode.RELEASED, **facts)

    def _quiet(self) -> Completion:
        """Evidence (3) and (4)."""
        activity, now = self.activity, self.now
        last = max(activity.last_received_at, activity.listening_since)
        facts = {"quiet_s": now - last, "images": activity.instances}
        at_the_latest = last + self.policy.quiet_max_s
        if now >= at_the_latest:
            return _complete(Evidence.QUIET_MAX, ReasonCode.QUIET_LONG, **facts)
        if not activity.is_regular:
            return _wait(ReasonCode.NOT_REGULAR_YET, at_the_latest, images=activity.instances)
        end = self._last_end()
        if end is not None and end[1] is Ending.ABORTED:
            return _wait(ReasonCode.ABORTED, at_the_latest)
        needed_s = self._quiet_needed_s()
        heard_until = min((now, *self._heartbeats(self.carriers)))
        if now >= last + needed_s > heard_until:
            return _wait(ReasonCode.NO_HEARTBEAT, now + _NEXT_HEARTBEAT_S)
        if now >= last + needed_s:
            return _complete(Evidence.QUIET, ReasonCode.QUIET, **facts)
        return _wait(ReasonCode.NOT_QUIET_YET, last + needed_s, needed_s=needed_s)

    def learns_splitting(self) -> bool:
        return any(starmap(self._is_continued, combinations(self.carriers, 2)))

    def _is_continued(self, earlier: Association, later: Association) -> bool:
        """Whether one peer went on with the series in a later association, as a habit."""
        if earlier.peer != later.peer:
            return False
        end = self._end(earlier)
        if end is None:
            # no heartbeat since the other was opened: its process may be dead, and this the repair
            return earlier.heartbeat_at >= later.opened_at
        ended_at, ending = end
        pause_s = later.opened_at - ended_at
        return ending is Ending.RELEASED and pause_s <= self.policy.quiet_max_s

    def _end(self, association: Association) -> tuple[float, Ending] | None:
        """When and how it ended; an open row without heartbeat is an abort nobody wrote down."""
        if association.closed_at is not None and association.ended is not None:
            return association.closed_at, association.ended
        if self.now >= association.heartbeat_at + self.policy.stale_s:
            return association.heartbeat_at, Ending.ABORTED
        return None

    def _heartbeats(self, associations: Iterable[Association]) -> list[float]:
        """Last signs of life of those that are open."""
        return [each.heartbeat_at for each in associations if self._end(each) is None]

    def _last_end(self) -> tuple[float, Ending] | None:
        """How the last carrier ended; None while one is open. At the same time an abort wins."""
        ends = [end for end in map(self._end, self.carriers) if end is not None]
        if not ends or len(ends) < len(self.carriers):
            return None
        return max(ends, key=lambda end: (end[0], end[1] is Ending.ABORTED))

    def _peer_is_busy(self, closed_at: float) -> bool:
        """Whether an association of a carrying peer is open or was opened after the release."""
        peers = {carrier.peer for carrier in self.carriers}
        return any(
            self._end(association) is None or association.opened_at > closed_at
            for association in self.activity.associations
            if association.peer in peers
        )

    def _quiet_needed_s(self) -> float:
        """``quiet_s``, or twice the longest pause between the associations of this series."""
        pauses = [
            later.opened_at - earlier.closed_at
            for earlier, later in pairwise(self.carriers)
            if earlier.closed_at is not None
        ]
        policy = self.policy
        return min(max(policy.quiet_s, _PAUSES * max(pauses, default=0.0)), policy.quiet_max_s)


def _count(expected: int) -> dict[str, Any]:
    return {"expected": expected, "source": "header"}


def _wait(code: ReasonCode, until: float, **facts: Any) -> Completion:
    reasons = (Reason(code, facts),)
    return Completion(state=SeriesState.RECEIVING, reasons=reasons, look_again_at=until)


def _complete(level: Evidence, code: ReasonCode, **facts: Any) -> Completion:
    return _ended(SeriesState.COMPLETE, level, code, **facts)


def _ended(state: SeriesState, level: Evidence, code: ReasonCode, **facts: Any) -> Completion:
    return Completion(state=state, level=level, reasons=(Reason(code, facts),))
