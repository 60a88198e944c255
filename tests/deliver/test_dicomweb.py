"""STOW-RS to real and to misbehaving servers (F73)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from node.deliver.dicomweb import Credentials, DicomwebDestination
from node.domain.delivery import DeliveryClass
from node.domain.settings import Secret
from node.domain.tls import ClientTls
from tests.support.evil_peers import (
    StowServer,
    failed_answer,
    hanging_up,
    raw_server,
    stored_answer,
)
from tests.support.peers import Orthanc, free_port

SENT, WARNED, RETRY, REFUSED, BLOCKED = (
    DeliveryClass.SENT,
    DeliveryClass.WARNED,
    DeliveryClass.RETRY,
    DeliveryClass.REFUSED,
    DeliveryClass.BLOCKED,
)
Body = bytes | Callable[[str], bytes]


def password(value: str) -> Credentials:
    return Credentials(kind="basic", user="node", password=Secret(source="env:P", value=value))


def stow(url: str, **options: object) -> DicomwebDestination:
    return DicomwebDestination(name="archive", url=url, **options)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, stored_answer, SENT),
        (200, lambda uid: stored_answer(uid, 0xB000), WARNED),
        (200, b"", WARNED),
        (200, b"<html>signed in</html>", WARNED),
        (200, lambda uid: failed_answer(uid, 0xA700), RETRY),
        (200, lambda uid: failed_answer(uid, 0xC000), REFUSED),
        (202, stored_answer, SENT),
        (202, lambda uid: failed_answer(uid, 0x0122), BLOCKED),
        (202, lambda uid: failed_answer(uid, 0x0110), RETRY),
        (202, lambda uid: failed_answer(uid, None), REFUSED),
        (202, lambda uid: failed_answer("1.2.3", 0xC000), REFUSED),
        (202, b"", REFUSED),
        (204, b"", REFUSED),
        (301, b"", BLOCKED),
        (307, b"", BLOCKED),
        (400, b"", BLOCKED),
        (401, b"", BLOCKED),
        (403, b"", BLOCKED),
        (404, b"", BLOCKED),
        (408, b"", RETRY),
        (409, b"", BLOCKED),
        (409, lambda uid: failed_answer(uid, 0xA900), BLOCKED),
        (409, lambda uid: failed_answer(uid, 0xA700), RETRY),
        (409, lambda uid: failed_answer(uid, 0x0111), WARNED),
        (413, b"", BLOCKED),
        (429, b"", RETRY),
        (500, b"", RETRY),
        (503, b"", RETRY),
        (507, b"", RETRY),
    ],
)
def test_each_answer_ends_in_its_class(status: int, body: Body, kind, make_object) -> None:
    with StowServer(status=status, body=body).listening() as server:
        outcome = stow(server.url).send(make_object())

    assert outcome.kind is kind
    assert len(server.requests) == 1


def test_the_file_travels_whole_in_one_part(make_object) -> None:
    deliverable = make_object(size_bytes=320_000)

    with StowServer(body=stored_answer).listening() as server:
        stow(server.url).send(deliverable)

    (request,) = server.requests
    boundary = request["headers"]["Content-Type"].partition('boundary="')[2].rstrip('"').encode()
    head, part, tail = request["body"].split(b"--" + boundary)
    assert part.partition(b"\r\n\r\n")[2] == Path(deliverable.path).read_bytes() + b"\r\n"
    assert (head, tail) == (b"", b"--\r\n")
    assert request["path"] == "/dicom-web/studies"
    assert request["headers"]["Accept"] == "application/dicom+json"


def test_a_redirect_to_another_host_is_not_followed(make_object) -> None:
    with StowServer(body=stored_answer).listening() as elsewhere:
        there = {"Location": f"{elsewhere.url}/studies"}
        with StowServer(status=302, headers=there).listening() as server:
            outcome = stow(server.url).send(make_object())

    assert outcome.kind is BLOCKED
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("asked", "seconds"), [("120", 120.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None)]
)
def test_what_the_server_asks_for_is_handed_on(asked, seconds, make_object) -> None:
    with StowServer(status=503, headers={"Retry-After": asked}).listening() as server:
        outcome = stow(server.url).send(make_object())

    assert outcome.retry_after_s == seconds


def test_a_date_to_wait_for_is_counted_by_the_clock_of_the_server(make_object) -> None:
    headers = {"Date": "Wed, 21 Oct 2015 07:26:00 GMT"}
    headers["Retry-After"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    with StowServer(status=503, headers=headers).listening() as server:
        outcome = stow(server.url).send(make_object())

    assert outcome.retry_after_s == 120.0


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        (password("secret"), "Basic bm9kZTpzZWNyZXQ="),
        (password("пароль"), "Basic bm9kZTrQv9Cw0YDQvtC70Yw="),
        (Credentials(kind="token", token=Secret(source="env:T", value="abc")), "Bearer abc"),
        (Credentials(kind="none"), None),
        (None, None),
    ],
)
def test_credentials_are_those_of_the_configuration(
    auth, header, make_object, tmp_path, monkeypatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with StowServer(body=stored_answer).listening() as server:
        stow(server.url, auth=auth).send(make_object())

    assert server.requests[0]["headers"].get("Authorization") == header
    assert "secret" not in repr(auth)
    assert "abc" not in repr(auth)


def test_a_server_that_answers_before_reading_is_heard(make_object) -> None:
    with StowServer(status=401, reads=False).listening() as server:
        outcome = stow(server.url).send(make_object())

    assert outcome.kind is BLOCKED


def test_a_server_that_is_silent_is_tried_again(make_object) -> None:
    with StowServer(delay_s=1.5).listening() as server:
        outcome = stow(server.url, answer_timeout_s=0.3).send(make_object())

    assert outcome.kind is RETRY
    assert outcome.destination_sick


def test_a_line_that_is_lost_is_tried_again(make_object) -> None:
    with raw_server(hanging_up) as port:
        outcome = stow(f"http://127.0.0.1:{port}").send(make_object())

    assert outcome.kind is RETRY
    assert outcome.destination_sick


def test_nobody_listening_is_tried_again(make_object) -> None:
    outcome = stow(f"http://127.0.0.1:{free_port()}").send(make_object())

    assert outcome.kind is RETRY


def test_a_server_without_a_certificate_gets_nothing(make_object) -> None:
    with StowServer(body=stored_answer).listening() as server:
        outcome = stow(server.url.replace("http:", "https:")).send(make_object())

    assert outcome.kind is RETRY
    assert server.requests == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one file."""
    path = tmp_path / "certificate.pem"
    key = tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", str(key), "-out", str(path)],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    return path


