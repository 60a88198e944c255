"""Names in the file that must point at something: peers, destinations, users."""

from __future__ import annotations

from collections.abc import Collection

from node.config import schema
from node.config.mistakes import Mistake
from node.config.values import SENDER


def check_references(
    keys: schema.NodeKeys,
    peers: Collection[str],
    destinations: Collection[str],
    mistakes: list[Mistake],
) -> None:
    """Names that point at nothing.

    Args:
        peers: Every name given in the file, also of peers that are wrong in other ways.
    """
    for name, peer in keys.peers.items():
        if peer.reply_to is not None and peer.reply_to not in destinations:
            sentence = f"no destination {peer.reply_to}{_known(destinations)}"
            mistakes.append((f"peers.{name}.reply_to", sentence))
        if peer.http_user is not None and peer.http_user not in keys.web.auth.users:
            sentence = f"no user {peer.http_user} in web.auth.users{_known(keys.web.auth.users)}"
            mistakes.append((f"peers.{name}.http_user", sentence))
    for name, destination in keys.destinations.items():
        if isinstance(destination, schema.DimseDestinationKeys):
            path = f"destinations.{name}.peer"
            _check_target(destination.peer, keys, peers, path, mistakes)
    for index, folder in enumerate(keys.folders):
        if folder.peer is not None and folder.peer not in peers:
            sentence = f"no peer {folder.peer}{_known(peers)}"
            mistakes.append((f"folders.{index}.peer", sentence))
    for index, rule in enumerate(keys.rules):
        for place, target in enumerate(rule.send):
            if target != SENDER and target not in destinations:
                sentence = _no_destination(target, peers, destinations)
                mistakes.append((f"rules.{index}.send.{place}", sentence))


def _check_target(
    name: str,
    keys: schema.NodeKeys,
    peers: Collection[str],
    path: str,
    mistakes: list[Mistake],
) -> None:
    if name not in peers:
        mistakes.append((path, f"no peer {name}{_known(peers)}"))
        return
    peer = keys.peers.get(name)
    if peer is not None and (peer.host is None or peer.ae_title is None):
        mistakes.append((path, f"peer {name} needs ae_title and host to be sent to"))


def _no_destination(name: str, peers: Collection[str], destinations: Collection[str]) -> str:
    if name in peers:
        return f"{name} is a peer: add a destination {{kind: dimse, peer: {name}}} and name that"
    return f"no destination {name}{_known((*destinations, SENDER))}"


def _known(names: Collection[str]) -> str:
    return f"; known: {', '.join(sorted(names))}" if names else "; none is configured"
