"""DIMSE over TLS: who is let in, what is spoken, and that nobody waits for a handshake."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from node.domain.errors import ConfigInvalid
from node.domain.peers import Peer
from node.domain.tls import ClientTls, PeerTls, ServerTls
from node.tls import PortTls, client_context
from tests.support import raw_dimse as raw
from tests.support.certificates import Authority, Signed
from tests.support.memory_node import Node, Serve, serving
from tests.support.peers import ECHOSCU, STORESCU, need
from tests.support.phantoms import Phantom
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import PATIENCE_S, eventually

OPENSSL = "/usr/bin/openssl"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> Signed:
    """The certificate of the node."""
    return authority.sign("127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def port_tls(own: Signed, **more: object) -> ServerTls:
    return ServerTls(certificate=str(own.certificate), key=str(own.key), **more)  # type: ignore[arg-type]


def mutual(own: Signed, authority: Authority, client: str = "required") -> ServerTls:
    return port_tls(own, ca=str(authority.file), client=client)


def calling(authority: Authority, shown: Signed | None = None) -> ssl.SSLContext:
    certificate, key = (str(shown.certificate), str(shown.key)) if shown else ("", "")
    return client_context(ClientTls(ca=str(authority.file), certificate=certificate, key=key))


def echo_status(node: Node, context: ssl.SSLContext, *, title: str = "CALLER") -> int | None:
    """The status of a C-ECHO over TLS; None where no association came about."""
    try:
        with RawAssociation(node.server.tls_port, tls=context) as client:
            if client.request(calling=title.encode()).kind != raw.ASSOCIATE_AC:
                return None
            status = client.echo(3)
            client.release()
            return status
    except OSError:
        return None


def dcmtk(
    node: Node, authority: Authority, shown: Signed, *arguments: str
) -> subprocess.CompletedProcess[str]:
    program, *rest = arguments
    return subprocess.run(
        [
            *(need(program), "-aec", "SEGNODE", "+tls", str(shown.key), str(shown.certificate)),
            *("+cf", str(authority.file), "127.0.0.1", str(node.server.tls_port), *rest),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def openssl(node: Node, *arguments: str) -> str:
    """What ``openssl s_client`` says of a handshake."""
    done = subprocess.run(
        [need(OPENSSL), "s_client", "-connect", f"127.0.0.1:{node.server.tls_port}", *arguments],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


# --- what is spoken ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_tls_1_2_and_1_3_are_spoken(serve: Serve, own: Signed, version: str) -> None:
    node = serve(tls=port_tls(own))

    said = openssl(node, version)

    assert "Cipher is (NONE)" not in said
    assert "GCM" in said or "CHACHA20" in said


@pytest.mark.parametrize(
    "asked",
    [
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES128-SHA"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"),
    ],
)
def test_old_versions_and_weak_ciphers_are_not(
    serve: Serve, own: Signed, asked: tuple[str, ...]
) -> None:
    node = serve(tls=port_tls(own))

    assert "alert" in openssl(node, *asked)


def test_dcmtk_stores_over_tls_what_it_has(
    serve: Serve, own: Signed, authority: Authority, tmp_path: Path
) -> None:
    node = serve(tls=mutual(own, authority))
    phantom = Phantom(shape=(3, 700, 700))
    phantom.write(tmp_path / "ct")
    files = sorted(map(str, (tmp_path / "ct").iterdir()))

    echoed = dcmtk(node, authority, own, ECHOSCU)
    stored = dcmtk(node, authority, own, STORESCU, *files)

    assert echoed.returncode == 0, echoed.stderr
    assert stored.returncode == 0, stored.stderr
    assert [len(data) > 900_000 for _, _, data in node.ingest.kept] == [True] * 3


def test_a_plain_port_may_stay_beside_it(serve: Serve, own: Signed, authority: Authority) -> None:
    node = serve(tls=port_tls(own), tls_port=0)

    assert node.server.port != node.server.tls_port
    assert node.is_alive()
    assert echo_status(node, calling(authority)) == 0


def test_plain_to_tls_and_tls_to_plain_end_at_once_and_harm_nobody(
    serve: Serve, own: Signed, authority: Authority
) -> None:
    node = serve(tls=port_tls(own), tls_port=0)
    with closing(socket.create_connection(("127.0.0.1", node.server.tls_port))) as plain:
        plain.sendall(raw.pdu(raw.RELEASE_RQ, bytes(4)))
        plain.settimeout(PATIENCE_S)
        with suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"\x02")
    with pytest.raises(ssl.SSLError):
        RawAssociation(node.server.port, tls=calling(authority))

    assert node.is_alive()
    assert echo_status(node, calling(authority)) == 0


# --- who is let in -------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["none", "of another authority", "expired"])
def test_who_shows_no_good_certificate_is_refused_and_the_log_says_why(
    serve: Serve,
    own: Signed,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    shown: str,
) -> None:
    node = serve(tls=mutual(own, authority))
    certificates = {
        "none": None,
        "of another authority": Authority(tmp_path, "stranger").sign("127.0.0.1"),
        "expired": authority.sign("127.0.0.1", days=-3),
    }

    with caplog.at_level(logging.WARNING, "node.receive"):
        status = echo_status(node, calling(authority, certificates[shown]))

        assert status is None
        assert eventually(lambda: "no TLS: " in caplog.text)
    assert echo_status(node, calling(authority, own)) == 0


@pytest.mark.parametrize(
    ("client", "shows", "status"),
    [("optional", False, 0), ("optional", True, 0), ("required", True, 0)],
)
def test_an_optional_certificate_may_be_left_out(
    serve: Serve, own: Signed, authority: Authority, client: str, shows: bool, status: int
) -> None:
    node = serve(tls=mutual(own, authority, client))

    assert echo_status(node, calling(authority, own if shows else None)) == status


def test_a_caller_is_the_peer_whose_certificate_it_shows(
    serve: Serve, own: Signed, authority: Authority
) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", tls=PeerTls(name="PACS.example"))
    node = serve(tls=mutual(own, authority, "optional"), tls_port=0, peers=(peer,))
    pacs, other = authority.sign("pacs.example"), authority.sign("other.example")

    assert echo_status(node, calling(authority, pacs), title="PACS") == 0
    assert echo_status(node, calling(authority, other), title="PACS") is None
    assert echo_status(node, calling(authority), title="PACS") is None
    with node.connect() as plain:
        assert plain.request(calling=b"PACS") == raw.Pdu(raw.ASSOCIATE_RJ, bytes([0, 1, 1, 3]))


# --- time ----------------------------------------------------------------------------------------


def test_nobody_waits_for_handshakes_of_others(
    serve: Serve, own: Signed, authority: Authority
) -> None:
    node = serve(tls=port_tls(own), negotiation_timeout_s=60.0)
    silent = [socket.create_connection(("127.0.0.1", node.server.tls_port)) for _ in range(60)]
    hello = bytes.fromhex("1603010200010001fc0303")
    for line in silent[::2]:
        line.sendall(hello)  # and nothing more
    try:
        began = time.monotonic()
        assert echo_status(node, calling(authority)) == 0
        assert time.monotonic() - began < 5.0  # they would hold it for a minute
    finally:
        for line in silent:
            line.close()


def test_a_handshake_that_does_not_end_is_cut(serve: Serve, own: Signed) -> None:
    node = serve(tls=port_tls(own), negotiation_timeout_s=0.3)
    with closing(socket.create_connection(("127.0.0.1", node.server.tls_port))) as line:
        line.settimeout(PATIENCE_S)
        assert line.recv(1) == b""


# --- renewed files -------------------------------------------------------------------------------


def serial_shown(node: Node, context: ssl.SSLContext) -> object:
    with (
        closing(socket.create_connection(("127.0.0.1", node.server.tls_port))) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        certificate = line.getpeercert()
    return certificate["serialNumber"] if certificate else None


def test_a_renewed_certificate_is_shown_without_a_restart(
    serve: Serve, own: Signed, authority: Authority
) -> None:
    node = serve(tls=port_tls(own))
    context = calling(authority)
    before = serial_shown(node, context)

    authority.sign("127.0.0.1", at=own.certificate)

    assert eventually(lambda: serial_shown(node, context) not in (before, None))


def test_an_authority_that_is_taken_out_vouches_for_nobody_any_more(
    serve: Serve, own: Signed, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    other = Authority(tmp_path, "other")
    trusted.write_bytes(authority.file.read_bytes() + other.file.read_bytes())
    node = serve(tls=port_tls(own, ca=str(trusted), client="required"))
    stranger = calling(authority, other.sign("127.0.0.1"))
    assert echo_status(node, stranger) == 0

    trusted.write_bytes(authority.file.read_bytes())

    assert eventually(lambda: echo_status(node, stranger) is None)
    assert echo_status(node, calling(authority, own)) == 0


def test_a_renewal_that_is_no_certificate_leaves_the_old_one_in_force(
    serve: Serve, own: Signed, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    node = serve(tls=port_tls(own))
    own.certificate.write_text("-----BEGIN half a file")

    with caplog.at_level(logging.ERROR, "node.tls"):
        assert eventually(
            lambda: echo_status(node, calling(authority)) == 0 and "in force" in caplog.text
        )


# --- files that cannot be used -------------------------------------------------------------------


def test_what_cannot_be_used_is_told_by_its_place_before_the_port_opens(
    own: Signed, authority: Authority, tmp_path: Path
) -> None:
    nothing = str(tmp_path / "nothing.pem")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    other = authority.sign("other.example")

    def mistakes(**files: str) -> dict[str, str]:
        with pytest.raises(ConfigInvalid) as invalid:
            PortTls(
                ServerTls(**{"certificate": str(own.certificate), "key": str(own.key)} | files),  # type: ignore[arg-type]
                "dimse.tls",
            )
        return dict(invalid.value.mistakes)

    assert mistakes(key=nothing) == {
        "dimse.tls.key": f"{nothing} cannot be read: No such file or directory"
    }
    assert mistakes(certificate=str(text)).keys() == {"dimse.tls.certificate"}
    assert mistakes(key=str(other.key)) == {
        "dimse.tls.key": f"{other.key} is not the key of {own.certificate}"
    }
    assert mistakes(ca=str(text), client="required") == {
        "dimse.tls.ca": f"{text} holds no certificates in PEM"
    }
