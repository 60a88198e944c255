"""The strict ingest without a store: what would become of a file, and the header it would have.

``explain`` and the quarantine ask it, so that nobody judges a file by other rules than the door.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin, Road
from node.domain.received import Received
from node.domain.uids import is_uid
from node.receive.header_check import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    TopLevel,
    read_uids,
)
from node.receive.ingest import Ingest, encoding_of
from node.receive.walk import Buffer, Element, Structure, walk

_PIECE_BYTES = 1 << 20
_UID_BYTES = 64
_PREFIX_END = 132
_ORIGIN = Origin(road=Road.FOLDER, association_id="")
# preamble, group length and Transfer Syntax UID (PS3.10 7.1), before it is known which one
_HEAD_BYTES = 128 + 4 + 12 + 8 + _UID_BYTES


class DryRun:
    """Sends files through the ingest and keeps nothing.

    Attributes:
        is_part10: Whether the file checked last has a preamble and prefix.

    Args:
        transfer_syntaxes: What the node decodes, such as ``syntaxes.Decodable()``.
    """

    def __init__(self, transfer_syntaxes: Container[str]) -> None:
        self._ingest = Ingest(self, transfer_syntaxes=transfer_syntaxes)
        self._part = _DryPart()
        self.is_part10 = False

    def new_part(self) -> _DryPart:
        """Room in memory; the file before is forgotten."""
        self._part = _DryPart()
        return self._part

    def check(self, path: Path) -> Received:
        """What the ingest learns of a file that it takes.

        Raises:
            InstanceRejected: The ingest refuses it; ``known()`` tells what was learnt before.
            OSError: The file cannot be read.
        """
        with path.open("rb") as file:
            self.is_part10 = file.read(_PREFIX_END).endswith(b"DICM")
            file.seek(0)
            arrival = self._ingest.begin_file(_ORIGIN)
            while piece := file.read(_PIECE_BYTES):
                arrival.write(piece)
            arrival.finish()
        return self._part.received

    def known(self) -> Received:
        """What is known of the file checked last, taken or refused: a cut one by what is left."""
        received = self._part.received
        if received.series_instance_uid:
            return received
        found: dict[int, Element] = {}
        with self._part.content() as data:
            encoding = encoding_of(received.transfer_syntax_uid)
            with suppress(InstanceRejected):
                walk(data, encoding, found=found)
            uids = read_uids(
                TopLevel(data, Structure(encoding=encoding, elements=found, fragments=None))
            )
        instance, series = (
            uid if is_uid(uid) else ""
            for uid in (uids[SOP_INSTANCE_UID], uids[SERIES_INSTANCE_UID])
        )
        return replace(received, sop_instance_uid=instance, series_instance_uid=series)

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

    def quarantine(self, received: Received, origin: Origin, rejection: InstanceRejected) -> None:
        del origin, rejection
        self.received = received

    def discard(self) -> None:
        """Nothing lies anywhere."""

    def header(self) -> Dataset:
        syntax = self.received.transfer_syntax_uid.encode("ascii").ljust(_UID_BYTES, b"\0")
        element = pack("<HH2sH", 0x0002, 0x0010, b"UI", _UID_BYTES) + syntax
        length = pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(element))
        self._bytes[:_HEAD_BYTES] = bytes(128) + b"DICM" + length + element
        return dcmread(io.BytesIO(self._bytes), stop_before_pixels=True)
