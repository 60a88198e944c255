"""Those who connect and do not ask, or ask in bad faith: nobody else waits for them."""

from __future__ import annotations

import logging
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from node.domain.limits import DimseLimits
from node.domain.peers import Peer
from node.receive.scp.negotiation import HEAD_BYTES
from tests.support import raw_dimse as raw
from tests.support.memory_node import Node, Serve, serving
from tests.support.waiting import eventually


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@pytest.fixture
def node(serve: Serve) -> Node:
    """Nothing here ends because somebody was silent."""
    return serve(idle_timeout_s=3600.0, negotiation_timeout_s=3600.0)


def connect(node: Node, number: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", node.server.port)) for _ in range(number)]


def is_closed(line: socket.socket) -> bool:
    line.settimeout(0.01)
    try:
        return line.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_the_silent_cost_no_thread_and_nobody_waits_for_them(node: Node) -> None:
    before = threading.active_count()
    silent = connect(node, DimseLimits().waiting_per_address - 1)
    try:
        assert node.is_alive()
        assert threading.active_count() <= before + 1  # the last thread of the echo may linger
        with node.open() as client:
            assert raw.status(client.store(b"abc" * 100_000)) == 0
        assert not any(map(is_closed, silent))
    finally:
        for line in silent:
            line.close()


def test_where_an_address_holds_too_many_the_longest_silent_makes_room(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    silent = connect(node, DimseLimits().waiting_per_address)
    try:
        assert node.is_alive()
        assert eventually(lambda: is_closed(silent[0]))
        assert not is_closed(silent[-1])
        assert "too many wait without asking" in caplog.text
    finally:
        for line in silent:
            line.close()


def test_who_has_asked_is_not_displaced_by_those_who_came_at_once_behind_it(serve: Serve) -> None:
    """All of them are there before the door is looked at."""
    node = serve(is_started=False)
    with node.connect() as honest, ExitStack() as stack:
        honest.send(raw.associate_request())
        for line in connect(node, 2 * DimseLimits().waiting_per_address):
            stack.enter_context(line)

        node.server.start()

        assert honest.read().kind == raw.ASSOCIATE_AC


def test_a_request_is_cut_at_its_deadline_and_not_before(serve: Serve) -> None:
    patient = serve(negotiation_timeout_s=3600.0)
    hasty = serve(negotiation_timeout_s=0.3)
    head = struct.pack(">BxL", raw.ASSOCIATE_RQ, 300)
    with patient.connect() as long, hasty.connect() as short:
        long.send(head)
        short.send(head)

        assert eventually(lambda: is_closed(short.connection))
        assert not is_closed(long.connection)
    assert hasty.is_alive()


def test_who_is_no_peer_is_told_by_the_first_bytes(serve: Serve) -> None:
    """Half a megabyte is announced, and never sent."""
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1")
    node = serve(peers=(peer,), negotiation_timeout_s=3600.0)
    cases = [
        (1, b"OTHER", b"PACS", (1, 1, 7)),
        (1, b"SEGNODE", b"NOBODY", (1, 1, 3)),
        (2, b"SEGNODE", b"PACS", (1, 2, 2)),
    ]

    for version, called, calling, refusal in cases:
        with node.connect() as client:
            client.send(struct.pack(">BxL", raw.ASSOCIATE_RQ, 470_000))
            client.send(struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16))
            client.send(bytes(HEAD_BYTES - 36))

            assert client.read() == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, *refusal]))
            assert client.read() == raw.CLOSED


