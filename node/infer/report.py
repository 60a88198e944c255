"""How work under way tells what it is doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LOG_FILE = "run.log"
"""In the folder of a job: the output of programs that a runner started (see ``RunContext.log``)."""


class Report(Protocol):
    """Told by a running job: its stages and remarks, never patient data.

    Stages add up to what they took together: one that is entered twice has the seconds of both, and
    the seconds of a stage inside another are its own alone.
    """

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time what happens inside as the stage ``name``."""

    def note(self, sentence: str) -> None:
        """Say one sentence that belongs into the job's record."""


class Stopwatch:
    """A report that keeps what it is told: for work without a child process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        started, told_s = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside_s = sum(self.seconds.values()) - told_s
            seconds = time.monotonic() - started - inside_s
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def note(self, sentence: str) -> None:
        """Keep the sentence."""
        self.notes.append(sentence)
