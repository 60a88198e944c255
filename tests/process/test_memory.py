"""Bounds on memory, with real processes and small ones."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.instances import ct_slice, data_set_bytes
from tests.support.peers import Node
from tests.support.raw_dimse import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    RawAssociation,
    status,
)
from tests.support.waiting import wait_for

MB = 1 << 20
CUT = -1
MANY = 120
RULES = [{"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}]

ROLE = """
import os, sys, threading
from pathlib import Path
from node.observe.log import configure_logging
from node.process.memory import limit_memory
from node.process.supervise import Supervisor

lives = Path(sys.argv[1])

def role(signals):
    limit_memory("greedy", 1 << 28)
    is_first = not lives.exists()
    lives.open("a").write(f"{os.getpid()} ")
    if is_first:
        threading.Thread(target=lambda: bytearray(1 << 29)).start()
    signals.stop.wait()

configure_logging(as_json=False)
sys.exit(Supervisor({"greedy": role}, check_reload=lambda: None, drain_s=5).run())
"""


def test_a_role_of_which_a_thread_had_no_memory_ends_and_is_started_again(tmp_path: Path) -> None:
    lives, log = tmp_path / "lives", tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ROLE), str(lives)], stderr=file
        )
    try:
        wait_for("a second life", lambda: len(lives.read_text().split()) == 2)
    finally:
        process.terminate()
        assert process.wait(10) == 0

    assert "role ends: out of memory" in log.read_text()


STUCK = """
import ctypes, os, sys
from pathlib import Path
from node.process.memory import limit_memory
from node.process.supervise import Supervisor

lives = Path(sys.argv[1])

def role(signals):
    limit_memory("stuck", 0, stuck_s=1.0)
    is_first = not lives.exists()
    lives.open("a").write(f"{os.getpid()} ")
    if is_first:
        ctypes.PyDLL(None).sleep(3600)  # with the lock of the interpreter
    signals.stop.wait()

sys.exit(Supervisor({"stuck": role}, check_reload=lambda: None, drain_s=5).run())
"""


def test_a_role_none_of_whose_threads_runs_any_more_is_started_again(tmp_path: Path) -> None:
    lives, log = tmp_path / "lives", tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(STUCK), str(lives)], stderr=file
        )
    try:
        wait_for("a second life", lambda: len(lives.read_text().split()) == 2)
    finally:
        process.terminate()
        assert process.wait(10) == 0

    assert "Timeout" in log.read_text()
    assert "in role" in log.read_text()


def data_bytes(node: Node, role: str) -> int:
    """What counts as memory of a role."""
    (pid,) = pids(node, role)[-1:]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) << 10


def pids(node: Node, role: str) -> list[int]:
    lines = [line for line in node.log().splitlines() if f"role={role} " in line]
    return [int(line.partition("child=")[2].split()[0]) for line in lines if "child=" in line]


def send(node: Node, number: int) -> int:
    """The status of a C-STORE; ``CUT`` where no answer came."""
    data = data_set_bytes(ct_slice(number))
    with RawAssociation(node.dicom_port) as association:
        association.request([(CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])])
        try:
            return status(association.store(data, str(ct_slice(number).SOPInstanceUID)))
        except (OSError, AssertionError):
            return CUT


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node", {"rules": RULES})


def test_what_there_is_no_memory_for_is_refused_and_the_role_goes_on(node: Node) -> None:
    node.config["dimse"] = {"max_associations": MANY, "max_associations_per_peer": MANY}
    with node:
        quiet = data_bytes(node, "receive")
    node.config["memory"] = {"role_gb": (quiet + 48 * MB) / 2**30}
    (node.folder / "node.log").unlink()
    with node:
        with ExitStack() as stack:
            lines = [stack.enter_context(RawAssociation(node.dicom_port)) for _ in range(MANY)]
            answers = [line.request() for line in lines]
        wait_for("the next one", lambda: send(node, 1) == 0)
        wait_for("its row", lambda: node.api("/series")["items"][0]["instances"] == 1)

        refused = [answer.body[1:4] for answer in answers if answer.kind == ASSOCIATE_RJ]
        # at the last byte the interpreter may not come out again: then the watchdog ends the role
        assert any(answer.kind != ASSOCIATE_AC for answer in answers)
        assert any(answer.kind == ASSOCIATE_AC for answer in answers)
        assert set(refused) <= {b"\2\3\2"}


def test_a_hundred_associations_count_as_little(node: Node) -> None:
    node.config["dimse"] = {"max_associations": 120, "max_associations_per_peer": 120}
    with node:
        before = data_bytes(node, "receive")
        associations = [RawAssociation(node.dicom_port) for _ in range(100)]
        for association in associations:
            association.request()
        more = data_bytes(node, "receive") - before
        for association in associations:
            association.connection.close()

        assert more < 200 * MB
