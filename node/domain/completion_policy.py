"""The times and choices by which series are judged complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from node.domain.settings import Mistake, Seconds, Settings


class OnGiveUp(StrEnum):
    """What happens to a series whose known count is still short at ``give_up_s``."""

    HOLD = "hold"
    PROCEED = "proceed"
    DISCARD = "discard"


class OnRefused(StrEnum):
    """What happens to a series of which images were refused and have not come since."""

    HOLD = "hold"
    PROCEED = "proceed"


class Late(StrEnum):
    """What happens when an instance comes after the result was delivered."""

    RERUN = "rerun"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionPolicy(Settings):
    """When a series counts as complete; ``completion:`` in the file.

    Args:
        release_settle_s: Wait after the association was released.
        quiet_s: Quiet time that is enough for a regular stack.
        quiet_max_s: Quiet time that is enough for anything.
        study_wait_s: How long a rule that needs several series waits for all of them.
        give_up_s: Quiet time after which a short count no longer blocks.
    """

    # an open association without a heartbeat for this long counts as aborted
    stale_s: ClassVar[float] = 10.0

    release_settle_s: Seconds = 1.0
    quiet_s: Seconds = 5.0
    quiet_max_s: Seconds = 60.0
    study_wait_s: Seconds = 3600.0
    give_up_s: Seconds = 5400.0
    on_give_up: OnGiveUp = OnGiveUp.HOLD
    on_refused: OnRefused = OnRefused.HOLD
    late: Late = Late.RERUN

    def mistakes(self) -> Iterator[Mistake]:
        if self.quiet_s < self.release_settle_s:
            yield "quiet_s", f"below release_settle_s ({self.release_settle_s:g}): raise it"
        if self.quiet_max_s < self.quiet_s:
            yield "quiet_max_s", f"below quiet_s ({self.quiet_s:g}): raise it"
        if self.give_up_s < self.quiet_max_s:
            yield "give_up_s", f"below quiet_max_s ({self.quiet_max_s:g}): raise it"
