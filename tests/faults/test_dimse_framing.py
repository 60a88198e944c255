"""PDUs and command sets that no well-behaved peer sends: each gets its answer, the node goes on."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.faults.framing import FRAMING, NOISE, STORE, with_field
from tests.support import raw_dimse as raw
from tests.support.memory_node import Node, serving
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import eventually

ABORT_BY_PROVIDER = 2


@pytest.fixture
def node() -> Iterator[Node]:
    with serving() as serve:
        # what ends here ends for another reason than silence
        yield serve(idle_timeout_s=3600.0, negotiation_timeout_s=1.0)


def aborted(reason: int) -> raw.Pdu:
    return raw.Pdu(raw.ABORT, bytes([0, 0, ABORT_BY_PROVIDER, reason]))


@pytest.mark.parametrize(("sent", "reason"), FRAMING.values(), ids=FRAMING)
def test_broken_framing_is_aborted_at_once(node: Node, sent: bytes, reason: int) -> None:
    with node.open() as client:
        client.send(sent)

        assert client.read() == aborted(reason)
        assert client.read() == raw.CLOSED
    assert eventually(lambda: node.server.open_associations() == 0)
    assert node.ingest.open_arrivals == 0
    assert node.is_alive()


@pytest.mark.parametrize("sent", NOISE.values(), ids=NOISE)
def test_noise_instead_of_a_request_is_aborted(node: Node, sent: bytes) -> None:
    with node.connect() as client:
        client.send(sent)

        assert client.read().kind == raw.ABORT
        assert client.read() == raw.CLOSED
    assert node.is_alive()


def test_a_second_request_on_an_open_association_is_aborted(node: Node) -> None:
    with node.open() as client:
        answer = client.request()

    assert answer.kind == raw.ABORT
    assert node.is_alive()


@pytest.mark.parametrize("context_ids", [(0, 3, 5), (2, 4, 6), (129, 3, 5)])
def test_context_ids_out_of_order_never_leave_the_peer_waiting(
    node: Node, context_ids: tuple[int, ...]
) -> None:
    with node.connect() as client:
        answer = client.request(context_ids=context_ids)

    assert answer.kind in (raw.ABORT, raw.ASSOCIATE_RJ, raw.ASSOCIATE_AC)
    assert node.is_alive()


@pytest.mark.parametrize("transfer_syntaxes", [(), ("1.2.3",)])
def test_contexts_that_cannot_be_accepted_are_answered(
    node: Node, transfer_syntaxes: tuple[str, ...]
) -> None:
    with node.connect() as client:
        answer = client.request(((raw.CT_IMAGE_STORAGE, transfer_syntaxes),))

    assert answer.kind in (raw.ASSOCIATE_RJ, raw.ASSOCIATE_AC)
    assert node.is_alive()


def test_a_request_that_drips_in_is_cut_at_its_deadline(node: Node) -> None:
    with node.connect() as client:
        head = struct.pack(">BxL", raw.ASSOCIATE_RQ, 200)
        client.send(head)

        client.connection.settimeout(5)
        assert eventually(lambda: _dripped(client))
    assert node.is_alive()


def _dripped(client: RawAssociation) -> bool:
    """Send one more byte; True once the node has closed the connection."""
    try:
        client.send(b"\0")
        client.connection.settimeout(0.05)
        return client.connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_two_hundred_releases_in_a_row_end_the_association_once(node: Node) -> None:
    with node.open() as client:
        client.send(raw.pdu(raw.RELEASE_RQ, bytes(4)) * 200)

        assert client.read().kind in (raw.RELEASE_RP, raw.ABORT)
    assert eventually(lambda: node.log.events[-1][1] in ("released", "aborted"))
    assert node.is_alive()


# ---- commands


@pytest.mark.parametrize(
    ("sop_instance_uid", "sop_class_uid"),
    [(None, raw.CT_IMAGE_STORAGE), ("1.2.3", None), ("", raw.CT_IMAGE_STORAGE)],
)
def test_f23_a_missing_affected_uid_is_a_mistyped_argument(
    node: Node, sop_instance_uid: str | None, sop_class_uid: str | None
) -> None:
    with node.open() as client:
        response = client.store(b"abc", sop_instance_uid, sop_class_uid=sop_class_uid)
        echoed = client.echo()

    assert raw.status(response) == 0x0212
    assert echoed == 0
    assert node.ingest.kept == []


def test_f20_a_class_of_another_context_does_not_match(node: Node) -> None:
    with node.open() as client:
        response = client.store(b"abc", sop_class_uid=raw.MR_IMAGE_STORAGE, context_id=1)
        echoed = client.echo()

    assert raw.status(response) == 0xA900
    assert echoed == 0
    assert node.ingest.kept == []


def test_st07_a_class_that_was_not_negotiated_is_not_supported(node: Node) -> None:
    with node.open() as client:
        response = client.store(b"abc", sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1")

    assert raw.status(response) == 0x0122


@pytest.mark.parametrize("sends_data_anyway", [False, True])
def test_f19_a_store_without_data_set_cannot_be_understood(
    node: Node, sends_data_anyway: bool
) -> None:
    with node.open() as client:
        client.command(1, raw.store_command("1.2.3", data_set_type=0x0101))
        response = client.response()
        if sends_data_anyway:
            client.data(1, b"x" * 40_000)
        echoed = client.echo()

    assert raw.status(response) == 0xC000
    assert echoed == 0
    assert node.ingest.kept == []


def test_f24_any_bytes_in_the_uid_reach_the_ingest_and_its_answer_the_peer(node: Node) -> None:
    hostile = (b"../../../../tmp/pwn", b"1.2\x00.3", b"\xff\xfe", b"1" * 64)

    with node.open() as client:
        statuses = [raw.status(client.store(b"abc", uid)) for uid in hostile]

    assert statuses == [0] * 4  # this ingest takes everything; the real one judges UIDs
    announced = [entry.sop_instance_uid for _, entry, _ in node.ingest.kept]
    assert announced == ["../../../../tmp/pwn", "1.2\x00.3", "\udcff\udcfe", "1" * 64]


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x7777, 0x0140])
@pytest.mark.parametrize("has_data_set", [False, True])
def test_f33_f34_an_operation_we_do_not_serve_is_not_recognized(
    node: Node, field: int, has_data_set: bool
) -> None:
    with node.open() as client:
        client.command(1, with_field(field, has_data_set=has_data_set))
        if has_data_set:
            client.data(1, b"x" * 40_000)
        response = client.response()
        echoed = client.echo()

    assert raw.status(response) == 0x0211
    assert response[0x0100] == raw.us(field | 0x8000)
    assert echoed == 0


def test_f33_a_wrong_group_length_is_forgiven(node: Node) -> None:
    elements = {key: value for key, value in raw.decode(STORE).items() if key != 0}

    with node.open() as client:
        client.command(1, raw.command_set(elements, group_length=4711))
        client.data(1, b"abc")

        assert raw.status(client.response()) == 0


def test_a_cancel_has_no_answer_and_does_no_harm(node: Node) -> None:
    cancel = {0x0100: raw.us(0x0FFF), 0x0120: raw.us(1), 0x0800: raw.us(0x0101)}

    with node.open() as client:
        client.command(1, raw.command_set(cancel))

        assert client.echo() == 0


def test_f13_an_abort_between_command_and_data_set_leaves_nothing(node: Node) -> None:
    with node.open() as client:
        client.command(1, STORE)
        assert eventually(lambda: node.ingest.open_arrivals == 1)
        client.abort()
        assert eventually(lambda: node.server.open_associations() == 0)

    assert (node.ingest.open_arrivals, node.ingest.kept) == (0, [])
    assert node.is_alive()