def test_a_certificate_of_the_configured_authority_is_trusted(make_object, certificate) -> None:
    with StowServer(body=stored_answer, certificate=certificate).listening() as server:
        outcome = stow(server.url, tls=ClientTls(ca=str(certificate))).send(make_object())

    assert outcome.kind is SENT


def test_a_certificate_that_nobody_vouches_for_gets_no_object(make_object, certificate) -> None:
    with StowServer(body=stored_answer, certificate=certificate).listening() as server:
        outcome = stow(server.url).send(make_object())

    assert outcome.kind is RETRY
    assert "certificate" in outcome.sentence
    assert server.requests == []


def test_a_url_without_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="http"):
        stow("archive/dicom-web")


@pytest.mark.peers
def test_orthanc_stores_by_stow_and_says_so(make_object, tmp_path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc").start()
    try:
        destination = stow(f"{orthanc.url}/dicom-web")
        outcomes = [destination.send(make_object()) for _ in range(2)]
        objects = orthanc.segmentations()
    finally:
        orthanc.stop()

    assert [o.kind for o in outcomes] == [SENT, SENT]
    assert len(objects) == 1


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]"])
def test_nothing_goes_to_an_address_where_clouds_keep_secrets(make_object, host: str) -> None:
    destination = stow(f"http://{host}/dicom-web")

    assert destination.send(make_object()).kind is RETRY
    assert "link-local" in destination.probe().sentence
