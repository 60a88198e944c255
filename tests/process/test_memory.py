"""Bounds on memory, with real processes and small ones."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.support.http_server import MULTIPART, Site, body_of
from tests.support.instances import ct_slice, data_set_bytes
from tests.support.peers import Node
from tests.support.raw_dimse import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    RawAssociation,
    status,
)
from tests.support.waiting import wait_for

MB = 1 << 20
CUT = -1
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


def greedy(number: int) -> bytes:
    """Within every bound, and half a million elements that have to be looked at."""
    data = data_set_bytes(ct_slice(number))
    at = data.index(b"\xe0\x7f\x10\x00")
    private = b"".join(
        struct.pack("<HH2sH", group, 0x1000 + element, b"LO", 0)
        for group in range(0x0029, 0x003B, 2)
        for element in range(60_000)
    )
    return data[:at] + private + data[at:]


def send(node: Node, number: int, data: bytes) -> int:
    """The status of a C-STORE; ``CUT`` where the role ended meanwhile."""
    with RawAssociation(node.dicom_port) as association:
        association.request([(CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])])
        try:
            return status(association.store(data, str(ct_slice(number).SOPInstanceUID)))
        except (OSError, AssertionError):  # no answer came
            return CUT


def post(node: Node, data: bytes) -> int:
    try:
        return (
            Site(node.http_port)
            .request("POST", "/dicom-web/studies", body_of(data), {"Content-Type": MULTIPART})
            .status
        )
    except (OSError, HTTPException):
        return CUT


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node", {"rules": RULES})


def test_what_there_is_no_memory_for_is_refused_and_the_role_goes_on(node: Node) -> None:
    with node:
        quiet = max(data_bytes(node, "receive"), data_bytes(node, "web"))
    node.config["memory"] = {"role_gb": (quiet + 48 * MB) / 2**30}
    (node.folder / "node.log").unlink()
    with node:
        refused, posted = send(node, 1, greedy(1)), post(node, greedy(2))
        wait_for("the next one", lambda: send(node, 3, data_set_bytes(ct_slice(3))) == 0)
        wait_for("its row", lambda: node.api("/series")["items"][0]["instances"] == 1)

        # at the last byte the interpreter may not come out again: then the watchdog ends the role
        assert refused in (0xA700, CUT)
        assert posted in (503, CUT)
        assert refused == CUT or "no memory is left for it" in node.log()


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
