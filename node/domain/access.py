"""Who may do what over HTTP: roles of accounts, and the rights that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Right(StrEnum):
    """What somebody may do."""

    STORE = "store"  # give instances to the node
    LOOK = "look"  # read lists, headers, results
    ACT = "act"  # decide: go on, run again, accept, discard, send
    GOVERN = "govern"  # all that no other right is for


class Role(StrEnum):
    """What somebody is."""

    SENDER = "sender"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.SENDER: frozenset({Right.STORE}),
    Role.VIEWER: frozenset({Right.LOOK}),
    Role.OPERATOR: frozenset({Right.LOOK, Right.ACT}),
    Role.ADMIN: frozenset(Right),
}


def rights_of(roles: Iterable[Role]) -> frozenset[Right]:
    return frozenset[Right]().union(*(RIGHTS[role] for role in roles))


def least_role(right: Right) -> Role:
    """The first role that has a right."""
    return next(role for role in Role if right in RIGHTS[role])
