"""Several receive processes on one port: a real node, a client of bytes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.receive.scp.door import SharedPorts
from tests.bench.bench_ingest import make_instances
from tests.bench.processes import tree
from tests.support import raw_dimse as raw
from tests.support.memory_node import serving
from tests.support.peers import Node, free_port
from tests.support.raw_dimse import RawAssociation, accepted
from tests.support.waiting import wait_for

RULES = [{"name": "every CT", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}]
OFFER = ((raw.CT_IMAGE_STORAGE, (raw.EXPLICIT_VR_LITTLE_ENDIAN,)),)
ESTABLISHED = "01"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that receives in two processes."""
    dimse = {"processes": 2, "max_associations": 6, "max_associations_per_peer": 6}
    running = Node(tmp_path, {"rules": RULES, "dimse": dimse})
    running.start(roles=("receive",))
    wait_for("both processes", lambda: running.log().count("listening") == 2)
    yield running
    if running.process is not None:
        running.kill()


def test_connections_go_to_the_process_that_has_less_to_do(node: Node) -> None:
    with ExitStack() as open_ones:
        for _ in range(4):
            _associate(node, open_ones)
        assert sorted(_connections_of(node).values()) == [2, 2]


def test_places_are_counted_over_all_processes(node: Node) -> None:
    with ExitStack() as open_ones:
        for _ in range(6):
            _associate(node, open_ones)
        with RawAssociation(node.dicom_port) as one_more:
            refused = one_more.request(OFFER)
    assert (refused.kind, refused.body[1:4]) == (raw.ASSOCIATE_RJ, b"\2\3\2")


def test_a_process_that_is_killed_takes_nothing_with_it_but_its_own(node: Node) -> None:
    with ExitStack() as open_ones:
        held = [_associate(node, open_ones) for _ in range(6)]
        before = _connections_of(node)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        lost = wait_for("its lines to break", lambda: [each for each in held if _is_cut(each)])
        assert len(lost) == before[killed]
        assert all(each.echo(3) == 0 for each in held if each not in lost)
        for _ in lost:  # the places of the dead are free again
            wait_for("a place", lambda: _associates(node, open_ones))
    wait_for("a new process", lambda: node.log().count("listening") == 3)


def test_what_several_processes_take_in_is_whole(node: Node) -> None:
    series = [make_instances(12, number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda images: _store(node, images), series))
    assert statuses == [[0] * 12] * 4
    assert node.stop() == 0
    assert len(list((node.data_dir / "spool" / "instances").rglob("*.dcm"))) == 48


def test_a_changed_port_ends_all_and_is_served_by_all(node: Node) -> None:
    old = node.dicom_port
    node.dicom_port = free_port()
    node.write_config()
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGHUP)
    wait_for("both anew", lambda: node.log().count("listening") == 4)
    with ExitStack() as open_ones:
        _associate(node, open_ones)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old), 1).close()


def test_a_process_that_does_not_come_for_a_connection_costs_a_moment() -> None:
    ports = SharedPorts([("127.0.0.1", 0)], places=(4, 4), processes=2)
    ports.begin(1)  # it has nothing to do, and hangs
    ports.begin(0)
    with serving() as serve, serve(ports=ports).open():
        wait_for("a load", lambda: not ports.is_least_busy)
        with RawAssociation(port_of(ports)) as second:
            assert second.request(OFFER).kind == raw.ASSOCIATE_AC


def test_who_has_least_to_do() -> None:
    ports = SharedPorts([("127.0.0.1", 0)], places=(4, 2), processes=2)
    ports.begin(1)
    ports.begin(0)
    assert ports.is_least_busy, "nobody has less"
    ports.set_load(3)
    assert not ports.is_least_busy
    ports.forget(1)
    assert ports.is_least_busy, "the other is gone"
    ports.close()


def test_places_of_a_caller_and_of_all() -> None:
    ports = SharedPorts([("127.0.0.1", 0)], places=(3, 2), processes=2)
    ports.begin(0)
    first = ports.take("a")
    assert first is not None
    assert ports.take("a") not in (None, first)
    assert ports.take("a") is None
    ports.begin(1)
    assert ports.take("a") is None
    assert ports.take("b") is not None
    assert ports.take("c") is None, "the third place was the last"
    ports.leave(first)
    assert ports.take("c") is not None
    ports.close()


def port_of(ports: SharedPorts) -> int:
    return int(ports.listeners[0].getsockname()[1])


def _associate(node: Node, open_ones: ExitStack) -> RawAssociation:
    association = open_ones.enter_context(RawAssociation(node.dicom_port))
    offer = (*OFFER, (raw.VERIFICATION, (raw.IMPLICIT_VR_LITTLE_ENDIAN,)))
    assert accepted(association.request(offer))[1][0] == 0
    return association


def _associates(node: Node, open_ones: ExitStack) -> bool:
    association = open_ones.enter_context(RawAssociation(node.dicom_port))
    return association.request(OFFER).kind == raw.ASSOCIATE_AC


def _is_cut(association: RawAssociation) -> bool:
    association.connection.settimeout(0.2)
    try:
        return association.connection.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _store(node: Node, images: list) -> list[int]:
    with RawAssociation(node.dicom_port) as association:
        association.request(OFFER)
        statuses = [
            raw.status(association.store(each.data, each.sop_instance_uid)) for each in images
        ]
        association.release()
    return statuses


def _connections_of(node: Node) -> dict[int, int]:
    """Open connections to the port, by process."""
    port = f":{node.dicom_port:04X}"
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    inodes = {row[9] for row in rows if row[1].endswith(port) and row[3] == ESTABLISHED}
    found: dict[int, int] = {}
    assert node.process is not None
    for process in tree(node.process.pid):
        links = Path(f"/proc/{process}/fd").iterdir()
        count = sum(_target(link)[8:-1] in inodes for link in links)
        if count:
            found[process] = count
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""
