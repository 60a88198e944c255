"""Destinations that answer without end: a delivery fails with a sentence, and costs no memory."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from node.deliver.dicomweb import DicomwebDestination
from node.domain.delivery import DeliveryClass
from tests.deliver.conftest import make_deliverable
from tests.support.certificates import Authority, Signed
from tests.support.evil_peers import StowServer, raw_server, stored_answer
from tests.support.raw_dimse import (
    APPLICATION_CONTEXT,
    ASSOCIATE_AC,
    EXPLICIT_VR_LITTLE_ENDIAN,
    P_DATA,
    pdu,
    pdv,
)

MB = 1 << 20
MOST_MB = 200
OTHERS = {
    "dimse silent": "the association was aborted or the line was lost",
    "http line of a chunk": "the HTTP exchange broke off (ChunkedEncodingError)",
}
FOUR_GB = b"\xff\xff\xff\xff"
TOO_LONG = "the destination's answer is longer than 256 KB"
Talk = Callable[[socket.socket], None]

# a process of its own, as the node has one: its peak is that of these deliveries
DELIVER = """
import json, sys
from pathlib import Path
from node.deliver.dicomweb import DicomwebDestination
from node.deliver.dimse import DimseDestination
from node.domain.delivery import DeliverableObject
from node.domain.peers import Peer
from node.domain.tls import PeerTls

given = json.loads(sys.argv[1])
it = DeliverableObject(**given["object"])
told = {}
for name, port in given["ports"].items():
    if name.startswith("http"):
        url = f"http://127.0.0.1:{port}"
        to = DicomwebDestination(name="archive", url=url, answer_timeout_s=20)
        to_probe = to.probe() if "probe" in name else None
    else:
        tls = PeerTls(ca=given["ca"]) if "tls" in name else None
        peer = Peer(name="P", ae_title="EVIL", host="127.0.0.1", port=port, tls=tls)
        patient = 1 if "silent" in name else 20
        to = DimseDestination(
            name="pacs", peer=peer, calling_ae_title="SEGNODE", connect_timeout_s=20,
            negotiate_timeout_s=patient, answer_timeout_s=patient,
        )
    outcome = to.send(it)
    told[name] = [outcome.kind.value, outcome.destination_sick, outcome.sentence]
status = Path("/proc/self/status").read_text()
told["peak_mb"] = int(status.partition("VmHWM:")[2].split()[0]) // 1024
print(json.dumps(told))
"""


def without_end(connection: socket.socket, piece: bytes) -> None:
    """Send until the other side has enough; at most 700 MB."""
    with suppress(OSError):
        for _ in range(700 * MB // len(piece)):
            connection.sendall(piece)


def http(head: str, piece: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n{head}\r\n\r\n"
        connection.sendall(answer.encode())
        without_end(connection, piece)

    return talk


def accept() -> bytes:
    def item(kind: int, body: bytes) -> bytes:
        return bytes([kind, 0]) + len(body).to_bytes(2, "big") + body

    def text(uid: str) -> bytes:
        return uid.encode()

    context = bytes([1, 0, 0, 0]) + item(0x40, text(EXPLICIT_VR_LITTLE_ENDIAN))
    user = item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3")
    titles = b"EVIL".ljust(16) + b"SEGNODE".ljust(16) + bytes(32)
    items = item(0x10, text(APPLICATION_CONTEXT)) + item(0x21, context) + item(0x50, user)
    return pdu(ASSOCIATE_AC, b"\0\1\0\0" + titles + items)


def dimse(before: bytes, piece: bytes, *, first: bytes = b"") -> Talk:
    """Answers a request with ``before``, and what comes then with ``first`` and pieces without end."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(before)
        if first:
            connection.recv(65536)
            threading.Thread(target=drain, args=(connection,), daemon=True).start()
            connection.sendall(first)
        without_end(connection, piece)

    return talk


def drain(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65536):
            pass


def silent(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(bytes([ASSOCIATE_AC, 0]) + FOUR_GB + bytes(10))
    drain(connection)


FRAGMENT = pdu(P_DATA, pdv(1, 0x01, bytes(16000)))
TALKS: dict[str, Talk] = {
    "http long": http(f"Content-Length: {700 * MB}", bytes(MB)),
    "http chunked": http("Transfer-Encoding: chunked", b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
    "http line of a chunk": http("Transfer-Encoding: chunked", b"0" * MB),
    "http gzip": http(
        "Content-Encoding: gzip\r\nConnection: close", gzip.compress(bytes(400 * MB))
    ),
    "http probe": http(f"Content-Length: {700 * MB}", bytes(MB)),
    "dimse acceptance": dimse(bytes([ASSOCIATE_AC, 0]) + FOUR_GB, bytes(MB)),
    "dimse tls acceptance": dimse(bytes([ASSOCIATE_AC, 0]) + FOUR_GB, bytes(MB)),
    "dimse answer": dimse(accept(), bytes(MB), first=bytes([P_DATA, 0]) + FOUR_GB),
    "dimse fragments": dimse(accept(), FRAGMENT, first=FRAGMENT),
    "dimse silent": silent,
}


def over_tls(talk: Talk, signed: Signed) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)

    def secured(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as connection,
        ):
            talk(connection)

    return secured


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of one delivery to each, and the peak of the process that made them."""
    folder = tmp_path_factory.mktemp("hostile")
    authority = Authority(folder)
    deliverable = make_deliverable(folder)
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(
                raw_server(over_tls(talk, authority.sign()) if "tls" in name else talk)
            )
            for name, talk in TALKS.items()
        }
        given = {"object": asdict(deliverable), "ports": ports, "ca": str(authority.file)}
        command = [sys.executable, "-c", DELIVER, json.dumps(given)]
        delivered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert delivered.returncode == 0, delivered.stderr
    return dict(json.loads(delivered.stdout))


@pytest.mark.parametrize("name", TALKS)
def test_an_answer_without_end_is_tried_again_and_says_so(name: str, told: dict[str, Any]) -> None:
    assert told[name] == ["retry", True, OTHERS.get(name, TOO_LONG)]


def test_no_answer_costs_memory(told: dict[str, Any]) -> None:
    assert told["peak_mb"] < MOST_MB


def test_a_packed_answer_is_read_all_the_same(tmp_path: Path) -> None:
    deliverable = make_deliverable(tmp_path)
    body = gzip.compress(stored_answer(deliverable.sop_instance_uid))
    server = StowServer(body=body, headers={"Content-Encoding": "gzip"})
    with server.listening():
        outcome = DicomwebDestination(name="archive", url=server.url).send(deliverable)

    assert outcome.kind is DeliveryClass.SENT
    assert server.requests[0]["headers"]["Accept-Encoding"] == "identity"


def test_an_error_page_of_any_length_is_judged_by_its_status(tmp_path: Path) -> None:
    server = StowServer(status=403, body=bytes(2 * MB))
    with server.listening():
        outcome = DicomwebDestination(name="archive", url=server.url).send(
            make_deliverable(tmp_path)
        )

    assert outcome.kind is DeliveryClass.BLOCKED
