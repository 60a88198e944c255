"""C-STORE to real and to misbehaving peers (A8, F72)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT

from node.deliver.dimse import (
    AssociationEnd,
    classify_association,
    implicit_destinations,
    rejection_of,
    send_c_store,
)
from node.domain.delivery import DeliveryClass
from node.domain.peers import Peer, UserIdentity
from node.domain.settings import Secret
from tests.support.evil_peers import StoreScp, hanging_up, raw_server, rejecting, silent
from tests.support.peers import Orthanc, free_port, need
from tests.support.waiting import wait_for

SENT, WARNED, RETRY, REFUSED, BLOCKED = (
    DeliveryClass.SENT,
    DeliveryClass.WARNED,
    DeliveryClass.RETRY,
    DeliveryClass.REFUSED,
    DeliveryClass.BLOCKED,
)


@pytest.fixture(scope="module")
def peer_of_every_answer() -> Iterator[StoreScp]:
    with StoreScp().listening() as peer:
        yield peer


def data_set_bytes(path: str) -> bytes:
    """What follows preamble and group 0002."""
    whole = Path(path).read_bytes()
    group_length = int.from_bytes(whole[140:144], "little")
    return whole[144 + group_length :]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, SENT),
        (0xB000, WARNED),
        (0xB006, WARNED),
        (0xB007, WARNED),
        (0x0107, WARNED),
        (0x0111, WARNED),
        (0xA700, RETRY),
        (0xA7FF, RETRY),
        (0x0110, RETRY),
        (0x0213, RETRY),
        (0xC000, REFUSED),
        (0xCFFF, REFUSED),
        (0xFFFF, REFUSED),
        (0x0122, BLOCKED),
        (0x0124, BLOCKED),
        (0x0117, BLOCKED),
        (0xA900, BLOCKED),
        (0xA9FF, BLOCKED),
    ],
)
def test_each_status_on_the_wire_ends_in_its_class(
    status, kind, make_object, dimse, peer_of_every_answer
) -> None:
    peer_of_every_answer.answer = status

    outcome = dimse(peer_of_every_answer.port).send(make_object())

    assert (outcome.kind, outcome.status) == (kind, status)


def test_bytes_travel_as_they_are_in_the_file(make_object, dimse) -> None:
    deliverable = make_object(size_bytes=320_000)

    with StoreScp().listening() as peer:
        outcome = dimse(peer.port).send(deliverable)

    assert outcome.kind is SENT
    assert peer.stored == [(deliverable.sop_instance_uid, data_set_bytes(deliverable.path))]


@pytest.mark.parametrize(("result", "kind"), [(1, BLOCKED), (2, RETRY)])
def test_a_rejected_association_blocks_for_good_or_waits(result, kind, make_object, dimse) -> None:
    with raw_server(rejecting(result)) as port:
        outcome = dimse(port).send(make_object())

    assert outcome.kind is kind
    assert "rejected the association" in outcome.sentence


def test_a_peer_without_the_segmentation_class_blocks(make_object, dimse) -> None:
    with StoreScp(sop_classes=(CTImageStorage,)).listening() as peer:
        outcome = dimse(peer.port).send(make_object())

    assert outcome.kind is BLOCKED
    assert "no presentation context" in outcome.sentence
    assert not outcome.destination_sick


@pytest.mark.parametrize("misdeed", ["abort", "drop", "abort at once"])
def test_a_line_lost_before_the_answer_is_tried_again(misdeed, make_object, dimse) -> None:
    with StoreScp(misdeed=misdeed).listening() as peer:
        outcome = dimse(peer.port).send(make_object())

    assert (outcome.kind, outcome.destination_sick) == (RETRY, True)


@pytest.mark.parametrize("talk", [hanging_up, silent(3.0)])
def test_a_peer_that_negotiates_nothing_is_tried_again(talk, make_object, dimse) -> None:
    with raw_server(talk) as port:
        outcome = dimse(port, negotiate_timeout_s=0.5).send(make_object())

    assert outcome.kind is RETRY
    assert outcome.destination_sick


def test_a_peer_that_never_answers_the_store_is_tried_again(make_object, dimse) -> None:
    with StoreScp(delay_s=2.0).listening() as peer:
        outcome = dimse(peer.port, answer_timeout_s=0.3).send(make_object())

    assert outcome.kind is RETRY
    assert "did not answer in time" in outcome.sentence


def test_nobody_listening_is_tried_again(make_object, dimse) -> None:
    outcome = dimse(free_port()).send(make_object())

    assert outcome.kind is RETRY
    assert "no connection" in outcome.sentence


def test_a_host_without_an_address_is_tried_again(make_object, dimse) -> None:
    outcome = dimse(104, host="no-such-host.invalid").send(make_object())

    assert outcome.kind is RETRY


def test_a_peer_with_the_default_syntax_only_gets_the_same_attributes(make_object, dimse) -> None:
    deliverable = make_object()

    with StoreScp(syntaxes=(ImplicitVRLittleEndian,)).listening() as peer:
        outcome = dimse(peer.port).send(deliverable)

    assert outcome.kind is SENT
    assert dcmread(deliverable.path).PixelData in peer.stored[0][1]


def test_a_result_whose_file_is_gone_blocks_without_a_call(make_object, dimse) -> None:
    lost = make_object()
    Path(lost.path).unlink()

    with StoreScp().listening() as peer:
        outcome = dimse(peer.port).send(lost)

    assert (outcome.kind, peer.associations) == (BLOCKED, 0)


@pytest.mark.parametrize("title", ["A\\B", " ", "X" * 17, "Ä"])
def test_a_name_that_is_no_ae_title_calls_nobody(dimse, title) -> None:
    with pytest.raises(ValueError, match="calling_ae_title: an AE title has 1 to 16"):
        dimse(104, calling_ae_title=title)


def test_nagle_is_off_while_an_object_travels(make_object, dimse, monkeypatch) -> None:
    import socket

    options: list[tuple[int, ...]] = []
    original = socket.socket.setsockopt

    def spy(self: socket.socket, *arguments: int) -> None:
        options.append(arguments)
        original(self, *arguments)

    monkeypatch.setattr(socket.socket, "setsockopt", spy)
    with StoreScp().listening() as peer:
        dimse(peer.port).send(make_object())

    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in options


@pytest.mark.peers
def test_dcmtk_storescp_takes_the_object(make_object, dimse, tmp_path) -> None:
    deliverable, port = make_object(size_bytes=128_000), free_port()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    server = subprocess.Popen(
        [need("/usr/bin/storescp"), "+B", "+xe", "-od", str(inbox), "-aet", "EVIL", str(port)]
    )
    try:
        outcome = wait_for(
            "storescp", lambda: (end := dimse(port).send(deliverable)).is_done and end
        )
    finally:
        server.terminate()
        server.wait()

    (received,) = inbox.iterdir()
    assert outcome.kind is SENT
    assert dcmread(received).PixelData == dcmread(deliverable.path).PixelData
    assert dcmread(received).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.peers
def test_orthanc_holds_one_object_however_often_it_is_sent(make_object, dimse, tmp_path) -> None:
    deliverable = make_object()
    orthanc = Orthanc(tmp_path / "orthanc").start()
    try:
        destination = dimse(orthanc.dicom_port, ae_title="ORTHANC")
        outcomes = [destination.send(deliverable) for _ in range(2)]
        objects = orthanc.segmentations()
    finally:
        orthanc.stop()

    assert all(outcome.is_done for outcome in outcomes)
    assert len(objects) == 1


def test_peers_without_reply_are_destinations_of_their_own() -> None:
    peers = [
        Peer(name="PACS", ae_title="MAINPACS", host="10.0.0.5", port=104, reply_to="pacs"),
        Peer(name="CT1", ae_title="CT1", host="10.0.0.7", port=11112),
        Peer(name="portal", http_user="portal"),
    ]

    made = implicit_destinations(peers, "SEGNODE")

    assert list(made) == ["peer:CT1"]
    assert (made["peer:CT1"].peer.host, made["peer:CT1"].calling_ae_title) == (
        "10.0.0.7",
        "SEGNODE",
    )


def test_only_a_sick_destination_opens_its_breaker() -> None:
    sick = {end: classify_association(end).destination_sick for end in AssociationEnd}

    assert not sick[AssociationEnd.NO_CONTEXT]
    assert not sick[AssociationEnd.REJECTED_PERMANENT]
    assert sick[AssociationEnd.UNREACHABLE]


# --- races of pynetdicom -------------------------------------------------------------------------


class Parked(Association):
    """An association whose reactor was told to go on and has not woken up yet."""

    def __init__(self) -> None:
        super().__init__(AE(), "requestor")
        self._is_paused = True
        self.was_running: list[bool] = []

    def is_alive(self) -> bool:
        return True

    def wake(self) -> None:
        self._is_paused = False

    def send_c_store(self, *_: object, **__: object) -> Dataset:
        self.was_running.append(not self._is_paused)
        return Dataset()


def test_a_request_waits_until_the_reactor_runs_again() -> None:
    association = Parked()
    assert association._reactor_checkpoint.is_set()
    Timer(0.05, association.wake).start()

    send_c_store(association, Dataset(), 1)

    assert association.was_running == [True]


def test_a_pynetdicom_without_such_a_reactor_is_not_waited_for() -> None:
    association = Parked()
    del association._reactor_checkpoint

    send_c_store(association, Dataset(), 1)

    assert association.was_running == [False]


def test_a_dead_association_is_not_waited_for() -> None:
    association = Parked()
    association.is_alive = lambda: False  # type: ignore[method-assign]
    done = Event()

    send_c_store(association, Dataset(), 1)
    done.set()

    assert done.is_set()
    assert association.was_running == [False]


def test_a_rejection_that_the_requesting_thread_did_not_see_is_found() -> None:
    association = Association(AE(), "requestor")
    unread = A_ASSOCIATE()
    unread.result, unread.result_source, unread.diagnostic = 0x01, 0x01, 0x07
    association.dul.to_user_queue.put(unread)

    assert rejection_of(association) is unread


def test_a_lost_line_is_no_rejection() -> None:
    association = Association(AE(), "requestor")
    assert rejection_of(association) is None

    association.dul.to_user_queue.put(A_P_ABORT())

    assert rejection_of(association) is None


# ---- user identity


@contextmanager
def asking(seen: list[tuple[int, bytes, bytes]]) -> Iterator[int]:
    """An SCP of pynetdicom that knows one user; its port."""

    def judge(event: evt.Event) -> tuple[bool, None]:
        seen.append((event.user_id_type, event.primary_field, event.secondary_field))
        return seen[-1][1:] == (b"segnode", b"open sesame"), None

    entity = AE(ae_title="EVIL")
    entity.add_supported_context(SegmentationStorage)
    handlers = [(evt.EVT_USER_ID, judge), (evt.EVT_C_STORE, lambda _: 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def test_a_destination_is_told_who_calls(make_object, dimse) -> None:
    right = UserIdentity(username="segnode", passcode=Secret(source="env:S", value="open sesame"))
    seen: list[tuple[int, bytes, bytes]] = []
    with asking(seen) as port:
        ends = [
            dimse(port, user_identity=who).send(make_object()).kind
            for who in (right, UserIdentity(username="segnode"))
        ]

    assert ends == [SENT, RETRY]  # pynetdicom's rejection is transient
    assert seen == [(2, b"segnode", b"open sesame"), (1, b"segnode", b"")]


def test_dcmtk_takes_results_of_a_node_that_says_who_it_is(make_object, dimse, tmp_path) -> None:
    port = free_port()
    command = [need("/usr/bin/storescp"), "+B", "+xe", "-od", str(tmp_path), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        to = dimse(port, user_identity=UserIdentity(username="segnode"))
        outcome = wait_for("storescp", lambda: (end := to.send(make_object())).is_done and end)
    finally:
        process.terminate()
        process.wait()

    assert outcome.kind is SENT