def test_a_refusal_is_told_in_one_line_with_titles_and_address(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with node.connect() as client:
        client.request(called=b"OTHER", calling=b"ME\n\x1b[31m")

    (line,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert line.getMessage() == "refused an association: result 1 source 1 reason 7"
    told = vars(line)
    assert (told["called_ae_title"], told["address"]) == ("'OTHER'", "127.0.0.1")
    assert told["calling_ae_title"] == r"'ME\n\x1b[31m'"


def test_a_title_padded_by_nuls_is_that_title(serve: Serve) -> None:
    node = serve(peers=(Peer(name="pacs", ae_title="PACS", host="127.0.0.1"),))

    with node.connect() as client:
        answer = client.request(calling=b"PACS".ljust(16, b"\0"), called=b"SEGNODE\0")

    assert answer.kind == raw.ASSOCIATE_AC


def test_a_context_id_that_is_given_twice_is_aborted(node: Node) -> None:
    with node.connect() as client:
        answer = client.request(context_ids=(1, 1, 3))

    assert answer.kind == raw.ABORT


def test_a_request_and_what_follows_it_may_come_as_one(node: Node) -> None:
    """An impatient peer sends its first message before it has read the answer."""
    with node.connect() as client:
        echo = raw.pdu(raw.P_DATA, raw.pdv(3, 0x03, raw.echo_command()))
        client.send(raw.associate_request() + echo + echo)

        assert client.read().kind == raw.ASSOCIATE_AC
        assert raw.status(client.response()) == raw.status(client.response()) == 0


def test_after_a_release_the_line_is_closed_though_the_peer_holds_it(node: Node) -> None:
    with node.open() as client:
        assert client.release().kind == raw.RELEASE_RP
        assert client.read() == raw.CLOSED  # our half
        held = client.connection.fileno()

        assert eventually(lambda: node.server._upper_layer._lingering.is_empty)
        assert held >= 0
    assert node.is_alive()


def test_one_byte_now_and_then_does_not_keep_an_association(serve: Serve) -> None:
    node = serve(idle_timeout_s=3600.0, slowest_over_s=0.2)
    data = raw.pdu(raw.P_DATA, raw.pdv(1, 0x02, bytes(10_000)))
    with node.open() as dripping, node.open() as resting:
        dripping.command(1, raw.store_command("1.2.3"))
        assert eventually(lambda: node.ingest.open_arrivals == 1)

        for byte in data:
            if is_readable(dripping.connection, 0.02):
                break
            dripping.send(bytes([byte]))

        assert dripping.read().kind == raw.ABORT
        assert eventually(lambda: node.ingest.abandoned == 1)
        assert resting.echo() == 0  # between messages there is no pace


def test_a_message_that_is_long_and_fast_is_no_drip(serve: Serve) -> None:
    node = serve(idle_timeout_s=3600.0, slowest_over_s=0.05)
    pause = threading.Event()
    with node.open() as client:
        client.command(1, raw.store_command("1.2.3"))
        for _ in range(10):
            client.data(1, bytes(20_000), is_whole=False)
            pause.wait(0.02)
        client.data(1, b"end")

        assert raw.status(client.response()) == 0


def is_readable(line: socket.socket, within_s: float) -> bool:
    return bool(select.select([line], [], [], within_s)[0])


def test_a_peer_that_does_not_read_its_answers_ends_alone(serve: Serve) -> None:
    """Echoes without end, of which none is read: its thread stands, others are served."""
    node = serve(negotiation_timeout_s=3600.0, idle_timeout_s=3600.0)
    with node.open() as deaf:
        echo = raw.pdu(raw.P_DATA, raw.pdv(3, 0x03, raw.echo_command()))
        deaf.connection.setblocking(False)
        sent = 0
        while sent < 64_000_000:
            try:
                sent += deaf.connection.send(echo * 500)
            except BlockingIOError:
                break

        assert node.is_alive()


def test_stopping_leaves_no_line_open(serve: Serve) -> None:
    node = serve(negotiation_timeout_s=3600.0, idle_timeout_s=3600.0)
    silent, client = connect(node, 5), node.open()

    node.server.stop()

    assert all(eventually(lambda line=line: is_closed(line)) for line in silent)
    assert client.read().kind in (raw.CLOSED.kind, raw.ABORT)
    client.connection.close()
    for line in silent:
        line.close()


def test_more_associations_than_a_constant_once_allowed_may_be_open(serve: Serve) -> None:
    node = serve(max_associations=280, max_associations_per_peer=280, idle_timeout_s=3600.0)
    with ExitStack() as stack:
        for _ in range(270):
            stack.enter_context(node.open())

        assert node.server.open_associations() == 270
