"""The SCP seen from the wire, with an ingest that keeps instances in memory."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from node.domain.errors import ConfigInvalid, InstanceRejected
from node.domain.instance import Transport
from node.domain.peers import Peer
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.observe import counts
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.ingest import Announced
from tests.support import raw_dimse as raw
from tests.support.memory_node import (
    CONTEXTS,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    Node,
    Serve,
    serving,
)
from tests.support.peers import ECHOSCU, need
from tests.support.waiting import eventually


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on free ports; each ends with its threads gone."""
    with serving() as start:
        yield start


@pytest.fixture
def node(serve: Serve) -> Node:
    return serve(idle_timeout_s=3600.0)  # nothing here ends by silence


# ---- storing


def test_the_data_set_arrives_as_it_was_sent(node: Node) -> None:
    data = bytes(range(256)) * 3000

    with node.open() as client:
        response = client.store(data, "1.2.3")

    ((origin, announced, kept),) = node.ingest.kept
    assert raw.status(response) == 0
    assert kept == data
    assert announced == Announced(
        sop_class_uid=raw.CT_IMAGE_STORAGE,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=raw.EXPLICIT_VR_LITTLE_ENDIAN,
    )
    assert (origin.transport, origin.calling_ae_title, origin.called_ae_title, origin.address) == (
        Transport.DIMSE,
        "RAW",
        "SEGNODE",
        "127.0.0.1",
    )


def test_the_response_names_message_class_and_instance(node: Node) -> None:
    with node.open() as client:
        client.command(1, raw.store_command("1.2.3", message_id=0xBEEF))
        client.data(1, b"x" * 10)

        response = client.response()

    assert response[0x0100] == raw.us(0x8001)
    assert response[0x0120] == raw.us(0xBEEF)
    assert response[0x0800] == raw.us(0x0101)
    assert response[0x0002] == raw.uid(raw.CT_IMAGE_STORAGE)
    assert response[0x1000] == raw.uid("1.2.3")
    assert list(response) == sorted(response)


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 16378])
def test_fragments_of_any_size_make_the_same_instance(node: Node, size: int) -> None:
    data = bytes(range(251)) * 80

    with node.open() as client:
        client.max_pdu_bytes = size + 6
        response = client.store(data)

    assert raw.status(response) == 0
    assert node.ingest.kept[0][2] == data


def test_several_fragments_in_one_pdu_are_all_taken(node: Node) -> None:
    with node.open() as client:
        client.send(
            raw.pdu(
                raw.P_DATA,
                raw.pdv(1, 0x01, raw.store_command("1.2.3")[:40])
                + raw.pdv(1, 0x03, raw.store_command("1.2.3")[40:])
                + raw.pdv(1, 0x00, b"abc")
                + raw.pdv(1, 0x02, b"def"),
            )
        )

        response = client.response()

    assert raw.status(response) == 0
    assert node.ingest.kept[0][2] == b"abcdef"


def test_a_message_that_comes_byte_by_byte_is_taken(node: Node) -> None:
    message = raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, raw.store_command("1.2.3")))
    message += raw.pdu(raw.P_DATA, raw.pdv(1, 0x02, b"abcdef"))

    with node.open() as client:
        for byte in message:
            client.send(bytes([byte]))
        response = client.response()

    assert raw.status(response) == 0
    assert node.ingest.kept[0][2] == b"abcdef"


def test_many_messages_sent_without_waiting_are_answered_in_order(node: Node) -> None:
    with node.open() as client:
        for number in range(50):
            client.command(1, raw.store_command(f"1.2.{number + 1}", message_id=number + 1))
            client.data(1, bytes([number]) * 5000)
        answered = [client.response()[0x0120] for _ in range(50)]

    assert answered == [raw.us(number + 1) for number in range(50)]
    assert [data[:1] for _, _, data in node.ingest.kept] == [bytes([n]) for n in range(50)]


def test_the_response_is_cut_to_what_the_peer_can_take(node: Node) -> None:
    with node.open(max_pdu_bytes=100) as client:
        client.max_pdu_bytes = 1000
        client.command(1, raw.store_command("1.2.3"))
        client.data(1, b"abc")
        first = client.read()

    assert len(first.body) <= 100


def test_success_is_answered_only_after_the_instance_is_kept(node: Node) -> None:
    may_finish = threading.Event()
    node.ingest.before_finish = lambda: may_finish.wait(5) and None

    with node.open() as client:
        client.command(1, raw.store_command("1.2.3"))
        client.data(1, b"abc")
        client.connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connection.recv(1)
        may_finish.set()
        client.connection.settimeout(5)

        assert raw.status(client.response()) == 0


