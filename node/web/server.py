"""The HTTP server of one process, with the limits that its library leaves open.

Header blocks are bounded in size and time, a peer that goes on sending after its answer is cut off,
and the access log holds no query strings.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from node.domain.tls import ServerTls
from node.tls import PortTls

MAX_HEADER_BYTES: Final = 16 * 1024
HEADER_S: Final = 15.0
# an answer that comes early should reach a client that is still sending: closing at once would
# reset the connection and take the answer with it
DISCARDED_BYTES: Final = 16 * 1024**2
DISCARD_S: Final = 5.0


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
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
        self._set_deadline(HEADER_S)

    def connection_lost(self, exc: Exception | None) -> None:
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
            super().send_400_response(msg)
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: its header block must be complete soon."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._field_bytes = self._discarded_bytes = 0
        self._set_deadline(HEADER_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field; the parser makes a refused request of what is raised here."""
        self._field_bytes += len(name) + len(value) + len(b": \r\n")
        if self._field_bytes > MAX_HEADER_BYTES:
            raise ValueError("header fields exceed their limit")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The header block is complete and within its limit."""
        self._in_headers = False
        self._set_deadline(None)
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
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._set_deadline(None)
        super().on_message_complete()

    def _set_deadline(self, seconds: float | None) -> None:
        """Close the connection after so many seconds, or never."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self.transport.close)


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


def make_server(
    application: ASGIApp,
    *,
    host: str,
    port: int,
    tls: ServerTls | None = None,
    max_connections: int = 200,
    drain_s: int = 30,
) -> PlainServer:
    """A server that is ready to ``run()``: blocking, until ``should_exit`` is set, then drained.

    Args:
        max_connections: Beyond it a request is answered 503.
        drain_s: How long requests in hand may take once it is to exit.
    Raises:
        ConfigInvalid: Files of TLS cannot be used.
    """
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(existing, WithoutQuery) for existing in access.filters):
        access.addFilter(WithoutQuery())
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=drain_s,
    )
    if tls is not None:
        config.load()
        config.ssl = PortTls(tls, "web.tls").context
    return PlainServer(config)
