"""kill -9 at every named moment: nothing acknowledged is lost, and one SEG arrives.

The peers are real: the node's own process tree, a recording SCP, and Orthanc for what ends there.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.evil_peers import StoreScp
from tests.support.peers import Node, Orthanc, store
from tests.support.phantoms import Phantom
from tests.support.waiting import PATIENCE_S, wait_for

POINTS = (
    "waiting for completion",
    "job queued",
    "job leased",
    "mid-inference",
    "labels written",
    "result written",
    "between encode and outbox",
    "mid-delivery",
)
IN_CI = ("job queued", "labels written", "mid-delivery")


@pytest.fixture
def scp() -> Iterator[StoreScp]:
    """A Storage SCP that counts."""
    with StoreScp(ae_title="PACS").listening() as listening:
        yield listening


def _long(victim: str, *points: str) -> list[object]:
    return [pytest.param(victim, point, marks=pytest.mark.long) for point in points]


@pytest.mark.parametrize(
    ("victim", "point"),
    [
        *(("itself", point) for point in POINTS),
        *(("tree", point) for point in IN_CI),
        ("supervisor", "mid-inference"),
        *_long("tree", *(point for point in POINTS if point not in IN_CI)),
        *_long("supervisor", *(point for point in POINTS if point != "mid-inference")),
    ],
)
def test_a_kill_costs_no_instance_and_makes_no_second_object(
    point: str, victim: str, tmp_path: Path, scp: StoreScp
) -> None:
    mark = tmp_path / "reached"
    node = _node(tmp_path, scp)
    node.environment = {
        "SEGNODE_CRASH_AT": point,
        "SEGNODE_CRASH_MARK": str(mark),
        "SEGNODE_CRASH_HOW": "die" if victim == "itself" else "wait",
    }
    instances = _ct(point + victim)
    node.start()
    try:
        sent = _store(node, instances)

        wait_for(f"the point {point!r}", mark.exists)
        if victim != "itself":
            _kill(node, victim)
            node.environment = {}
            node.start()

        _assert_one_segmentation(node, scp, instances)
        assert sent == len(instances)
    finally:
        _end(node)


@pytest.mark.parametrize("victim", ["tree", "supervisor"])
def test_a_kill_in_the_middle_of_an_association_keeps_what_was_acknowledged(
    victim: str, tmp_path: Path, scp: StoreScp
) -> None:
    node = _node(tmp_path, scp).start()
    instances = _ct("association" + victim)
    try:
        acknowledged = _store(node, instances[:5], instead_of_release=lambda: _kill(node, victim))
        node.start()
        assert acknowledged == 5
        wait_for("all of them", lambda: node.api("/series")["items"][0]["instances"] == 5)

        assert _store(node, instances[5:]) == len(instances) - 5

        _assert_one_segmentation(node, scp, instances)
    finally:
        _end(node)


@pytest.mark.parametrize("role", ["receive", "web", "route", "work cpu", "deliver"])
def test_each_role_may_be_killed_while_the_others_go_on(
    role: str, tmp_path: Path, scp: StoreScp
) -> None:
    node = _node(tmp_path, scp).start()
    instances = _ct("role" + role)
    try:
        os.kill(wait_for(role, lambda: _processes_of(node, role))[0], signal.SIGKILL)
        wait_for(f"{role} again", lambda: len(_processes_of(node, role)) > 1)
        node.wait_ready()

        assert _store(node, instances) == len(instances)

        _assert_one_segmentation(node, scp, instances)
    finally:
        _end(node)


def test_deaths_of_a_worker_count_as_no_attempt_and_those_of_its_child_do(
    tmp_path: Path, scp: StoreScp
) -> None:
    mark = tmp_path / "reached"
    node = _node(tmp_path, scp)
    node.config["work"] = {"attempts": 1}
    node.environment = {
        "SEGNODE_CRASH_AT": "mid-inference",
        "SEGNODE_CRASH_MARK": str(mark),
        "SEGNODE_CRASH_HOW": "wait",
    }
    node.start()
    try:
        _store(node, _ct("crashes"))
        for _ in range(3):
            wait_for("the job in work", mark.exists)
            worker = _processes_of(node, "work cpu")[-1]
            mark.unlink()
            os.kill(worker, signal.SIGKILL)
        wait_for("the job in work again", mark.exists)
        (job,) = node.api("/jobs")["items"]
        (child,) = _children(_processes_of(node, "work cpu")[-1])
        assert (job["state"], job["attempts"]) == ("running", 1)

        os.kill(child, signal.SIGKILL)

        wait_for("the end of the job", lambda: _states(node, "/jobs") == ["parked"])
    finally:
        _end(node)


def test_orthanc_holds_one_object_after_a_kill_in_the_middle_of_delivery(tmp_path: Path) -> None:
    mark = tmp_path / "reached"
    orthanc = Orthanc(tmp_path / "orthanc").start()
    peer = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    node = Node(
        tmp_path / "node",
        {
            "peers": {"ORTHANC": peer},
            "destinations": {"orthanc": {"kind": "dimse", "peer": "ORTHANC"}},
            "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["orthanc"]}],
        },
        environment={
            "SEGNODE_CRASH_AT": "mid-delivery",
            "SEGNODE_CRASH_MARK": str(mark),
            "SEGNODE_CRASH_HOW": "wait",
        },
    ).start()  # fmt: skip
    try:
        assert _store(node, _ct("orthanc"), calling="ORTHANC") > 0
        wait_for("the point", mark.exists)
        node.kill()
        node.environment = {}
        node.start()

        wait_for("the delivery", lambda: _states(node, "/deliveries") == ["sent"])

        assert len(orthanc.segmentations()) == 1
    finally:
        _end(node)
        orthanc.stop()


def _node(folder: Path, scp: StoreScp) -> Node:
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": scp.port}
    rule = {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["sender"]}
    return Node(folder / "node", {"peers": {"PACS": peer}, "rules": [rule]})


def _ct(name: str) -> list[bytes]:
    return Phantom(study=name, series=name, spacing_mm=(12.0, 5.0, 6.0)).files()


def _store(
    node: Node,
    files: list[bytes],
    *,
    calling: str = "PACS",
    instead_of_release: Callable[[], None] | None = None,
) -> int:
    """C-STORE over one association; how many were acknowledged."""
    statuses = store(node.dicom_port, files, calling=calling, instead_of_release=instead_of_release)
    return statuses.count(0)


def _kill(node: Node, victim: str) -> None:
    if victim == "tree":
        node.kill()
        return
    assert node.process is not None
    children = _children(node.process.pid)
    node.process.kill()
    node.process.wait(PATIENCE_S)
    node.process = None
    wait_for("the end of its children", lambda: not any(_is_alive(pid) for pid in children))


def _assert_one_segmentation(node: Node, scp: StoreScp, instances: list[bytes]) -> None:
    wait_for("the delivery", lambda: _states(node, "/deliveries") == ["sent"])
    (job,) = node.api("/jobs")["items"]
    assert job["state"] == "done"
    assert job["attempts"] <= 2
    assert len(scp.objects) == 1
    assert len({data for _, data in scp.stored}) == 1, "the same object had other bytes"
    (series,) = node.api("/series")["items"]
    assert series["instances"] == len(instances)


def _states(node: Node, path: str) -> list[str]:
    return [row["state"] for row in node.api(path)["items"]]


def _processes_of(node: Node, role: str) -> list[int]:
    """Its processes so far, by what the supervisor said when it started them."""
    lines = [line for line in node.log().splitlines() if f"role={role} child" in line]
    return [int(line.rsplit("child=", 1)[1]) for line in lines]


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    direct = [int(line) for line in found.stdout.split()]
    return direct + [grandchild for child in direct for grandchild in _children(child)]


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _end(node: Node) -> None:
    if node.process is not None:
        node.kill()
