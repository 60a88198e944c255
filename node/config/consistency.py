"""Checks that need several sections, or tables of the node: names, binds, forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from node.config.reading import STAND_IN, known_names
from node.config.values import SENDER, FileKeys
from node.domain.peers import is_loopback_host
from node.domain.settings import Mistake

Names = tuple[str, ...]


def mistakes_between(keys: FileKeys, content: Mapping[str, Any]) -> Iterator[Mistake]:
    """Everything that is wrong only in combination.

    Args:
        content: The file, which also names what is wrong in other ways.
    """
    peers, destinations = _names(content, "peers"), _names(content, "destinations")
    yield from _references_of_peers(keys, destinations, _names(content, "web", "auth", "users"))
    yield from _references(keys, peers, destinations)
    yield from _binds(keys)
    yield from _used_names(keys, destinations)
    yield from _same_callers(keys)
    # roles of `serve` are told apart by their device; `run` may have several workers on one
    if len(set(keys.work.devices)) < len(keys.work.devices):
        yield "work.devices", "a device is named twice"


def _names(content: Any, *keys: str) -> Names:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return tuple(str(name) for name in content) if isinstance(content, Mapping) else ()


def mistakes_of_forms(keys: FileKeys, forms: Mapping[str, bool]) -> Iterator[Mistake]:
    """Forms that there are not, or that a kind of destination cannot carry.

    Args:
        forms: Every form of a result, and whether it is DICOM.
    """
    for name, destination in keys.destinations.items():
        if not destination.forms:
            yield f"destinations.{name}.forms", "must not be empty: name at least one"
        for index, form in enumerate(destination.forms):
            path = f"destinations.{name}.forms.{index}"
            if form not in forms:
                yield path, f"no form {form}{known_names(tuple(forms))}"
            elif not forms[form] and not destination.carries_any_file:
                yield path, f"{form} is no DICOM object, and nothing else goes to this kind"
            elif form in destination.forms[:index]:
                yield path, f"{form} is named twice"


def _references_of_peers(keys: FileKeys, destinations: Names, users: Names) -> Iterator[Mistake]:
    for name, peer in keys.peers.items():
        if peer.reply_to and peer.reply_to not in destinations:
            sentence = f"no destination {peer.reply_to}{known_names(destinations)}"
            yield f"peers.{name}.reply_to", sentence
        if peer.http_user and peer.http_user not in users:
            sentence = f"no user {peer.http_user} in web.auth.users{known_names(users)}"
            yield f"peers.{name}.http_user", sentence


def _references(keys: FileKeys, peers: Names, destinations: Names) -> Iterator[Mistake]:
    for index, folder in enumerate(keys.folders):
        if folder.peer and folder.peer not in peers:
            yield f"folders.{index}.peer", f"no peer {folder.peer}{known_names(peers)}"
    for index, rule in enumerate(keys.rules):
        for place, target in enumerate(rule.send):
            if target != SENDER and target not in destinations:
                yield f"rules.{index}.send.{place}", _no_destination(target, peers, destinations)


def _no_destination(name: str, peers: Names, destinations: Names) -> str:
    if name in peers:
        return f"{name} is a peer: add a destination {{kind: dimse, peer: {name}}} and name that"
    return f"no destination {name}{known_names((*destinations, SENDER))}"


def _same_callers(keys: FileKeys) -> Iterator[Mistake]:
    """Two peers that one and the same caller could be."""
    for one, other in combinations(keys.peers.values(), 2):
        title = one.ae_title.strip()
        if title and title == other.ae_title.strip() and set(one.callers) & set(other.callers):
            sentence = f"has the AE title and an address of peer {one.name}: merge them"
            yield f"peers.{other.name}", sentence
        if one.http_user and one.http_user == other.http_user:
            sentence = f"has the HTTP user of peer {one.name}: give each its own"
            yield f"peers.{other.name}.http_user", sentence


def _binds(keys: FileKeys) -> Iterator[Mistake]:
    if not is_loopback_host(keys.dimse.host) and not any(p.ae_title for p in keys.peers.values()):
        sentence = (
            f"{keys.dimse.host} is open to the network and no peer may send: "
            "add peers with an ae_title, or bind 127.0.0.1"
        )
        yield "dimse.host", sentence
    if not is_loopback_host(keys.web.host) and keys.web.auth.kind == "none":
        sentence = (
            f"{keys.web.host} is open to the network without authentication: "
            "set web.auth.kind to basic or token, or bind 127.0.0.1"
        )
        yield "web.host", sentence
    if keys.dimse.port == keys.web.port:
        yield "web.port", f"{keys.web.port} is the port of dimse: choose another"


def _used_names(keys: FileKeys, destinations: Names) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, rule in enumerate(keys.rules):
        if rule.name in first and rule.name != STAND_IN:
            sentence = f"rules.{first[rule.name]} has this name already: give each rule its own"
            yield f"rules.{index}.name", sentence
        first.setdefault(rule.name, index)
    if SENDER in destinations:
        yield f"destinations.{SENDER}", "sender is the peer that sent: choose another name"
