"""Pages of other sites get nothing out of this node by somebody's browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from node.web.guard import Guard
from tests.support.http_server import Answer, Site, read_answer, serving


async def _done(_: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


PLAIN = Starlette(routes=[Route("/", _done, methods=["GET", "POST", "DELETE"])])


@pytest.fixture
def loopback() -> Iterator[Site]:
    with serving(Guard(PLAIN, hosts=(), is_open=True)) as site:
        yield site


def ask(site: Site, method: str = "GET", host: str = "127.0.0.1", **headers: str) -> Answer:
    lines = [f"{method} / HTTP/1.1", f"Host: {host}", "Content-Length: 0", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with site.connect() as line:
        line.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return read_answer(line)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "localhost:8080", "[::1]:8080", "LOCALHOST"]
)
def test_names_of_the_loopback_interface_are_taken(loopback: Site, host: str) -> None:
    assert ask(loopback, host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", "10.0.0.5"])
def test_a_name_that_leads_here_by_force_is_refused(loopback: Site, host: str) -> None:
    answer = ask(loopback, host=host)

    assert answer.status == 403
    assert b"web.hosts" in answer.body


def test_names_are_those_of_the_configuration() -> None:
    with serving(Guard(PLAIN, hosts=("Node.example",), is_open=False)) as site:
        assert ask(site, host="node.example:8080").status == 200
        assert ask(site, host="127.0.0.1").status == 200
        assert ask(site, host="evil.example").status == 403


def test_who_signs_in_may_use_any_name_where_none_is_configured() -> None:
    with serving(Guard(PLAIN, hosts=(), is_open=False)) as site:
        assert ask(site, host="whatever.example").status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),
        ("POST", {"Origin": "http://127.0.0.1:8080"}, 200),
        ("POST", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("POST", {"Origin": "https://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("DELETE", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("GET", {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}, 200),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    loopback: Site, method: str, headers: dict[str, str], status: int
) -> None:
    assert ask(loopback, method, **headers).status == status


def test_every_answer_says_that_it_is_to_be_framed_kept_and_guessed_by_nobody(
    loopback: Site,
) -> None:
    for answer in (ask(loopback), ask(loopback, host="evil.example")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
