"""The clock: calls functions at intervals. The only file that imports apscheduler.

Due times live in tables, so the clock keeps nothing that a restart could lose: an in-memory
scheduler, missed calls run once (``coalesce``), a call still running is not started again.

It goes by seconds that nobody can set. By the machine's time a clock that is set back by an hour stops
every call for an hour, and one that is set forward has the scheduler count all calls it missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

_THREADS = 4


class Clock:
    """Runs each registered function again and again on one thread of its own."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(_THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=_Steady(),
        )

    def every(self, seconds: float, call: Callable[[], None], name: str) -> None:
        """Call ``call`` now and every ``seconds`` seconds; a slow call delays only itself."""
        self._scheduler.add_job(call, _Every(seconds), id=name)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Stop calling; a call in progress is waited for."""
        self._scheduler.shutdown(wait=True)


class _Steady(tzinfo):
    """The time zone in which it is always as late as the monotonic clock says.

    The scheduler asks ``datetime.now(zone)`` and for nothing else, and ``now`` asks the zone what time
    it has: the one place where a scheduler of this kind can be given another clock.
    """

    _BEGAN = datetime(2000, 1, 1)  # noqa: DTZ001 - of this zone, which is given with it

    def fromutc(self, _of_the_machine: datetime) -> datetime:
        return self._BEGAN.replace(tzinfo=self) + timedelta(seconds=time.monotonic())

    def utcoffset(self, _when: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, _when: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, _when: datetime | None) -> str:
        return "steady"


class _Every(BaseTrigger):  # type: ignore[misc]
    """Now, and then at intervals; what was missed is not made up for."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        return now if previous is None else max(previous + self._interval, now)
