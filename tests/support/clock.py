"""A clock that tests move."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class MovedClock:
    """Epoch seconds as the machine tells them, and so much later as a test says; a value to hand in."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s

    def pass_time(self, seconds: float) -> None:
        """Everybody who was given this clock is later from now on."""
        self.ahead_s += seconds
