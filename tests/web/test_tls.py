"""HTTPS: what is spoken, who is let in, and files that are renewed under load."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from node.domain.tls import ClientTls, ServerTls
from node.tls import client_context
from tests.support.certificates import Authority, Signed
from tests.support.http_server import Site, serving
from tests.support.peers import need
from tests.support.waiting import eventually

CURL = "/usr/bin/curl"
OPENSSL = "/usr/bin/openssl"


async def _answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


APPLICATION = Starlette(routes=[Route("/", _answer, methods=["GET", "POST"])])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> Signed:
    return authority.sign("127.0.0.1")


@pytest.fixture
def site(own: Signed) -> Iterator[Site]:
    tls = ServerTls(certificate=str(own.certificate), key=str(own.key))
    with serving(APPLICATION, tls=tls) as running:
        yield running


def serial_shown(site: Site, authority: Authority) -> str:
    context = client_context(ClientTls(ca=str(authority.file)))
    with (
        closing(socket.create_connection(("127.0.0.1", site.port))) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        certificate = line.getpeercert()
    assert certificate
    return str(certificate["serialNumber"])


def test_a_large_body_arrives_over_https(site: Site, authority: Authority) -> None:
    answer = requests.post(
        f"https://127.0.0.1:{site.port}/",
        data=bytes(5_000_000),
        verify=str(authority.file),
        timeout=60,
    )

    assert answer.text == "5000000"


@pytest.mark.parametrize(
    ("version", "is_spoken"),
    [("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)],
)
def test_versions(site: Site, version: str, is_spoken: bool) -> None:
    weak = ["-cipher", "ALL:@SECLEVEL=0"] if not is_spoken else []
    done = subprocess.run(
        [need(OPENSSL), "s_client", "-connect", f"127.0.0.1:{site.port}", version, *weak],
        input="", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert "CONNECTED" in done.stdout
    assert ("Cipher is (NONE)" not in done.stdout) == is_spoken


def test_curl_trusts_the_authority_and_no_other(site: Site, authority: Authority) -> None:
    def curl(*more: str) -> int:
        command = [need(CURL), "-sS", *more, f"https://127.0.0.1:{site.port}/"]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    assert curl("--cacert", str(authority.file)) == 0
    assert curl() == 60  # the certificate cannot be verified


@pytest.mark.parametrize("shown", ["none", "of another authority", "expired", "good"])
def test_a_certificate_may_be_required(
    own: Signed, authority: Authority, tmp_path: Path, shown: str
) -> None:
    signed = {
        "none": None,
        "of another authority": Authority(tmp_path, "stranger").sign("127.0.0.1"),
        "expired": authority.sign("127.0.0.1", days=-2),
        "good": own,
    }[shown]
    tls = ServerTls(
        certificate=str(own.certificate),
        key=str(own.key),
        ca=str(authority.file),
        client="required",
    )
    with serving(APPLICATION, tls=tls) as site:

        def status() -> int | None:
            try:
                return requests.get(
                    f"https://127.0.0.1:{site.port}/",
                    verify=str(authority.file),
                    cert=(str(signed.certificate), str(signed.key)) if signed else None,
                    timeout=60,
                ).status_code
            except requests.ConnectionError:
                return None

        assert status() == (200 if shown == "good" else None)


def test_a_certificate_is_renewed_under_load(site: Site, own: Signed, authority: Authority) -> None:
    before = serial_shown(site, authority)
    is_over, answers = threading.Event(), []

    def ask() -> None:
        while not is_over.is_set():
            with requests.get(
                f"https://127.0.0.1:{site.port}/", verify=str(authority.file), timeout=60
            ) as answer:
                answers.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    authority.sign("127.0.0.1", at=own.certificate)
    try:
        assert eventually(lambda: serial_shown(site, authority) != before)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}


def test_an_authority_that_is_taken_out_vouches_for_nobody_any_more(
    own: Signed, authority: Authority, tmp_path: Path
) -> None:
    trusted, other = tmp_path / "trusted.pem", Authority(tmp_path, "other")
    trusted.write_bytes(authority.file.read_bytes() + other.file.read_bytes())
    shown = other.sign("127.0.0.1")
    tls = ServerTls(
        certificate=str(own.certificate), key=str(own.key), ca=str(trusted), client="required"
    )
    context = client_context(
        ClientTls(ca=str(authority.file), certificate=str(shown.certificate), key=str(shown.key))
    )
    with serving(APPLICATION, tls=tls) as site:

        def is_let_in() -> bool:
            try:
                with (
                    closing(socket.create_connection(("127.0.0.1", site.port))) as plain,
                    context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
                ):
                    line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return line.recv(100).startswith(b"HTTP/1.1 200")
            except (ssl.SSLError, ConnectionError):
                return False

        assert is_let_in()
        trusted.write_bytes(authority.file.read_bytes())
        assert eventually(lambda: not is_let_in())