# ---- refusing an instance


def test_a_refused_instance_is_told_why_and_the_association_goes_on(node: Node) -> None:
    node.ingest.rejection = InstanceRejected(
        "Study Instance UID is missing" + " and more" * 20,
        dimse_status=0xC000,
        offending_tags=(0x0020000D, 0x0020000E),
    )

    with node.open() as client:
        refused = client.store(b"abc")
        node.ingest.rejection = None
        stored = client.store(b"abc")
        echoed = client.echo()

    assert raw.status(refused) == 0xC000
    assert raw.comment(refused).startswith("Study Instance UID is missing")
    assert len(refused[0x0902]) == 64
    assert refused[0x0901] == bytes.fromhex("20000d0020000e00")
    assert (raw.status(stored), echoed) == (0, 0)


def test_an_instance_refused_at_its_start_is_read_to_its_end(node: Node) -> None:
    node.ingest.refusal = InstanceRejected("disk is full", dimse_status=0xA700)

    with node.open() as client:
        refused = client.store(b"x" * 300_000)
        node.ingest.refusal = None
        stored = client.store(b"abc")

    assert (raw.status(refused), raw.comment(refused)) == (0xA700, "disk is full")
    assert raw.status(stored) == 0


# ---- associations


def test_the_called_ae_title_must_be_ours(serve: Serve) -> None:
    node = serve(ae_titles=("SEGNODE", "LUNGS"))

    with node.connect() as second, node.connect() as wrong, node.connect() as case:
        assert second.request(called=b"LUNGS").kind == raw.ASSOCIATE_AC
        assert wrong.request(called=b"OTHER") == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 1, 1, 7]))
        assert case.request(called=b"segnode") == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 1, 1, 7]))


@pytest.mark.parametrize(
    ("calling", "allow_from", "is_served"),
    [
        (b"PACS", (), True),
        (b" PACS ", (), True),
        (b"pacs", (), False),
        (b"OTHER", (), False),
        (b"PACS", ("127.0.0.0/8",), True),
        (b"PACS", ("localhost",), True),
        (b"PACS", ("10.0.0.0/8",), False),
    ],
)
def test_a_caller_must_be_a_peer_by_title_and_address(
    serve: Serve, calling: bytes, allow_from: tuple[str, ...], is_served: bool
) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", allow_from=allow_from)
    node = serve(peers=(peer,))

    with node.connect() as client:
        answer = client.request(calling=calling)

    if is_served:
        assert answer.kind == raw.ASSOCIATE_AC
        assert node.log.origins["a1"].peer == "pacs"
    else:
        assert answer == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 1, 1, 3]))


def test_another_application_context_is_rejected(node: Node) -> None:
    with node.connect() as client:
        answer = client.request(application_context="1.2.3")

    assert answer == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 1, 1, 2]))


def test_one_peer_cannot_take_every_slot(serve: Serve) -> None:
    ours = Peer(name="ours", ae_title="OURS", host="127.0.0.1")
    node = serve(
        peers=(ours, replace(ours, name="other", ae_title="OTHER")),
        max_associations=3,
        max_associations_per_peer=2,
    )

    with node.open(calling=b"OURS"), node.open(calling=b"OURS"), node.connect() as third:
        refused_peer = third.request(calling=b"OURS")
        with node.open(calling=b"OTHER"), node.connect() as fourth:
            refused_anybody = fourth.request(calling=b"OTHER")

    assert refused_peer.body == refused_anybody.body == bytes([0, 2, 3, 2])
    assert eventually(lambda: node.server.open_associations() == 0)
    with node.open(calling=b"OURS") as client:
        assert client.echo() == 0


def test_sixty_echoes_at_once_are_served_or_told_to_come_back(serve: Serve) -> None:
    node = serve(max_associations_per_peer=50)

    def echo(_: int) -> bool:
        with node.connect() as client:
            answer = client.request()
            if answer.kind == raw.ASSOCIATE_RJ:
                return answer.body == bytes([0, 2, 3, 2])
            return client.echo() == 0 and client.release().kind == raw.RELEASE_RP

    with ThreadPoolExecutor(60) as pool:
        assert all(pool.map(echo, range(60)))


