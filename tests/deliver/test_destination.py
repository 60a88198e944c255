"""Who the sender is, as a destination (SU-04), and what answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.deliver.destination import (
    classify_dimse,
    resolve_destinations,
    sender_destination,
    unknown_destination,
)
from node.domain.delivery import UNKNOWN_DESTINATION, DeliveryClass
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
        ({"peer": "portal"}, UNKNOWN_DESTINATION),
        ({"calling_ae_title": "CT1", "address": "10.0.0.7"}, "peer:CT1"),
        ({"calling_ae_title": "CT1", "address": "10.9.9.9"}, UNKNOWN_DESTINATION),
        ({"calling_ae_title": "ct1", "address": "10.0.0.7"}, UNKNOWN_DESTINATION),
        ({}, UNKNOWN_DESTINATION),
    ],
)
def test_results_go_back_only_to_a_known_sender(facts, destination) -> None:
    assert sender_destination(PEERS, origin(**facts)) == destination


def test_a_destination_named_twice_is_served_once() -> None:
    names = resolve_destinations(["pacs", "sender", "shelf"], PEERS, origin(peer="PACS"))

    assert names == ("pacs", "shelf")


@given(st.integers(0, 0xFFFF))
def test_success_is_the_only_status_that_is_sent(status: int) -> None:
    outcome = classify_dimse(status)

    assert (outcome.kind is DeliveryClass.SENT) == (status == 0)
    assert f"0x{status:04X}" in outcome.sentence


def test_only_a_destination_out_of_resources_opens_its_breaker() -> None:
    assert not classify_dimse(0xC000).destination_sick
    assert classify_dimse(0xA700).destination_sick


def test_a_destination_that_left_the_configuration_blocks() -> None:
    outcome = unknown_destination("old")

    assert outcome.kind is DeliveryClass.BLOCKED
    assert "'old'" in outcome.sentence
