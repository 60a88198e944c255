"""A peer that has a user identity proves it: dcmtk and pynetdicom ask, the node answers."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import CTImageStorage, Verification

from node.domain.guesses import MOST_GUESSES
from node.domain.peers import Peer, UserIdentity
from node.domain.settings import Secret
from node.observe import counts
from tests.support.memory_node import Node, Serve, serving
from tests.support.peers import STORESCU, need
from tests.support.phantoms import Phantom

SECRET = "open sesame"
WITH_PASSCODE = UserIdentity(username="pacs", passcode=Secret(source="env:P", value=SECRET))
NAME_ALONE = UserIdentity(username="pacs")


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def known_as(serve: Serve, identity: UserIdentity | None) -> Node:
    peer = Peer(name="PACS", ae_title="MAINPACS", host="127.0.0.1", user_identity=identity)
    return serve(peers=(peer,))


def storescu(node: Node, folder: Path, *options: str) -> int:
    folder.mkdir()
    files = [str(path) for path in Phantom(shape=(1, 8, 8)).write(folder)]
    command = [need(STORESCU), "-aet", "MAINPACS", "-aec", "SEGNODE", *options]
    return subprocess.run(
        [*command, "127.0.0.1", str(node.server.port), *files], capture_output=True, check=False
    ).returncode


def request(
    node: Node, kind: int, name: bytes, passcode: bytes = b"", *, wants_answer: bool = False
) -> tuple[str, tuple[int, int, int] | None, UserIdentityNegotiation | None]:
    """How pynetdicom's association ends: word, rejection, answer to the identity."""
    entity = AE(ae_title="MAINPACS")
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.secondary_field = kind, name, passcode
    item.positive_response_requested = wants_answer
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage)
    association = entity.associate(
        "127.0.0.1", node.server.port, ae_title="SEGNODE", ext_neg=[item]
    )
    if association.is_established:
        answer = association.acceptor.user_identity
        association.release()
        return "accepted", None, answer
    said = association.acceptor.primitive
    if said is None:  # at times it sees that the line is closed before it has read why
        return "unheard", None, None
    return "rejected", (said.result, said.result_source, said.diagnostic), None


# ---- dcmtk


@pytest.mark.parametrize("answer", [(), ("-rsp",)], ids=["silent", "answered"])
def test_dcmtk_signs_in_with_name_and_passcode(serve: Serve, tmp_path: Path, answer) -> None:
    node = known_as(serve, WITH_PASSCODE)

    assert storescu(node, tmp_path / "in", "-usr", "pacs", "-pwd", SECRET, *answer) == 0
    assert len(node.ingest.kept) == 1


def test_dcmtk_signs_in_with_a_name_alone(serve: Serve, tmp_path: Path) -> None:
    node = known_as(serve, NAME_ALONE)

    assert storescu(node, tmp_path / "in", "-usr", "pacs") == 0
    assert storescu(node, tmp_path / "wrong", "-usr", "other") != 0
    assert len(node.ingest.kept) == 1


@pytest.mark.parametrize(
    "options",
    [(), ("-usr", "pacs"), ("-usr", "pacs", "-pwd", "guess"), ("-usr", "other", "-pwd", SECRET)],
    ids=["nothing", "name alone", "wrong passcode", "wrong name"],
)
def test_whoever_does_not_prove_it_is_refused(serve: Serve, tmp_path: Path, options) -> None:
    node = known_as(serve, WITH_PASSCODE)

    assert storescu(node, tmp_path / "in", *options) != 0
    assert node.ingest.kept == []


def test_a_peer_without_user_identity_may_say_what_it_likes(serve: Serve, tmp_path: Path) -> None:
    node = known_as(serve, None)

    assert storescu(node, tmp_path / "in", "-usr", "anybody", "-pwd", "x") == 0


# ---- pynetdicom


def test_the_rejection_is_permanent_by_the_provider_without_a_reason(serve: Serve) -> None:
    node = known_as(serve, WITH_PASSCODE)

    assert request(node, 2, b"pacs", b"guess") == ("rejected", (1, 2, 1), None)


def test_an_answer_is_given_to_whoever_wants_one(serve: Serve) -> None:
    node = known_as(serve, WITH_PASSCODE)

    _, _, answer = request(node, 2, b"pacs", SECRET.encode(), wants_answer=True)
    _, _, none = request(node, 2, b"pacs", SECRET.encode())

    assert answer is not None
    assert answer.server_response == b""
    assert none is None


def test_nobody_is_told_to_be_known_where_nobody_looked(serve: Serve) -> None:
    node = known_as(serve, None)

    assert request(node, 2, b"pacs", b"x", wants_answer=True) == ("accepted", None, None)


@pytest.mark.parametrize("kind", [3, 4, 5], ids=["Kerberos", "SAML", "JWT"])
def test_what_is_not_supported_is_refused_with_a_sentence(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: int
) -> None:
    node = known_as(serve, WITH_PASSCODE)

    assert request(node, kind, b"ticket")[0] == "rejected"
    assert "Kerberos, SAML and JWT are not supported" in caplog.text


def test_whoever_guesses_has_to_wait_even_with_the_right_one(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    node = known_as(serve, WITH_PASSCODE)
    before = counts.OF_PROCESS.of(counts.SIGN_INS_FAILED, "dimse")
    for _ in range(MOST_GUESSES):
        request(node, 2, b"pacs", b"guess")

    assert request(node, 2, b"pacs", SECRET.encode())[0] == "rejected"
    assert "too many wrong ones came before" in caplog.text
    assert counts.OF_PROCESS.of(counts.SIGN_INS_FAILED, "dimse") == before + MOST_GUESSES + 1


def test_neither_names_nor_passcodes_stand_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "node")
    node = known_as(serve, WITH_PASSCODE)
    request(node, 2, b"guessed-user", b"guessed-secret")
    request(node, 2, b"pacs", SECRET.encode())

    told = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "PACS" in told
    assert not any(each in told for each in ("guessed-user", "guessed-secret", SECRET))
    assert SECRET not in repr(WITH_PASSCODE)
