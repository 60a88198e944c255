"""A series that kills its process is set aside, and everything else goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from node.domain.instance import Instance
from node.domain.reasons import ReasonCode
from node.pipeline.in_hand import InHand
from node.pipeline.settle import Settler, settle_deps
from node.spool.arrivals import Arrivals
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, simulated_node


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    with simulated_node(tmp_path, worker) as simulated:
        yield simulated


def settle_in_a_process(node: SimulatedNode, folder: Path, poison: Phantom | None) -> int | None:
    """Ticks of a route process of its own, which a header kills; the signal that ended it."""
    node.node.door.index.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    try:
        engine = node.node.plan.open_engine()  # a connection does not cross a fork
        deps = settle_deps(node.node.plan, engine)

        def read(instance: Instance) -> Dataset:
            if poison is not None and instance.series_instance_uid == poison.uid("series"):
                os.kill(os.getpid(), signal.SIGKILL)
            return deps.read_header(instance)

        settler = Settler(replace(deps, read_header=read), in_hand=InHand(folder))
        for seconds in (0, 70):
            settler.tick(node.now + seconds)
    finally:
        os._exit(0)


def test_a_series_that_killed_two_processes_is_set_aside_and_others_complete(
    node: SimulatedNode, tmp_path: Path
) -> None:
    poison, folder = ct("a poison"), tmp_path / "run"
    for phantom in (poison, ct("b"), ct("c")):
        node.receive(phantom.files())

    ends = [settle_in_a_process(node, folder, poison) for _ in range(3)]

    assert ends == [signal.SIGKILL, signal.SIGKILL, None]
    held = node.series(poison)
    assert (held.state, [reason.code for reason in held.reasons]) == (
        "held",
        [ReasonCode.PROCESS_DIED],
    )
    assert {node.series(ct(name)).state for name in "bc"} == {"complete"}

    node.receive(poison.files()[:1])  # what comes to it wakes nobody
    assert settle_in_a_process(node, folder, poison) is None


def test_a_person_may_have_it_tried_again(node: SimulatedNode, tmp_path: Path) -> None:
    poison, folder = ct("a poison"), tmp_path / "run"
    node.receive(poison.files())
    for _ in range(3):
        settle_in_a_process(node, folder, poison)

    node.decide(poison, "rerun")
    again = [settle_in_a_process(node, folder, poison) for _ in range(3)]
    node.decide(poison, "rerun")
    mended = settle_in_a_process(node, folder, None)

    assert again == [signal.SIGKILL, signal.SIGKILL, None]
    assert mended is None
    assert node.series(poison).state == "complete"


def test_one_that_was_discarded_stays_so(node: SimulatedNode, tmp_path: Path) -> None:
    poison, folder = ct("a poison"), tmp_path / "run"
    node.receive(poison.files())
    for _ in range(3):
        settle_in_a_process(node, folder, poison)

    node.decide(poison, "discard")

    assert settle_in_a_process(node, folder, poison) is None
    assert node.series(poison).state == "discarded"


def test_a_process_that_ends_well_or_lives_leaves_nobody_under_suspicion(tmp_path: Path) -> None:
    alive, ended, other = InHand(tmp_path), InHand(tmp_path), InHand(tmp_path)
    with ended.holding("1.2"):
        pass
    ended.close()
    with alive.holding("1.3"):
        assert other.left_by_the_dead() == []
    for each in (alive, other):
        each.close()

    assert list(tmp_path.iterdir()) == []


def test_an_error_is_no_death(node: SimulatedNode, tmp_path: Path) -> None:
    hand = InHand(tmp_path / "run")
    with pytest.raises(ValueError, match="x"), hand.holding("1.2"):
        raise ValueError("x")
    os.close(os.open(tmp_path / "run" / "left", os.O_CREAT))  # of a process that died at rest

    assert hand.left_by_the_dead() == []
    assert Arrivals(node.node.engine).suspects() == set()
    hand.close()
