"""Peers: the systems that may send, and who "the sender" of a series is.

An AE title is a name that anyone can claim, not a proof: a caller counts as a peer only when its
title and its network address both fit.

Source: PS3.8 9.3.4 (rejection of callers), PS3.5 6.2 (AE).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from node.domain.settings import KeyName, Mistake, Port, Secret, Settings
from node.domain.tls import PeerTls

Resolve = Callable[[str], Collection[str]]

# PS3.5 6.2: the default repertoire without backslash and control characters
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")
_LONGEST_FIELD = 1024  # of a user identity: people type it
NO_AE_TITLE = "an AE title has 1 to 16 printable characters and no backslash"


def is_ae_title(text: str) -> bool:
    """Whether the text, trimmed, can stand as an AE title."""
    return _AE_TITLE.fullmatch(text.strip(" ")) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserIdentity(Settings):
    """Who a caller says it is over DIMSE, and how it proves it.

    Args:
        passcode: What both sides know besides the name; None: the name alone.
    Source: PS3.7 D.3.3.7, user identity types 1 and 2
    """

    username: str
    passcode: Secret | None = None

    def mistakes(self) -> Iterator[Mistake]:
        for key, text in (
            ("username", self.username),
            ("", self.passcode.value if self.passcode else ""),
        ):
            if len(text.encode()) > _LONGEST_FIELD:
                yield key, f"takes {_LONGEST_FIELD} bytes or less"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(Settings):
    """One configured system.

    Args:
        ae_title: How it calls itself over DIMSE; empty for a peer that only speaks HTTP.
        host: Where results go; also the address it may call from unless ``allow_from`` is given.
        allow_from: Addresses, networks (10.0.0.0/24) and host names that it may call from.
        http_user: Who it is over HTTP; empty for none.
        reply_to: Destination for its results; empty: C-STORE to this peer.
        user_identity: What it has to prove when it calls over DIMSE; None: nothing is looked at.
        tls: DIMSE with it is TLS only: it is called so, and who calls without is not it, where this
            node's port speaks TLS.
    """

    name: KeyName
    ae_title: str = ""
    host: str = ""
    port: Port = 104
    allow_from: tuple[str, ...] = ()
    http_user: str = ""
    reply_to: str = ""
    user_identity: UserIdentity | None = None
    tls: PeerTls | None = None

    def mistakes(self) -> Iterator[Mistake]:
        """What would let a caller in that proves nothing, or nobody at all."""
        if not self.name:
            yield "name", "a peer needs a name"
        if not self.ae_title and not self.http_user:
            yield "", "needs ae_title (DIMSE) or http_user (HTTP) to be told from others"
        if self.ae_title and not is_ae_title(self.ae_title):
            yield "ae_title", NO_AE_TITLE
        if self.ae_title and not self.callers:
            yield "", "needs host or allow_from: an AE title alone proves nothing"
        if self.user_identity is not None and not self.ae_title:
            yield "user_identity", "counts over DIMSE: it needs ae_title"
        for index, entry in enumerate(self.allow_from):
            if not _is_address(entry):
                sentence = f"{entry} is no address and no network such as 10.0.0.0/24"
                yield f"allow_from.{index}", sentence

    @property
    def is_reachable(self) -> bool:
        """Whether results can go to it by C-STORE."""
        return bool(self.ae_title and self.host)

    @property
    def callers(self) -> tuple[str, ...]:
        """Where it may call from: ``allow_from``, else its host."""
        return self.allow_from or ((self.host,) if self.host else ())


def match_peer(
    peers: Iterable[Peer], calling_ae_title: str, address: str, resolve: Resolve | None = None
) -> Peer | None:
    """The first peer whose AE title and addresses fit a caller.

    AE titles are compared without surrounding spaces, and case matters.

    Args:
        address: IP address of the caller.
        resolve: Turns a host name into addresses; without it host names match nobody.
    """
    title = calling_ae_title.strip(" ")
    for peer in peers:
        is_named_so = peer.ae_title and peer.ae_title.strip(" ") == title
        if is_named_so and any(_covers(each, _plain(address), resolve) for each in peer.callers):
            return peer
    return None


def match_http_user(peers: Iterable[Peer], http_user: str) -> Peer | None:
    """The peer that signs in with this name."""
    return next((peer for peer in peers if http_user and peer.http_user == http_user), None)


def is_loopback(address: str) -> bool:
    """Whether an IP address is this machine talking to itself."""
    return _plain(address).is_loopback


def is_loopback_host(host: str) -> bool:
    """Whether only this machine can reach a server bound to this host."""
    if host == "localhost":
        return True
    try:
        return is_loopback(host.strip("[]"))
    except ValueError:
        return False


def _covers(entry: str, caller: IPv4Address | IPv6Address, resolve: Resolve | None) -> bool:
    try:
        network = ip_network(entry, strict=False)
    except ValueError:  # a host name
        return resolve is not None and any(_plain(found) == caller for found in resolve(entry))
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        return _plain(str(network.network_address)) == caller
    return caller in network


def _is_address(entry: str) -> bool:
    """Whether it can stand in ``allow_from``: an address, a network, or a host name."""
    if "/" not in entry and ":" not in entry and any(each.isalpha() for each in entry):
        return True
    try:
        ip_network(entry, strict=False)
    except ValueError:
        return False
    return True


def _plain(address: str) -> IPv4Address | IPv6Address:
    """An address as IPv4 where it is IPv4 written in IPv6, without a zone."""
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
