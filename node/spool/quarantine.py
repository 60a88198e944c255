"""Quarantine: refused instances, kept aside for a person, within a bound."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from uuid import uuid4

from node.observe import counts
from node.spool.index import Index
from node.spool.parts import HEAD_BYTES, InstanceRecord, SpoolPart, encode_record, said_by

_GIGABYTE = 1_000_000_000
# a file takes whole blocks; many small ones fill a disk too
_BLOCK_BYTES = 4096
_RECOUNT_S = 10.0
_SAY_FULL_EVERY_S = 60.0
_AS_IT_STANDS = (
    *("size_bytes", "sop_instance_uid", "series_instance_uid"),
    *("dimse_status", "reason", "received_at"),
)


class QuarantineFolder:
    """The files of quarantine."""

    def __init__(self, folder: Path, index: Index, *, max_gb: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._index = index
        self._max_bytes = int(max_gb * _GIGABYTE)
        self._lock = Lock()
        self._held_bytes = 0
        self._counted_at = self._said_full_at = float("-inf")

    def take(self, part: SpoolPart, head: InstanceRecord) -> None:
        """Move a part here, with its row; when there is no room an event says so instead."""
        name = f"{uuid4().hex}.dcm"
        with self._lock:
            self._recount()
            size_bytes = _blocks(HEAD_BYTES + head.size_bytes)
            if self._held_bytes + size_bytes > self._max_bytes:
                self._say_full(head)
                return
            self._held_bytes += size_bytes
        try:
            os.pwrite(part.descriptor, encode_record(head), 0)
            part.path.rename(self.folder / name)
        except OSError:
            self._say_full(head)
            return
        self._index.record_quarantine(quarantine_values(head, name))

    def _recount(self) -> None:
        """Other processes put files here, and people take them away."""
        now = time.monotonic()
        if now - self._counted_at < _RECOUNT_S:
            return
        self._counted_at = now
        self._held_bytes = bytes_in(self.folder)

    def _say_full(self, head: InstanceRecord) -> None:
        counts.add(counts.NOT_SET_ASIDE, "quarantine is full")
        now = time.monotonic()
        if now - self._said_full_at < _SAY_FULL_EVERY_S:
            return
        self._said_full_at = now
        self._index.record_event(
            "quarantine_full",
            "Quarantine is full: refused instances are not kept; accept or discard some.",
            sop_instance_uid=head.sop_instance_uid,
        )


def bytes_in(folder: Path) -> int:
    """What the files of quarantine take of the disk.

    Raises:
        OSError: The folder is not there.
    """
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a person has just taken it away
                total += _blocks(entry.stat().st_size)
    return total


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def quarantine_values(head: InstanceRecord, file_name: str) -> dict[str, object]:
    said = said_by(head.origin)
    return {
        **{name: getattr(head, name) for name in _AS_IT_STANDS},
        "file_name": file_name,
        "source": head.source[-512:],
        "transport": head.origin.transport.value,
        **{name: said[name] for name in ("peer", "calling_ae_title", "address")},
        "state": "kept",
    }
