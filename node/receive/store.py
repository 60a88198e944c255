"""What receiving asks of the node: a store of instances, and a log of who brings them.

An association, a STOW-RS request and a folder scan are one row of the log each: completion asks
whether a sender is still at work (the row is open), and how it ended. A row without a heartbeat for
10 s belongs to a process that died and counts as aborted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

from node.domain.errors import InstanceRejected
from node.domain.instance import Ending, InstanceState, Origin
from node.domain.received import Loss, Received
from node.receive.walk import Buffer

HEARTBEAT_S: Final = 2.0


class Scratch(Protocol):
    """A nameless file for the time of a check."""

    def write(self, data: bytes, /) -> int:
        """Append data; how much of it; raises InstanceRejected 0xA700 when there is no room."""

    def fileno(self) -> int:
        """Its descriptor; what was written can be read from it at once."""


class Part(Protocol):
    """An instance that is being written, as the store hands it out."""

    def write(self, data: bytes | memoryview) -> None:
        """Append data-set bytes; raises InstanceRejected 0xA700 when there is no room."""

    def rewrite(self, offset: int, data: bytes) -> None:
        """Put bytes in the place of some that were written; raises InstanceRejected 0xA700."""

    def content(self) -> AbstractContextManager[Buffer]:
        """The bytes written so far, without a copy."""

    def scratch(self) -> AbstractContextManager[Scratch]:
        """Room for what the bytes are inflated to; raises InstanceRejected 0xA700."""

    def keep(self, received: Received, origin: Origin) -> InstanceState:
        """Make the instance durable; raises InstanceRejected for conflicts and lack of room."""

    def quarantine(
        self, received: Received, origin: Origin, rejection: InstanceRejected, *, source: str = ""
    ) -> None:
        """Keep the bytes aside, with the reason and the file that they came from."""

    def discard(self) -> None:
        """Remove what was written; harmless when it is gone already."""


class InstanceStore(Protocol):
    """Where instances become durable."""

    def new_part(self) -> Part:
        """Room for one instance; raises InstanceRejected 0xA700 when there is none."""

    def record_loss(self, loss: Loss) -> None:
        """Write down that an image was not kept."""


class AssociationLog(Protocol):
    """Keeps the rows; every call returns when its row is written.

    Raises:
        TryLater: The row cannot be written now; a sender must not be served without one.
    """

    def opened(self, origin: Origin) -> str:
        """Open a row for a sender whose ``association_id`` is still empty; returns the new id."""

    def heartbeat(self, association_id: str) -> None:
        """The sender is still there; called every ``HEARTBEAT_S`` by whoever serves it."""

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


class FolderLog(AssociationLog, Protocol):
    """Where scans are told of; every call returns when its row is written."""

    def settle_losses(self, images: Collection[str]) -> None:
        """Files of these names are taken in: what was lost under one of them has come."""

    def count_losses(
        self, association_id: str, images: Collection[str], series: Collection[str]
    ) -> None:
        """Count images of a scan that name no series against these, and no others of the scan."""
