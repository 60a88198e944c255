"""What the ingest asks of a store of instances."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin
from node.domain.received import Loss, Received
from node.receive.walk import Buffer


class Part(Protocol):
    """An instance that is being written, as the store hands it out."""

    def write(self, data: bytes | memoryview) -> None:
        """Append data-set bytes; raises InstanceRejected 0xA700 when there is no room."""
        ...

    def rewrite(self, offset: int, data: bytes) -> None:
        """Put bytes in the place of some that were written; raises InstanceRejected 0xA700."""
        ...

    def content(self) -> AbstractContextManager[Buffer]:
        """The bytes written so far, without a copy."""
        ...

    def scratch(self) -> AbstractContextManager[BinaryIO]:
        """A nameless file for the time of the check."""
        ...

    def keep(self, received: Received, origin: Origin) -> InstanceState:
        """Make the instance durable; raises InstanceRejected for conflicts and lack of room."""
        ...

    def quarantine(
        self, received: Received, origin: Origin, rejection: InstanceRejected, *, source: str = ""
    ) -> None:
        """Keep the bytes aside, with the reason and the file that they came from."""
        ...

    def discard(self) -> None:
        """Remove what was written; harmless when it is gone already."""
        ...


class InstanceStore(Protocol):
    """Where instances become durable."""

    def new_part(self) -> Part:
        """Room for one instance; raises InstanceRejected 0xA700 when there is none."""
        ...

    def record_loss(self, loss: Loss) -> None:
        """Write down that an image was not kept."""
        ...
