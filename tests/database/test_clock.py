"""The time of the node, while somebody sets the clock of the machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine

from node.database.engine import (
    NOTE_EVERY_S,
    NodeClock,
    clock_of,
    clock_time_s,
    epoch_s,
    keep_time,
    open_engine,
    reading,
    writing,
)
from node.database.migrate import migrate
from node.process.health import NodeHealth
from node.spool.files import SpaceGuard, Watermark
from node.words import show_degraded
from tests.support.clock import SetClock

HOUR_S, DAY_S = 3600.0, 86_400.0
STEPS = pytest.mark.parametrize("by_s", [-DAY_S, -HOUR_S, -20.0, HOUR_S, 4000 * DAY_S])


@pytest.fixture
def machine() -> SetClock:
    return SetClock()


@pytest.fixture
def start(machine: SetClock, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Start a process; one more each time."""
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    first = machine.process(url)
    migrate(first)
    processes = [first]

    def begin() -> Engine:
        processes.append(machine.process(url))
        return processes[-1]

    yield begin
    for process in processes:
        process.dispose()


def now(process: Engine) -> float:
    with reading(process) as connection:
        return epoch_s(connection)


def test_the_time_is_the_clock_of_the_database_while_nobody_sets_it(
    start: Callable[[], Engine], machine: SetClock
) -> None:
    route, work = start(), start()
    for _ in range(100):
        machine.pass_time(7.0)
        keep_time(route)

    assert now(route) == now(work) == pytest.approx(machine.wall_s, abs=0.01)


@STEPS
def test_a_clock_that_is_set_changes_the_time_of_no_process(
    start: Callable[[], Engine], machine: SetClock, by_s: float
) -> None:
    route, work = start(), start()
    began_s = now(route)
    now(work)
    machine.pass_time(10.0)

    machine.set_by(by_s)
    noticed = [now(work), now(route)]
    keep_time(route)
    after = [now(work), now(route), now(start())]

    assert [*noticed, *after] == pytest.approx([began_s + 10.0] * 5, abs=0.01)
    assert clock_time_s(route, now(route)) == pytest.approx(machine.wall_s, abs=0.01)


@STEPS
def test_a_time_that_is_asked_without_a_query_goes_on_too(
    start: Callable[[], Engine], machine: SetClock, by_s: float
) -> None:
    receive = start()
    began_s = now(receive)

    machine.set_by(by_s)
    machine.pass_time(3.0)

    assert clock_of(receive)() == pytest.approx(began_s + 3.0, abs=0.01)


@pytest.mark.parametrize("down_s", [0.0, 600.0])
@pytest.mark.parametrize("by_s", [-DAY_S, -HOUR_S])
def test_after_a_clock_was_set_back_while_all_were_down_the_time_goes_on_from_where_it_was(
    start: Callable[[], Engine], machine: SetClock, by_s: float, down_s: float
) -> None:
    route = start()
    keep_time(route)
    machine.pass_time(NOTE_EVERY_S)
    keep_time(route, note_every_s=0.0)
    stopped_at_s = now(route)

    machine.set_by(by_s)
    machine.pass_time(down_s)
    begun_at_s = now(start())

    assert begun_at_s == pytest.approx(stopped_at_s, abs=0.01)


def test_a_start_of_the_whole_node_takes_on_a_clock_that_was_set_forward(
    start: Callable[[], Engine], machine: SetClock
) -> None:
    route = start()
    keep_time(route)
    machine.set_by(DAY_S)
    keep_time(route)

    begun = start()
    with writing(begun) as connection:
        clock_of(begun).write_down(connection, may_go_forward=True)

    assert now(begun) == now(start()) == pytest.approx(machine.wall_s, abs=0.01)


@pytest.mark.parametrize("by_s", [-60.0, 60.0])
def test_the_time_comes_back_to_the_clock_by_a_tenth_of_what_passes(
    start: Callable[[], Engine], machine: SetClock, by_s: float
) -> None:
    route, work = start(), start()
    keep_time(route)
    now(work)
    machine.set_by(by_s)
    keep_time(route)
    told = [now(work)]

    for _ in range(400):
        machine.pass_time(1.0)
        keep_time(route)
        told.append(now(work))

    assert abs(told[300] - told[0] - 300.0) == pytest.approx(30.0, abs=1.0)
    assert all(0.5 < later - earlier < 1.5 for earlier, later in pairwise(told))
    machine.pass_time(300.0)
    for _ in range(300):
        machine.pass_time(1.0)
        keep_time(route)
    assert now(work) == pytest.approx(machine.wall_s, abs=0.01)


def test_a_step_is_logged_once_with_its_size(
    start: Callable[[], Engine], machine: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    processes = [start(), start(), start()]
    for process in processes:
        now(process)
    machine.set_by(-HOUR_S)

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for process in processes:
                keep_time(process)
            machine.pass_time(1.0)

    assert [(each.getMessage(), each.by_s) for each in caplog.records] == [  # type: ignore[attr-defined]
        ("the clock was set", -HOUR_S)
    ]


@pytest.mark.parametrize(("by_s", "side"), [(-HOUR_S, "ahead"), (HOUR_S, "behind")])
def test_readiness_tells_that_the_time_is_not_the_clock(
    start: Callable[[], Engine], machine: SetClock, tmp_path: Path, by_s: float, side: str
) -> None:
    web = start()
    health = NodeHealth(web, SpaceGuard(tmp_path, Watermark(reserve_gb=0, max_used_percent=100)))
    before = show_degraded(health.health())

    machine.set_by(by_s)
    after = health.health()

    assert before == {}
    assert after.is_ready
    assert f"3600 s {side} of it" in show_degraded(after)["clock"]


def test_what_was_noted_and_taken_back_is_noted_again(
    start: Callable[[], Engine], machine: SetClock
) -> None:
    route = start()
    began_s = now(route)
    machine.set_by(HOUR_S)

    with route.connect() as connection, connection.begin() as transaction:
        clock_of(route).read(connection)
        clock_of(route).write_down(connection)
        transaction.rollback()
    keep_time(route)

    assert now(route) == now(start()) == pytest.approx(began_s, abs=0.01)


def test_a_machine_that_is_slow_to_look_does_not_take_that_for_a_set_clock(
    start: Callable[[], Engine], machine: SetClock
) -> None:
    slow = start()
    now(slow)
    answered_after_s = [0.0, 40.0]  # the process sleeps before it learns the answer

    def monotonic() -> float:
        machine.pass_time(answered_after_s.pop(0) if answered_after_s else 0.0)
        return machine.monotonic_s

    its = NodeClock(monotonic)
    process = slow.execution_options(segnode_clock=its)
    for _ in range(2):
        now(process)

    assert not its.was_set


def test_a_clock_of_postgresql_that_is_set_changes_the_time_of_no_process(
    empty_postgresql: Callable[[], str],
) -> None:
    url, passed_s = empty_postgresql(), [0.0]
    its = NodeClock(lambda: time.monotonic() + passed_s[0])
    route = open_engine(url).execution_options(segnode_clock=its)
    migrate(route)
    before_s = now(route)

    passed_s[0] = HOUR_S  # it does not pass by the database's clock, which was set back by as much
    keep_time(route)
    work = open_engine(url)

    assert now(work) - before_s == pytest.approx(HOUR_S, abs=60.0)
    assert clock_time_s(work, now(work)) == pytest.approx(time.time(), abs=5.0)
    for engine in (route, work):
        engine.dispose()
