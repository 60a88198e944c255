"""The clock: calls functions at intervals. The only file that imports apscheduler.

Due times live in tables, so the clock keeps nothing that a restart could lose: an in-memory
scheduler, missed calls run once (``coalesce``), a call still running is not started again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

_THREADS = 4


class Clock:
    """Runs each registered function again and again on one thread of its own."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(_THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )

    def every(self, seconds: float, call: Callable[[], None], name: str) -> None:
        """Call ``call`` now and every ``seconds`` seconds; a slow call delays only itself."""
        self._scheduler.add_job(
            call, "interval", seconds=seconds, id=name, next_run_time=datetime.now(UTC)
        )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Stop calling; a call in progress is waited for."""
        self._scheduler.shutdown(wait=True)