def test_transfer_syntaxes_are_chosen_in_our_order(node: Node) -> None:
    offers = (
        (raw.CT_IMAGE_STORAGE, (JPEG_BASELINE, JPEG_2000_LOSSLESS, raw.IMPLICIT_VR_LITTLE_ENDIAN)),
        (raw.CT_IMAGE_STORAGE, (JPEG_BASELINE, JPEG_2000_LOSSLESS)),
        (raw.CT_IMAGE_STORAGE, ("1.2.840.10008.1.2.4.100",)),
        ("1.2.3.4.5", (raw.IMPLICIT_VR_LITTLE_ENDIAN,)),
    )

    with node.connect() as client:
        answer = client.request(offers)

    results = raw.accepted(answer)
    assert results[1] == (0, raw.IMPLICIT_VR_LITTLE_ENDIAN)
    assert results[3] == (0, JPEG_2000_LOSSLESS)
    assert (results[5][0], results[7][0]) == (4, 3)


def test_we_say_who_we_are_and_what_we_can_take(node: Node) -> None:
    with node.connect() as client:
        information = raw.user_information(client.request())

    assert information[0x51] == (131072).to_bytes(4, "big")
    assert information[0x52].decode() == IMPLEMENTATION_CLASS_UID
    assert information[0x55].decode() == IMPLEMENTATION_VERSION_NAME


def test_a_dcmtk_and_a_pynetdicom_peer_can_echo_and_release(node: Node) -> None:
    entity = AE()
    entity.add_requested_context(Verification)

    association = entity.associate("127.0.0.1", node.server.port, ae_title="SEGNODE")
    status = association.send_c_echo()
    association.release()
    echoscu = subprocess.run(
        [need(ECHOSCU), "-aec", "SEGNODE", "127.0.0.1", str(node.server.port)],
        capture_output=True,
        timeout=10,
    )

    assert status.Status == 0
    assert association.is_released
    assert echoscu.returncode == 0, echoscu.stderr


# ---- rows of associations


def test_a_released_association_is_closed_after_its_last_answer(node: Node) -> None:
    with node.open() as client:
        client.store(b"abc", "1.2.3")
        client.store(b"def", "1.2.4")
        client.release()

        assert node.log.events == [("a1", "opened", 0), ("a1", "released", 2)]
    assert node.ingest.kept[0][0].association_id == "a1"


@pytest.mark.parametrize("way", ["abort", "reset", "close"])
def test_a_lost_line_keeps_what_was_acknowledged_and_nothing_else(node: Node, way: str) -> None:
    with node.open() as client:
        client.store(b"abc", "1.2.3")
        client.command(1, raw.store_command("1.2.4"))
        client.data(1, b"x" * 50_000, is_whole=False)
        assert eventually(lambda: node.ingest.open_arrivals == 1)

        {"abort": client.abort, "reset": client.reset, "close": client.connection.close}[way]()

        assert eventually(lambda: node.server.open_associations() == 0)
    assert [announced.sop_instance_uid for _, announced, _ in node.ingest.kept] == ["1.2.3"]
    assert (node.ingest.open_arrivals, node.ingest.abandoned) == (0, 1)
    assert eventually(lambda: node.log.events[-1] == ("a1", "aborted", 1))
    assert node.is_alive()


def test_an_echo_is_answered_with_its_class_padded_and_no_instance(node: Node) -> None:
    request = {
        0x0002: raw.VERIFICATION.encode(),  # odd, as a sloppy peer sends it
        0x0100: raw.us(0x0030),
        0x0110: raw.us(9),
        0x0800: raw.us(0x0101),
        0x1000: raw.uid("1.2.3"),
    }

    with node.open() as client:
        client.command(3, raw.command_set(request))
        answer = client.response()

    assert answer.pop(0x0000) == bytes([0x42, 0, 0, 0])
    assert answer == {
        0x0002: raw.uid(raw.VERIFICATION),
        0x0100: raw.us(0x8030),
        0x0120: raw.us(9),
        0x0800: raw.us(0x0101),
        0x0900: raw.us(0),
    }


def test_an_echo_opens_no_row(node: Node) -> None:
    assert node.is_alive()

    assert node.log.events == []


def test_without_an_index_callers_are_told_to_come_back(node: Node) -> None:
    node.log.is_down = True

    with node.connect() as client:
        answer = client.request()

    assert answer == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 2, 3, 1]))
    assert node.server.open_associations() == 0


def test_a_silent_association_is_aborted(serve: Serve) -> None:
    node = serve(idle_timeout_s=0.3)

    with node.open() as client:
        answer = client.read()

    assert answer.kind == raw.ABORT
    assert eventually(lambda: node.log.events[-1][1] == "aborted")


def test_a_slow_line_is_not_silence_but_a_stalled_one_is(serve: Serve) -> None:
    node = serve(idle_timeout_s=0.4)
    stalled = threading.Event()

    with node.open() as client:
        client.command(1, raw.store_command("1.2.3"))
        for _ in range(8):
            client.data(1, b"abc", is_whole=False)
            stalled.wait(0.1)
        assert node.ingest.open_arrivals == 1

        assert client.read().kind == raw.ABORT
    assert eventually(lambda: node.ingest.abandoned == 1)


