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
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin, Transport
from node.domain.received import Loss, Received
from node.receive.folder import is_meant_as_dicom, printable
from node.receive.ingest import Ingest
from node.receive.walk import Buffer

_PIECE_BYTES = 1 << 20
_UID_BYTES = 64
_PREFIX_END = 132
_ORIGIN = Origin(transport=Transport.FOLDER, association_id="")
# preamble, group length and Transfer Syntax UID (PS3.10 7.1), before it is known which one
_HEAD_BYTES = 128 + 4 + 12 + 8 + _UID_BYTES


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
            piece = file.read(_PIECE_BYTES)
            self.is_part10 = piece[:_PREFIX_END].endswith(b"DICM")
            is_meant = is_meant_as_dicom(path.name, piece)
            arrival = self._ingest.begin_file(_ORIGIN, source=printable(path), is_meant=is_meant)
            while piece:
                arrival.write(piece)
                piece = file.read(_PIECE_BYTES)
            arrival.finish()
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
        return self._part.header()


class _DryPart:
    """One file in memory: all of it, once."""

    def __init__(self) -> None:
        self._bytes = bytearray(_HEAD_BYTES)
        self.received = Received()

    def write(self, data: bytes | memoryview) -> None:
        self._bytes += data

    def rewrite(self, offset: int, data: bytes) -> None:
        start = _HEAD_BYTES + offset
        self._bytes[start : start + len(data)] = data

    @contextmanager
    def content(self) -> Iterator[Buffer]:
        with memoryview(self._bytes) as whole, whole[_HEAD_BYTES:] as data:
            yield data

    @contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:
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

    def header(self) -> Dataset:
        syntax = self.received.transfer_syntax_uid.encode("ascii").ljust(_UID_BYTES, b"\0")
        element = pack("<HH2sH", 0x0002, 0x0010, b"UI", _UID_BYTES) + syntax
        length = pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(element))
        self._bytes[:_HEAD_BYTES] = bytes(128) + b"DICM" + length + element
        return dcmread(io.BytesIO(self._bytes), stop_before_pixels=True)
