"""What browsers can be talked into: requests from pages of others, and names that lead here by force.

A page on the internet can have a browser inside the hospital ask any address. A name of its own that it
turns to this address (DNS rebinding) shows in ``Host``; a form or script of another site shows in ``Origin``
or ``Sec-Fetch-Site``. Programs send neither of the latter.

Source: RFC 9110 7.2 (Host), RFC 6454 (Origin); Fetch Metadata (W3C) for ``Sec-Fetch-Site``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.domain.peers import is_loopback_host

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware: refuses what no program of this site sends, and adds headers to every answer.

    Args:
        hosts: Names by which the node is asked for; empty: of the loopback interface, where
            ``is_open``, else any.
        is_open: Whether nobody has to sign in: then names are all that tells a page from a program.
    """

    def __init__(self, application: ASGIApp, hosts: Collection[str], is_open: bool) -> None:
        self._application = application
        self._hosts = frozenset(host.lower() for host in hosts)
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        headers = Headers(scope=scope)
        if why := self._why_not(scope["method"], headers):
            log.warning(
                "request refused: %s", why, extra={"address": (scope["client"] or ("",))[0]}
            )
            await JSONResponse({"detail": why}, 403)(scope, receive, send_with_headers)
            return
        await self._application(scope, receive, send_with_headers)

    def _why_not(self, method: str, headers: Headers) -> str:
        host = _name_of(headers.get("host", ""))
        if not self._is_known(host):
            return "this node is not asked for by that name: see web.hosts"
        if method in _READS:
            return ""
        origin = headers.get("origin", "")
        if origin and _name_of(origin.partition("://")[2]) != host:
            return "a page of another site asked for this"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "a page of another site asked for this"
        return ""

    def _is_known(self, host: str) -> bool:
        if self._hosts:
            return host in self._hosts or is_loopback_host(host)
        return not self._is_open or not host or is_loopback_host(host)


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


def _name_of(authority: str) -> str:
    """The name in HOST:PORT, in small letters."""
    name = authority.strip().lower()
    if name.startswith("["):  # an address of IPv6
        return name.partition("]")[0].removeprefix("[")
    return name.partition(":")[0]
