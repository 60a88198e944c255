"""Addresses that this node calls for nobody."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit


def why_not_called(url: str) -> str:
    """Why the host of a URL is not called; empty where it may be, or where its name has no address."""
    with suppress(OSError, ValueError):  # a name without an address is told by whoever calls
        for *_, where in socket.getaddrinfo(urlsplit(url).hostname, None):
            if ip_address(str(where[0]).partition("%")[0]).is_link_local:
                return "its address is link-local, where machines of a cloud keep secrets"
    return ""
