"""The HTTP server of one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from node.web.protocol import BoundedHttp, WithoutQuery


class PlainServer(uvicorn.Server):
    """A server that leaves signals to its process: set ``should_exit`` to stop and drain it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers."""
        yield


def make_server(
    application: ASGIApp, *, host: str, port: int, max_connections: int = 200, drain_s: int = 30
) -> PlainServer:
    """A server that is ready to ``run()``: blocking, until ``should_exit`` is set, then drained.

    Args:
        max_connections: Beyond it a request is answered 503.
        drain_s: How long requests in hand may take once it is to exit.
    """
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(existing, WithoutQuery) for existing in access.filters):
        access.addFilter(WithoutQuery())
    return PlainServer(
        uvicorn.Config(
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
    )
