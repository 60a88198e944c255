"""SIGTERM while peers take their time: the node ends cleanly, within its drain."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from node.cli.serving import DRAIN_S
from tests.support import raw_dimse
from tests.support.peers import Node
from tests.support.raw_dimse import RawAssociation

HEAD = (
    b"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
    b'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n'
)


@contextmanager
def dripping(send: Callable[[bytes], object]) -> Iterator[None]:
    """One byte a second, for as long as the other side takes them."""
    over = Event()

    def drip() -> None:
        with suppress(OSError):
            while not over.wait(1.0):
                send(b"\0")

    thread = Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_sigterm_among_slow_peers_ends_with_0_within_the_drain_time(tmp_path: Path) -> None:
    rule = {"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}
    node = Node(tmp_path / "node", {"rules": [rule]}).start()
    try:
        with ExitStack() as peers:
            idle = peers.enter_context(RawAssociation(node.dicom_port))
            idle.request()
            half = peers.enter_context(RawAssociation(node.dicom_port))
            half.request()
            half.command(1, raw_dimse.store_command("1.2.3"))
            half.send(b"\x04\x00\x00\x00\x10\x00")  # a PDU of 4096 bytes, which come one by one
            peers.enter_context(dripping(half.send))
            asking = peers.enter_context(RawAssociation(node.dicom_port))
            peers.enter_context(dripping(asking.send))
            body = peers.enter_context(socket.create_connection(("127.0.0.1", node.http_port)))
            body.sendall(HEAD)
            peers.enter_context(dripping(body.sendall))
            peers.enter_context(socket.create_connection(("127.0.0.1", node.http_port)))

            assert node.stop(DRAIN_S + 5.0) == 0
    finally:
        if node.process is not None:
            node.kill()
    assert "roles did not end in time" not in node.log()
