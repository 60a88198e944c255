"""Clocks that tests move."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event

from node.database.engine import NodeClock, open_engine


@dataclass
class MovedClock:
    """Epoch seconds as the machine tells them, and so much later as a test says; a value to hand in."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s

    def pass_time(self, seconds: float) -> None:
        """Everybody who was given this clock is later from now on."""
        self.ahead_s += seconds


@dataclass
class SetClock:
    """The clock of a machine on which time passes only as a test says, and which somebody may set.

    SQLite asks it in place of the machine's; the process asks ``monotonic``, which nobody sets.
    """

    wall_s: float = 1_700_000_000.0
    monotonic_s: float = 5_000.0

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def set_by(self, seconds: float) -> None:
        """Somebody sets the clock; no time passes."""
        self.wall_s += seconds

    def process(self, url: str) -> Engine:
        """An engine as a process opens it that was started now."""
        engine = open_engine(url)
        event.listen(engine, "connect", self._have_asked)
        its = NodeClock(lambda: self.monotonic_s)
        return engine.execution_options(segnode_clock=its)

    def _have_asked(self, connection: Any, _record: object) -> None:
        connection.create_function("julianday", 1, lambda _: self.wall_s / 86_400.0 + 2_440_587.5)
