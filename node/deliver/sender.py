"""Who "the sender" of a series is, as a destination.

Pure. The sender is known by how it came in: calling AE title and network address, or HTTP user. No tag
of the data set has a say, or anyone could have results sent anywhere by forging one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from node.deliver.dimse import DimseDestination
from node.domain.instance import Origin
from node.domain.peers import Peer, match_http_user, match_peer

NO_DESTINATION = ""
IMPLICIT_PREFIX = "peer:"


def sender_destination(peers: Mapping[str, Peer], origin: Origin) -> str:
    """Name of the destination that results for this origin go to, or ``NO_DESTINATION``.

    A peer without ``reply_to`` is reached by C-STORE, under the name ``peer:NAME``.
    """
    peer = peers.get(origin.peer) or match_http_user(peers.values(), origin.http_user)
    if peer is None and origin.calling_ae_title and origin.address:
        peer = match_peer(peers.values(), origin.calling_ae_title, origin.address)
    if peer is None:
        return NO_DESTINATION
    if peer.reply_to:
        return peer.reply_to
    return f"{IMPLICIT_PREFIX}{peer.name}" if peer.is_reachable else NO_DESTINATION


def resolve_destinations(
    names: Iterable[str], peers: Mapping[str, Peer], origin: Origin
) -> tuple[str, ...]:
    """A rule's ``send`` list with ``sender`` resolved; what is named twice is served once."""
    resolved = (sender_destination(peers, origin) if n == "sender" else n for n in names)
    return tuple(dict.fromkeys(resolved))


def implicit_destinations(
    peers: Iterable[Peer], calling_ae_title: str
) -> dict[str, DimseDestination]:
    """The destinations that peers without ``reply_to`` are, by name."""
    reached = (peer for peer in peers if peer.is_reachable and not peer.reply_to)
    made = (
        DimseDestination(
            name=f"{IMPLICIT_PREFIX}{peer.name}", peer=peer, calling_ae_title=calling_ae_title
        )
        for peer in reached
    )
    return {each.name: each for each in made}
