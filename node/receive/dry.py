"""The strict ingest without a store: what would become of a file, and the header it would have.

``explain`` and the quarantine ask it, so that nobody judges a file by other rules than the door.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin, Transport
from node.domain.received import Loss, Received
from node.receive.folder import take_file
from node.receive.ingest import Ingest
from node.receive.store import Scratch
from node.receive.walk import Buffer

_PREFIX_END = 132
_ORIGIN = Origin(transport=Transport.FOLDER, association_id="")


class DryRun:
    """Sends files through the ingest and keeps nothing.

    Attributes:
        is_part10: Whether the file checked last has a preamble and prefix.
        loss: The image that the refusal of the file checked last loses; None where it is none.

    Args:
        transfer_syntaxes: What the node decodes, such as ``syntaxes.Decodable()``.
    """

    def __init__(self, transfer_syntaxes: Container[str]) -> None:
        self._ingest = Ingest(self, transfer_syntaxes=transfer_syntaxes)
        self._part = _DryPart()
        self.is_part10 = False
        self.loss: Loss | None = None

    def new_part(self) -> _DryPart:
        """Room in memory; the file before is forgotten."""
        self._part = _DryPart()
        return self._part

    def check(self, path: Path) -> Received:
        """What the ingest learns of a file that it takes.

        Raises:
            InstanceRejected: The ingest refuses it; ``known`` tells what was learnt before.
            OSError: The file cannot be read.
        """
        self.loss = None
        with path.open("rb") as file:
            self.is_part10 = file.read(_PREFIX_END).endswith(b"DICM")
            file.seek(0)
            take_file(self._ingest, file, path, _ORIGIN)
        return self._part.received

    def record_loss(self, loss: Loss) -> None:
        """Remember that an image would not be kept."""
        self.loss = loss

    @property
    def known(self) -> Received:
        """What is known of the file checked last, taken or refused."""
        return self._part.received

    def header(self) -> Dataset:
        """The header of the file checked last and taken, as the node reads it from its spool."""
        syntax = self.known.transfer_syntax_uid.encode("ascii").ljust(64, b"\0")
        element = pack("<HH2sH", 0x0002, 0x0010, b"UI", len(syntax)) + syntax
        length = pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(element))
        file = io.BytesIO()
        file.write(bytes(128) + b"DICM" + length + element)  # PS3.10 7.1
        file.write(self._part.data)
        file.seek(0)
        return dcmread(file, stop_before_pixels=True)


class _DryPart:
    """One file in memory: all of it, once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.received = Received()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def rewrite(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    @contextmanager
    def content(self) -> Iterator[Buffer]:
        with memoryview(self.data) as data:
            yield data

    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        with tempfile.TemporaryFile(buffering=0) as file:
            yield file

    def keep(self, received: Received, origin: Origin) -> InstanceState:
        del origin
        self.received = received
        return InstanceState.STORED

    def quarantine(
        self, received: Received, origin: Origin, rejection: InstanceRejected, *, source: str = ""
    ) -> None:
        del origin, rejection, source
        self.received = received

    def discard(self) -> None:
        """Nothing lies anywhere."""
