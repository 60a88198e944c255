"""The road of a series while somebody sets the clock of the machine, at each of its stages.

Whatever waits ends after the seconds that it waits for, counted by a clock that nobody sets: not
earlier, so that no series is taken as complete while it arrives, and not later; but for the tenth by
which the node's time comes back to the clock's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.database.engine import epoch_s, keep_time, reading
from node.domain.delivery import DeliveryClass, Outcome
from node.domain.instance import Ending, SeriesState
from node.jobs.leases import JobLeases
from node.pipeline import build
from node.pipeline.retain import SWEEP_S, Retention
from tests.support.clock import MovedClock, SetClock
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, simulated_node

HOUR_S, DAY_S = 3_600.0, 86_400.0
STEPS = (-DAY_S, -HOUR_S, -30.0, HOUR_S)
LEASE_S = 30.0


class NodeTime(MovedClock):
    """The time of the node on a machine whose clock is set."""

    def __init__(self, machine: SetClock, url: str) -> None:
        super().__init__()
        self.machine = machine
        self.of_route = machine.process(url)

    def __call__(self) -> float:
        with reading(self.of_route) as connection:
            return epoch_s(connection)

    def pass_time(self, seconds: float) -> None:
        """All processes look at the clock about every second; at most ten times here."""
        for _ in range(10):
            self.machine.pass_time(seconds / 10)
            keep_time(self.of_route)


@pytest.fixture(params=STEPS, ids=lambda by_s: f"{by_s:+.0f} s")
def by_s(request: pytest.FixtureRequest) -> float:
    """By how much the clock is set."""
    return float(request.param)


@pytest.fixture
def machine() -> SetClock:
    return SetClock()


@pytest.fixture
def node(
    tmp_path: Path, worker: SharedWorker, machine: SetClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimulatedNode]:
    monkeypatch.setattr(build, "open_engine", machine.process)
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path / 'data' / 'segnode.sqlite'}"
    keep = {"done": 7, "unmatched": 7, "parked": 7, "quarantine": 7, "results": 7}
    storage = {"reserve_gb": 0, "max_used_percent": 100, "keep_days": keep}
    clock = NodeTime(machine, url)
    with simulated_node(tmp_path, worker, clock=clock, storage=storage, database=url) as simulated:
        keep_time(clock.of_route)
        simulated.tick()
        yield simulated
    clock.of_route.dispose()


@pytest.fixture
def leases(node: SimulatedNode) -> JobLeases:
    return JobLeases(node.node.engine)


def state_of(node: SimulatedNode, series: Phantom) -> SeriesState:
    return node.series(series).state


def test_a_series_that_still_arrives_is_not_complete(
    node: SimulatedNode, machine: SetClock, by_s: float
) -> None:
    files = ct().files()
    sender = node.receive(files[:5], end=None)
    node.tick(2.0)

    machine.set_by(by_s)
    node.tick(0.2)
    states = [state_of(node, ct())]
    node.node.door.index.heartbeat(sender)
    node.tick(2.0)
    node.bring(sender, files[5:])
    node.tick(2.0)
    states.append(state_of(node, ct()))
    node.close(sender)
    node.tick(1.5)

    assert states == [SeriesState.RECEIVING] * 2
    row = node.series(ct())
    assert (row.state, row.instances, row.evidence.value) == (SeriesState.COMPLETE, 8, "release")


@pytest.mark.parametrize("is_restarted", [False, True], ids=["on", "restarted"])
def test_silence_is_as_long_as_it_is(
    node: SimulatedNode, machine: SetClock, by_s: float, is_restarted: bool
) -> None:
    node.receive(ct().files(), end=Ending.ABORTED)
    node.tick()
    quiet_s = node.node.plan.policy.quiet_max_s

    machine.set_by(by_s)
    node.tick(0.2)
    if is_restarted:
        node.start_again()
    node.tick(quiet_s - 8.0)
    before = state_of(node, ct())
    node.tick(16.0)

    assert (before, state_of(node, ct())) == (SeriesState.RECEIVING, SeriesState.COMPLETE)


def test_an_association_without_heartbeats_is_dead_after_its_seconds(
    node: SimulatedNode, machine: SetClock, by_s: float
) -> None:
    node.receive(ct().files(), end=None)
    node.tick()
    quiet_s = node.node.plan.policy.quiet_max_s

    machine.set_by(by_s)
    node.tick(1.0)
    before = state_of(node, ct())
    node.tick(quiet_s + 8.0)

    assert (before, state_of(node, ct())) == (SeriesState.RECEIVING, SeriesState.COMPLETE)


def test_a_lease_of_a_worker_that_is_alive_stays_and_one_of_a_dead_one_ends(
    node: SimulatedNode, machine: SetClock, leases: JobLeases, by_s: float
) -> None:
    node.receive(ct().files())
    node.settle()
    job = leases.lease("worker", LEASE_S)
    assert job is not None
    node.pass_time(5.0)

    machine.set_by(by_s)
    node.pass_time(0.2)
    taken = [leases.reap()]
    node.pass_time(5.0)
    leases.heartbeat(job.id, "worker", LEASE_S)
    node.pass_time(LEASE_S - 4.0)
    taken.append(leases.reap())
    node.pass_time(8.0)
    taken.append(leases.reap())

    assert taken == [0, 0, 1]
    assert leases.is_any_ready()


def test_a_job_that_is_tried_again_waits_for_its_seconds(
    node: SimulatedNode, machine: SetClock, leases: JobLeases, by_s: float
) -> None:
    node.receive(ct().files())
    node.settle()
    job = leases.lease("worker", LEASE_S)
    assert job is not None
    leases.fail(job.id, "worker", [])

    machine.set_by(by_s)
    node.pass_time(8.0)
    before = leases.is_any_ready()
    node.pass_time(4.0)

    assert (before, leases.is_any_ready()) == (False, True)


@pytest.mark.parametrize("asked_s", [None, 300.0], ids=["doubling", "as asked"])
def test_a_delivery_and_its_destination_wait_for_their_seconds(
    node: SimulatedNode, machine: SetClock, by_s: float, asked_s: float | None
) -> None:
    node.receive(ct().files())
    node.settle()
    node.node.work()
    leased = node.outbox.lease_delivery("deliver", 60.0)
    assert leased is not None
    busy = Outcome(kind=DeliveryClass.RETRY, sentence="busy", retry_after_s=asked_s)
    node.outbox.record(leased.id, "deliver", busy)
    shortest_s, longest_s = (2.5, 5.0) if asked_s is None else (asked_s, asked_s)

    machine.set_by(by_s)
    node.pass_time(shortest_s * 0.85)
    before = node.outbox.is_any_due()
    node.pass_time(longest_s)

    assert (before, node.outbox.is_any_due()) == (False, True)


def test_a_delivery_whose_sender_is_alive_is_sent_by_nobody_else(
    node: SimulatedNode, machine: SetClock, by_s: float
) -> None:
    node.receive(ct().files())
    node.settle()
    node.node.work()
    assert node.outbox.lease_delivery("deliver", 60.0) is not None

    machine.set_by(by_s)
    node.pass_time(15.0)
    before = node.outbox.is_any_due()
    node.pass_time(55.0)

    assert (before, node.outbox.is_any_due()) == (False, True)


def test_files_go_after_their_days_and_sweeps_go_on(
    node: SimulatedNode, machine: SetClock, by_s: float
) -> None:
    node.receive(ct().files())
    node.run()
    retention = Retention(node.node.plan, node.node.engine)
    retention.sweep(node.now)
    images = node.node.data_dir / "spool" / "instances"

    machine.set_by(10.0 * DAY_S if by_s > 0 else by_s)
    node.pass_time(SWEEP_S + 1.0)
    retention.sweep(node.now)
    before = len(list(images.rglob("*.dcm")))
    node.pass_time(6.5 * DAY_S)
    retention.sweep(node.now)
    node.pass_time(1.5 * DAY_S)
    retention.sweep(node.now)

    assert (before, len(list(images.rglob("*.dcm")))) == (8, 0)


def test_a_clock_that_is_set_between_any_two_stages_costs_no_series_and_no_time(
    node: SimulatedNode, machine: SetClock, by_s: float
) -> None:
    began_s = machine.monotonic_s
    steps: list[Callable[[], object]] = [
        lambda: node.receive(ct().files()),
        lambda: node.tick(0.2),
        lambda: node.tick(1.0),
        node.node.work,
        node.deliver,
    ]

    for step in steps:
        step()
        machine.set_by(by_s)
        node.pass_time(0.1)

    assert machine.monotonic_s - began_s < 2.0
    assert [row["attempts"] for row in node.table("job")] == [1]
    assert len(node.delivered()) == 1
