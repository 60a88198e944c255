"""Who the sender is, as a destination (SU-04)."""

from __future__ import annotations

import pytest

from node.deliver.sender import (
    NO_DESTINATION,
    implicit_destinations,
    resolve_destinations,
    sender_destination,
)
from node.domain.instance import Origin, Transport
from node.domain.peers import Peer

PEERS = {
    "PACS": Peer(name="PACS", ae_title="MAINPACS", host="10.0.0.5", port=104, reply_to="pacs"),
    "CT1": Peer(name="CT1", ae_title="CT1", host="10.0.0.7", port=11112),
    "portal": Peer(name="portal", http_user="portal"),
}


def origin(**facts: str) -> Origin:
    return Origin(transport=Transport.DIMSE, association_id="a", **facts)


@pytest.mark.parametrize(
    ("facts", "destination"),
    [
        ({"peer": "PACS"}, "pacs"),
        ({"peer": "CT1"}, "peer:CT1"),
        ({"peer": "portal"}, NO_DESTINATION),
        ({"calling_ae_title": "CT1", "address": "10.0.0.7"}, "peer:CT1"),
        ({"calling_ae_title": "CT1", "address": "10.9.9.9"}, NO_DESTINATION),
        ({"calling_ae_title": "ct1", "address": "10.0.0.7"}, NO_DESTINATION),
        ({}, NO_DESTINATION),
    ],
)
def test_results_go_back_only_to_a_known_sender(facts, destination) -> None:
    assert sender_destination(PEERS, origin(**facts)) == destination


def test_a_destination_named_twice_is_served_once() -> None:
    names = resolve_destinations(["pacs", "sender", "shelf"], PEERS, origin(peer="PACS"))

    assert names == ("pacs", "shelf")


def test_peers_without_reply_are_destinations_of_their_own() -> None:
    made = implicit_destinations(PEERS.values(), "SEGNODE")

    assert list(made) == ["peer:CT1"]
    assert (made["peer:CT1"].peer.host, made["peer:CT1"].calling_ae_title) == (
        "10.0.0.7",
        "SEGNODE",
    )
