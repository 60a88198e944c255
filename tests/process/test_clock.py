"""The ticks, while somebody sets the clock of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base

from node.clock import Clock
from tests.support.waiting import wait_for

HOUR = timedelta(hours=1)


class SetClock(datetime):
    """``datetime`` on a machine whose clock was set."""

    by = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        assert tz is not None
        return tz.fromutc((datetime.now(UTC) + cls.by).replace(tzinfo=tz))


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for each call of a function that is to be called every 20 ms."""
    calls: list[int] = []
    monkeypatch.setattr(base, "datetime", SetClock)
    monkeypatch.setattr(SetClock, "by", timedelta())
    clock = Clock()
    clock.every(0.02, lambda: calls.append(1), "tick")
    clock.start()
    wait_for("ticks", lambda: len(calls) > 2)
    yield calls
    clock.stop()


@pytest.mark.parametrize("by", [-HOUR, -24 * HOUR, HOUR, 24 * 365 * 20 * HOUR], ids=str)
def test_ticks_go_on_when_the_clock_is_set(
    ticks: list[int], monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    monkeypatch.setattr(SetClock, "by", by)

    before = len(ticks)
    wait_for("ticks after it", lambda: len(ticks) > before + 5)
