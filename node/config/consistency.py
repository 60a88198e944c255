"""Checks that need several keys at once: binds, names given twice, times in order."""

from __future__ import annotations

from itertools import combinations

from node.config import schema
from node.config.building import is_loopback_host
from node.config.mistakes import STAND_IN, Mistake
from node.config.values import SENDER, PeerConfig


def check_consistency(keys: schema.NodeKeys, mistakes: list[Mistake]) -> None:
    """Everything that is wrong only in combination."""
    _check_binds(keys, mistakes)
    _check_names(keys, mistakes)
    _check_times(keys.completion, mistakes)
    if keys.dimse.max_associations_per_peer > keys.dimse.max_associations:
        sentence = f"above max_associations ({keys.dimse.max_associations}): lower it"
        mistakes.append(("dimse.max_associations_per_peer", sentence))
    if len(set(keys.work.devices)) < len(keys.work.devices):
        mistakes.append(("work.devices", "a device is named twice"))


def check_peers(peers: dict[str, PeerConfig], mistakes: list[Mistake]) -> None:
    """Two peers that one and the same caller could be."""
    for one, other in combinations(peers.values(), 2):
        if (
            one.ae_title
            and one.ae_title == other.ae_title
            and set(one.callers) & set(other.callers)
        ):
            sentence = f"has the AE title and an address of peer {one.name}: merge them"
            mistakes.append((f"peers.{other.name}", sentence))
        if one.http_user and one.http_user == other.http_user:
            sentence = f"has the HTTP user of peer {one.name}: give each its own"
            mistakes.append((f"peers.{other.name}.http_user", sentence))


def _check_binds(keys: schema.NodeKeys, mistakes: list[Mistake]) -> None:
    if not is_loopback_host(keys.dimse.host) and not any(p.ae_title for p in keys.peers.values()):
        sentence = (
            f"{keys.dimse.host} is open to the network and no peer may send: "
            "add peers with an ae_title, or bind 127.0.0.1"
        )
        mistakes.append(("dimse.host", sentence))
    if not is_loopback_host(keys.web.host) and keys.web.auth.kind == "none":
        sentence = (
            f"{keys.web.host} is open to the network without authentication: "
            "set web.auth.kind to basic or token, or bind 127.0.0.1"
        )
        mistakes.append(("web.host", sentence))
    if keys.dimse.port == keys.web.port:
        mistakes.append(("web.port", f"{keys.web.port} is the port of dimse: choose another"))


def _check_names(keys: schema.NodeKeys, mistakes: list[Mistake]) -> None:
    first: dict[str, int] = {}
    for index, rule in enumerate(keys.rules):
        if rule.name in first and rule.name != STAND_IN:
            sentence = f"rules.{first[rule.name]} has this name already: give each rule its own"
            mistakes.append((f"rules.{index}.name", sentence))
        first.setdefault(rule.name, index)
    if SENDER in keys.destinations:
        mistakes.append(
            (f"destinations.{SENDER}", "sender is the peer that sent: choose another name")
        )


def _check_times(keys: schema.CompletionKeys, mistakes: list[Mistake]) -> None:
    if keys.quiet_s < keys.release_settle_s:
        sentence = f"below release_settle_s ({keys.release_settle_s:g}): raise it"
        mistakes.append(("completion.quiet_s", sentence))
    if keys.quiet_max_s < keys.quiet_s:
        mistakes.append(("completion.quiet_max_s", f"below quiet_s ({keys.quiet_s:g}): raise it"))
    if keys.give_up_s < keys.quiet_max_s:
        sentence = f"below quiet_max_s ({keys.quiet_max_s:g}): raise it"
        mistakes.append(("completion.give_up_s", sentence))
