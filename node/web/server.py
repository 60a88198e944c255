"""The HTTP server of one process, with the limits that its library leaves open.

Header blocks are bounded in size and time, bodies and answers have a pace, a peer that goes on sending after
its answer is cut off, and the access log holds no query strings. Connections that ask nothing are many and
cost little; requests in hand are few.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from functools import partial
from termios import FIONREAD
from typing import Any, Final

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from node.domain.limits import WebLimits
from node.domain.tls import ServerTls
from node.observe import beats, counts
from node.tls import PortTls
from node.web.access import PROBES

log = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 16 * 1024
# an answer that comes early should reach a client that is still sending: closing at once would
# reset the connection and take the answer with it
DISCARDED_BYTES: Final = 16 * 1024**2
DISCARD_S: Final = 5.0
_ROUND_S: Final = 5.0


class Crowd:
    """Connections that ask nothing: of too many the one that has waited longest makes room."""

    def __init__(self, limits: WebLimits) -> None:
        self._limits = limits
        self._idle: dict[BoundedHttp, None] = {}  # in the order in which they began to wait
        self._of: dict[str, dict[BoundedHttp, None]] = {}

    def add(self, connection: BoundedHttp) -> None:
        mine = self._of.setdefault(connection.address, {})
        crowded = mine if len(mine) >= self._limits.idle_connections_per_address else self._idle
        if crowded is mine or len(self._idle) >= self._limits.idle_connections:
            # all that wait to be accepted are, before anybody is heard: who has asked by then stays
            oldest = next((each for each in crowded if not each.has_unread), next(iter(crowded)))
            self.remove(oldest)
            oldest.transport.abort()
            counts.add(counts.CONNECTIONS_ENDED, "http", "crowded out")
        self._of.setdefault(connection.address, {})[connection] = None
        self._idle[connection] = None

    def remove(self, connection: BoundedHttp) -> None:
        if self._idle.pop(connection, self) is self:
            return
        mine = self._of[connection.address]
        del mine[connection]
        if not mine:
            del self._of[connection.address]


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    Attributes:
        address: Whom it comes from.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
        limits: WebLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.address = ""
        self._crowd = crowd
        self._limits = limits
        self._body_bytes = 0  # since its pace was looked at
        self._has_waited_for_us = False  # since its pace was looked at
        self._unsent_bytes = 0  # when the pace was looked at
        self._in_headers = False
        self._header_bytes = 0  # of a block that is not complete
        self._field_bytes = 0  # of the fields read so far
        self._discarded_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio leaves it out for sockets that were made without naming the protocol; an answer of
        # two small writes would then wait 40 ms for the peer's delayed acknowledgement
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = self.client[0] if self.client else ""
        self._crowd.add(self)
        self._set_deadline(self._limits.header_s, self._ask_no_longer)

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come that nobody looked at."""
        connection, waiting = self.transport.get_extra_info("socket"), array("i", [0])
        if connection is not None and connection.fileno() >= 0:
            ioctl(connection.fileno(), FIONREAD, waiting)
        return bool(waiting[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.remove(self)
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a header block that is not complete yet."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Refuse anything but HTTP; a header block beyond its limit is answered 431."""
        if max(self._header_bytes, self._field_bytes) <= MAX_HEADER_BYTES:
            counts.add(counts.HTTP_REFUSED, 400)
            super().send_400_response(msg)
            return
        counts.add(counts.HTTP_REFUSED, 431)
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: its header block must be complete soon."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._field_bytes = self._discarded_bytes = 0
        self._set_deadline(self._limits.header_s, self._ask_no_longer)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field; the parser makes a refused request of what is raised here."""
        self._field_bytes += len(name) + len(value) + len(b": \r\n")
        if self._field_bytes > MAX_HEADER_BYTES:
            raise ValueError("header fields exceed their limit")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The header block is complete and within its limit."""
        self._in_headers = False
        self._crowd.remove(self)
        self._body_bytes = 0
        self._set_deadline(self._limits.slowest_over_s, self._look_at_pace)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on the body; after the answer, throw it away up to a limit."""
        if self.cycle.response_complete:
            if not self._discarded_bytes:
                self._set_deadline(DISCARD_S)
            self._discarded_bytes += len(body)
            if self._discarded_bytes > DISCARDED_BYTES:
                self.transport.close()
            return
        self._body_bytes += len(body)
        super().on_body(body)
        self._has_waited_for_us = self._has_waited_for_us or self.flow.read_paused

    def on_message_complete(self) -> None:
        if self.cycle.response_complete:
            self._set_deadline(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is given; the next request may come, or more of a body that nobody wanted."""
        if not self.cycle.more_body and not self.transport.get_write_buffer_size():
            self._set_deadline(None)
        if not self.pipeline and not self.transport.is_closing():
            self._crowd.add(self)
        super().on_response_complete()

    def _look_at_pace(self) -> None:
        """End a request whose body drips, or whose answer is not read."""
        unsent, before = self.transport.get_write_buffer_size(), self._unsent_bytes
        came, self._body_bytes, self._unsent_bytes = self._body_bytes, 0, unsent
        # the body waits for this side, or did for a part of the time
        is_ours = self._has_waited_for_us or self.cycle.waiting_for_100_continue
        self._has_waited_for_us = self.flow.read_paused
        drips = came < self._limits.slowest_bytes_s * self._limits.slowest_over_s
        if self.cycle.more_body and drips and not is_ours and not self.cycle.response_complete:
            log.warning("request ended: its body comes too slowly", extra={"address": self.address})
            counts.add(counts.HTTP_ENDED, "slow body")
            if not self.cycle.response_started:
                self.transport.write(
                    STATUS_LINE[408] + b"content-length: 0\r\nconnection: close\r\n\r\n"
                )
            self.transport.close()
            self._set_deadline(DISCARD_S, self.transport.abort)
        elif unsent and unsent == before:
            log.warning("request ended: its answer is not read", extra={"address": self.address})
            counts.add(counts.HTTP_ENDED, "answer not read")
            self.transport.abort()
        elif unsent or not self.cycle.response_complete:
            self._set_deadline(self._limits.slowest_over_s, self._look_at_pace)

    def _ask_no_longer(self) -> None:
        """Nothing was asked, or not to the end of its header."""
        counts.add(counts.CONNECTIONS_ENDED, "http", "no request in time")
        self.transport.close()

    def _set_deadline(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        """Close the connection after so many seconds, or do something else, or never."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, then or self.transport.close)


class FewAtOnce:
    """ASGI middleware: so many requests in hand at most; beyond it one is answered 503.

    Outside everything else, it also counts what is refused.
    """

    def __init__(self, application: ASGIApp, most: int) -> None:
        self._application = application
        self._most = most
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                counts.add(counts.HTTP_REFUSED, message["status"])
            await send(message)

        if scope["type"] == "http" and self._in_hand >= self._most and scope["path"] not in PROBES:
            busy = PlainTextResponse("too many requests at once", 503, headers={"Retry-After": "5"})
            await busy(scope, receive, send_counted)
            return
        self._in_hand += 1
        try:
            await self._application(scope, receive, send_counted)
        finally:
            self._in_hand -= 1


class WithoutQuery(logging.Filter):
    """Takes query strings out of access log lines: they may hold a patient's name or ID."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the path of a line; the line itself always passes."""
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).partition("?")[0][:200], *rest)
        return True


class PlainServer(uvicorn.Server):
    """A server that leaves signals to its process: set ``should_exit`` to stop and drain it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """A tenth of a second has passed."""
        beats.beat("http", _ROUND_S)
        return await super().on_tick(counter)


def make_server(
    application: ASGIApp,
    *,
    host: str,
    port: int,
    tls: ServerTls | None = None,
    limits: WebLimits = WebLimits(),
    drain_s: int = 15,
) -> PlainServer:
    """A server that is ready to ``run()``: blocking, until ``should_exit`` is set, then drained.

    Args:
        drain_s: How long requests in hand may take once it is to exit.
    Raises:
        ConfigInvalid: Files of TLS cannot be used.
    """
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(existing, WithoutQuery) for existing in access.filters):
        access.addFilter(WithoutQuery())
    config = uvicorn.Config(
        FewAtOnce(application, limits.max_requests),
        host=host,
        port=port,
        http=partial(BoundedHttp, crowd=Crowd(limits), limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=drain_s,
    )
    if tls is not None:
        config.load()
        config.ssl = PortTls(tls, "web.tls").context
    return PlainServer(config)
