"""The times and choices by which series are judged complete."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
class CompletionPolicy:
    """When a series counts as complete.

    Args:
        release_settle_s: Wait after the association was released.
        quiet_s: Quiet time that is enough for a regular stack.
        quiet_max_s: Quiet time that is enough for anything.
        give_up_s: Quiet time after which a short count no longer blocks.
        stale_s: An open association without a heartbeat for this long counts as aborted.
    """

    release_settle_s: float = 1.0
    quiet_s: float = 5.0
    quiet_max_s: float = 60.0
    give_up_s: float = 5400.0
    on_give_up: OnGiveUp = OnGiveUp.HOLD
    on_refused: OnRefused = OnRefused.HOLD
    late: Late = Late.RERUN
    stale_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.release_settle_s <= self.quiet_s <= self.quiet_max_s <= self.give_up_s:
            raise ValueError(
                "completion times must rise: release_settle_s <= quiet_s <= quiet_max_s <= give_up_s"
            )
        if self.stale_s <= 0.0:
            raise ValueError("stale_s must be above 0")