def test_a_slow_ingest_is_not_silence_of_the_peer(serve: Serve) -> None:
    node = serve(idle_timeout_s=0.3)
    pause = threading.Event()
    node.ingest.before_finish = lambda: pause.wait(0.6) and None

    with node.open() as client:
        assert raw.status(client.store(b"abc")) == 0
        assert client.echo() == 0


def test_an_error_of_ours_ends_the_association_and_frees_its_slot(node: Node) -> None:
    def fail() -> None:
        raise RuntimeError("an error in the node")

    node.ingest.before_finish = fail

    with node.open() as client:
        client.command(1, raw.store_command("1.2.3"))
        client.data(1, b"abc")
        assert client.read().kind == raw.ABORT
    assert eventually(lambda: node.server.open_associations() == 0)
    assert eventually(lambda: node.log.events[-1] == ("a1", "aborted", 0))
    assert node.is_alive()


def test_open_associations_have_a_heartbeat(node: Node) -> None:
    with node.open():
        assert eventually(lambda: "a1" in node.log.beats)


def test_twenty_associations_at_once_do_not_mix_their_instances(node: Node) -> None:
    def send(number: int) -> list[int]:
        data = bytes([number]) * 200_000
        with node.open() as client:
            answers = [client.store(data, f"1.2.{number + 1}.{i + 1}") for i in range(5)]
            client.release()
        return [raw.status(answer) for answer in answers]

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(send, range(20)))

    assert statuses == [[0] * 5] * 20
    for _, announced, data in node.ingest.kept:
        number = int(announced.sop_instance_uid.split(".")[2]) - 1
        assert data == bytes([number]) * 200_000
    assert sorted(event for _, event, _ in node.log.events) == ["opened"] * 20 + ["released"] * 20


# ---- start and stop


def test_a_port_in_use_is_named(node: Node) -> None:
    settings = DimseSettings(port=node.server.port)

    with pytest.raises(ConfigInvalid, match=rf"dimse\.port: {node.server.port} .* is in use"):
        DimseServer(settings, node.ingest, node.log, CONTEXTS)


def test_an_open_port_without_peers_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"dimse\.host: 0\.0\.0\.0 can be"):
        DimseSettings(host="0.0.0.0")


def test_drain_finishes_the_instance_in_hand_and_refuses_newcomers(node: Node) -> None:
    with node.open() as client, ThreadPoolExecutor(1) as pool:
        client.command(1, raw.store_command("1.2.3"))
        client.data(1, b"abc", is_whole=False)
        assert eventually(lambda: node.ingest.open_arrivals == 1)

        draining = pool.submit(node.server.drain, 5.0)
        with node.connect() as late:
            assert eventually(lambda: node.server._admission._is_closed)
            refused = late.request()
        client.data(1, b"def")
        response = client.response()
        farewell = client.read()

        assert draining.result(5)
    assert refused == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 2, 3, 1]))
    assert raw.status(response) == 0
    assert node.ingest.kept[0][2] == b"abcdef"
    assert farewell.kind == raw.ABORT
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.server.port), 1)


def test_drain_gives_up_on_an_instance_that_never_ends(node: Node) -> None:
    with node.open() as client:
        client.command(1, raw.store_command("1.2.3"))
        client.data(1, b"abc", is_whole=False)
        assert eventually(lambda: node.ingest.open_arrivals == 1)

        assert not node.server.drain(0.2)

    assert node.ingest.abandoned == 1


def test_a_refused_instance_is_counted_and_told_with_the_address_that_it_came_from(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.ingest.rejection = InstanceRejected("no good", dimse_status=0xC000)
    before = counts.OF_PROCESS.of(counts.INSTANCES_REFUSED, "dimse", "C000")

    with node.open() as client:
        assert raw.status(client.store(b"x" * 10)) == 0xC000

    (told,) = [each for each in caplog.records if "refused a request" in each.getMessage()]
    assert told.__dict__["address"] == "127.0.0.1"
    assert counts.OF_PROCESS.of(counts.INSTANCES_REFUSED, "dimse", "C000") == before + 1


def test_a_refused_association_is_counted_by_its_reason(node: Node) -> None:
    before = counts.OF_PROCESS.of(counts.ASSOCIATIONS_REFUSED, 1, 1, 7)

    with node.connect() as stranger:
        assert stranger.request(called=b"NOBODY").kind == raw.ASSOCIATE_RJ

    assert counts.OF_PROCESS.of(counts.ASSOCIATIONS_REFUSED, 1, 1, 7) == before + 1
