"""Associations: who is connected now, as rows that other processes can see.

An association, a STOW-RS request and a folder scan are one row each: completion asks whether a
sender is still at work (the row is open), and how it ended. A row without a heartbeat for 10 s
belongs to a process that died and counts as aborted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from node.domain.instance import Ending, Origin

HEARTBEAT_S: Final = 2.0


class AssociationLog(Protocol):
    """Keeps the rows; every call returns when its row is written.

    Raises:
        TryLater: The row cannot be written now; a sender must not be served without one.
    """

    def opened(self, origin: Origin) -> str:
        """Open a row for a sender whose ``association_id`` is still empty; returns the new id."""
        ...

    def heartbeat(self, association_id: str) -> None:
        """The sender is still there; called every ``HEARTBEAT_S`` by whoever serves it."""
        ...

    def closed(
        self,
        association_id: str,
        ending: Ending,
        *,
        brought: Mapping[str, Collection[str]] | None = None,
        losses: int = 0,
    ) -> None:
        """The sender left; its instances are in the index before the row says so.

        Args:
            brought: Series Instance UID -> SOP Instance UIDs that it brought and that are kept.
            losses: How many images of it were not kept: those that name no series count against
                the series that were brought beside them.
        """
        ...
