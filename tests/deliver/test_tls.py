"""Results over TLS: to dcmtk and to HTTPS, and what is said where the other side cannot be trusted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.deliver.send_folder import SendState, send_folder
from node.domain.delivery import DeliveryClass
from node.domain.tls import PeerTls
from tests.support.certificates import Authority, Signed
from tests.support.evil_peers import StoreScp
from tests.support.peers import free_port, need
from tests.support.waiting import wait_for

STORESCP = "/usr/bin/storescp"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def storescp(inbox: Path, shown: Signed, authority: Authority) -> Iterator[int]:
    """dcmtk's, which asks for a certificate of the authority; its port."""
    port = free_port()
    command = [need(STORESCP), "+B", "+xe", "-od", str(inbox), "-aet", "EVIL"]
    command += ["+tls", str(shown.key), str(shown.certificate), "+cf", str(authority.file)]
    inbox.mkdir()
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def peer_tls(authority: Authority, shown: Signed | None = None, name: str = "") -> PeerTls:
    certificate, key = (str(shown.certificate), str(shown.key)) if shown else ("", "")
    return PeerTls(ca=str(authority.file), certificate=certificate, key=key, name=name)


def test_dcmtk_takes_a_result_over_tls(make_object, dimse, authority, tmp_path) -> None:
    own = authority.sign("127.0.0.1")
    with storescp(tmp_path / "inbox", own, authority) as port:
        to = dimse(port, tls=peer_tls(authority, own))
        outcome = wait_for("storescp", lambda: (end := to.send(make_object())).is_done and end)
        probe = to.probe()

    assert outcome.kind is DeliveryClass.SENT
    assert len(list((tmp_path / "inbox").iterdir())) == 1
    assert "answers C-ECHO" in probe.sentence or "takes segmentations" in probe.sentence


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("authority", "self-signed|local issuer"),
        ("name", "other.example"),
        ("expired", "expired"),
        ("none shown", "certificate required|handshake failure|eof"),
    ],
)
def test_who_cannot_be_trusted_gets_no_result_and_the_list_says_why(
    make_object, dimse, authority, tmp_path, wrong: str, says: str
) -> None:
    own = authority.sign("127.0.0.1")
    theirs = authority.sign("127.0.0.1", days=-2) if wrong == "expired" else own
    stranger = Authority(tmp_path, "stranger")
    tls = {
        "authority": PeerTls(
            ca=str(stranger.file), certificate=str(own.certificate), key=str(own.key)
        ),
        "name": peer_tls(authority, own, "other.example"),
        "expired": peer_tls(authority, own),
        "none shown": peer_tls(authority),
    }[wrong]
    with storescp(tmp_path / "inbox", theirs, authority) as port:
        to = dimse(port, tls=tls)
        outcome = wait_for(
            "storescp", lambda: "no TLS" in (e := to.send(make_object())).sentence and e
        )
        probe = to.probe()
        (report,) = send_folder(to, Path(make_object().path))

    assert outcome.kind is DeliveryClass.RETRY
    assert outcome.destination_sick
    for sentence in (outcome.sentence, probe.sentence, report.comment):
        assert any(word in sentence for word in says.split("|")), sentence
    assert report.state is SendState.NOT_SENT
    assert list((tmp_path / "inbox").iterdir()) == []


def test_who_speaks_no_tls_is_told(make_object, dimse, authority) -> None:
    with StoreScp().listening() as peer:
        outcome = dimse(peer.port, tls=peer_tls(authority)).send(make_object())

    assert outcome.kind is DeliveryClass.RETRY
    assert "TLS" in outcome.sentence
    assert peer.stored == []


def test_a_file_of_tls_that_is_gone_makes_results_wait(make_object, dimse, tmp_path) -> None:
    tls = PeerTls(ca=str(tmp_path / "nothing.pem"))

    outcome = dimse(free_port(), tls=tls).send(make_object())

    assert outcome.kind is DeliveryClass.RETRY
    assert "files of TLS" in outcome.sentence
