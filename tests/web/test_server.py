"""The HTTP server among peers that do not ask, drip, or do not read."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from node.domain.limits import WebLimits
from tests.support.http_server import Site, read_answer, serving
from tests.support.waiting import PATIENCE_S, eventually

MEGABYTE = b"x" * 1_000_000


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def _slow(request: Request) -> PlainTextResponse:
    """Reads the first piece, and the rest when half a second has passed."""
    length = 0
    async for piece in request.stream():
        if not length:
            await asyncio.sleep(0.5)
        length += len(piece)
    return PlainTextResponse(str(length))


async def _much(_: Request) -> PlainTextResponse:
    return PlainTextResponse(MEGABYTE * 60)


APPLICATION = Starlette(
    routes=[
        Route("/", _length, methods=["GET", "POST"]),
        Route("/healthz", _length),
        Route("/much", _much),
        Route("/slow", _slow, methods=["POST"]),
    ]
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(APPLICATION) as running:
        yield running


def get(site: Site, path: str = "/") -> int:
    with site.connect() as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n".encode())
        return read_answer(line).status


@contextmanager
def lines(site: Site, number: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = [stack.enter_context(site.connect()) for _ in range(number)]
        for line in found:
            line.sendall(first)
        yield found


def is_ended(line: socket.socket) -> bool:
    line.settimeout(PATIENCE_S)
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["silent", "half a request"])
def test_who_asks_is_answered_whatever_others_hold_open(site: Site, first: bytes) -> None:
    with lines(site, 300, first):
        statuses = [get(site), get(site, "/healthz")]

    assert statuses == [200, 200]


def test_of_too_many_from_one_address_the_one_that_waited_longest_makes_room() -> None:
    few = WebLimits(idle_connections_per_address=3)
    with serving(APPLICATION, limits=few) as site, lines(site, 5) as found:
        assert [is_ended(line) for line in found[:2]] == [True, True]
        found[4].sendall(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
        assert read_answer(found[4]).status == 200


def test_of_too_many_in_all_the_one_that_waited_longest_makes_room() -> None:
    few = WebLimits(idle_connections=3, idle_connections_per_address=3)
    with serving(APPLICATION, limits=few) as site, lines(site, 4) as found:
        assert is_ended(found[0])
        found[1].sendall(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
        assert read_answer(found[1]).status == 200


def test_who_has_asked_is_not_displaced_by_those_who_came_at_once_behind_it() -> None:
    """All of them are there before the server looks."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    with ExitStack() as stack:
        honest, *_ = (
            stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE_S))
            for _ in range(2 * WebLimits().idle_connections_per_address)
        )
        honest.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with serving(APPLICATION, listener=listener):
            assert read_answer(honest).status == 200


def test_probes_are_answered_while_there_is_no_room_for_requests() -> None:
    post = b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 10\r\n\r\n"
    with (
        serving(APPLICATION, limits=WebLimits(max_requests=2, max_stow_requests=2)) as site,
        lines(site, 2, post),
    ):
        assert eventually(lambda: get(site) == 503)
        assert get(site, "/healthz") == 200


def test_a_body_that_drips_is_ended_and_one_that_flows_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pace = WebLimits(slowest_bytes_s=1000.0, slowest_over_s=0.4)
    post = b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 9000\r\n\r\n"
    with serving(APPLICATION, limits=pace) as site, lines(site, 2, post) as (dripping, flowing):
        with caplog.at_level(logging.WARNING, "node.web"):
            for _ in range(9):
                flowing.sendall(bytes(1000))
                time.sleep(0.15)  # of the peer, not of the test: 6.7 kB/s
            answer = read_answer(flowing)
            refusal = read_answer(dripping)

        assert (answer.status, answer.body) == (200, b"9000")
        assert refusal.status == 408
        assert "body comes too slowly" in caplog.text
        assert get(site) == 200


def test_a_body_that_waited_for_this_side_is_not_held_against_its_sender() -> None:
    """The disk was busy for most of the time in which the body should have come."""
    post = b"POST /slow HTTP/1.1\r\nHost: n\r\nContent-Length: 1000000\r\n\r\n"
    pace = WebLimits(slowest_bytes_s=2_000_000.0, slowest_over_s=0.6)
    with serving(APPLICATION, limits=pace) as site, site.connect() as line:
        line.sendall(post + bytes(900_000))
        time.sleep(0.9)  # of the peer: the rest comes after the look, which finds next to nothing
        line.sendall(bytes(100_000))
        answer = read_answer(line)

    assert (answer.status, answer.body) == (200, b"1000000")


def test_an_answer_that_is_not_read_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    with serving(APPLICATION, limits=WebLimits(slowest_over_s=0.3)) as site, site.connect() as line:
        with caplog.at_level(logging.WARNING, "node.web"):
            line.sendall(b"GET /much HTTP/1.1\r\nHost: n\r\n\r\n")
            assert eventually(lambda: "answer is not read" in caplog.text)
        assert get(site) == 200


def test_a_connection_that_is_kept_takes_one_request_after_the_other(site: Site) -> None:
    with site.connect() as line:
        for number in (3, 70_000, 0):
            head = f"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: {number}\r\n\r\n"
            line.sendall(head.encode() + bytes(number))
            assert read_answer(line).body == str(number).encode()
