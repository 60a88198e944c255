"""What each transport asks of the ingest: an instance on its way in, and the receipt for it."""

from __future__ import annotations

from typing import Protocol


class Receipt(Protocol):
    """What the ingest says of an instance that it keeps."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def series_instance_uid(self) -> str: ...


class Arrival(Protocol):
    """One instance on its way in; what is wrong with it is told by ``finish``."""

    def write(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> Receipt: ...
    def abandon(self) -> None: ...
