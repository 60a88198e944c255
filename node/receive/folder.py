"""The folder as a transport: a watched folder, whose settled files go through the same ingest.

A file is settled when size and time of change were the same in two scans. One scan that finds
something counts as one association. Files stay where they are, and are remembered so that none is
taken twice.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

from node.domain.errors import InstanceRejected, is_out_of_resources
from node.domain.instance import Ending, Origin, Transport
from node.receive.ingest import Carried, Ingest, Receipt
from node.receive.store import FolderLog

_PIECE_BYTES = 1 << 20
_HEARTBEAT_EVERY = 20
_MEDIA_DIRECTORY = "DICOMDIR"
_DICOM_SUFFIXES = frozenset(("dcm", "dicom", "dic", "ima"))
_TEXT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRefused:
    """A file that was not kept."""

    path: Path
    reason: str
    dimse_status: int
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """What one scan did.

    Args:
        receipts: Of the files taken, in their order.
        waiting: Files that are not settled, or for which there was no room.
    """

    taken: tuple[Path, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    refused: tuple[FileRefused, ...] = ()
    waiting: int = 0


_Trace: TypeAlias = tuple[int, int]
"""Size in bytes and time of change in ns: how a file looked; another look is another file."""


@dataclass(slots=True)
class FolderWatch:
    """Scans one folder; ``scan`` is called by the process loop every second or so.

    Args:
        peer: Configured peer that counts as the sender, or empty.
    """

    folder: Path
    ingest: Ingest
    associations: FolderLog
    peer: str = ""
    _seen: dict[Path, _Trace] = field(default_factory=dict)
    _done: dict[Path, _Trace] = field(default_factory=dict)

    def scan(self, *, is_settled_at_once: bool = False) -> ScanReport:
        """Take every settled file; one association for all of them.

        Args:
            is_settled_at_once: For a folder that nobody writes to any more.
        Raises:
            TryLater: The association cannot be recorded now.
        """
        found = dict(_files_below(self.folder))
        fresh = {path: trace for path, trace in found.items() if self._done.get(path) != trace}
        settled = [
            path
            for path, trace in sorted(fresh.items())
            if is_settled_at_once or self._seen.get(path) == trace
        ]
        self._seen = found
        self._done = {path: trace for path, trace in self._done.items() if path in found}
        if not settled:
            return ScanReport(waiting=len(fresh))
        report = self._take_all(settled, fresh)
        waiting = len(fresh) - len(report.taken) - len(report.refused)
        return replace(report, waiting=waiting)

    def _take_all(self, settled: list[Path], traces: Mapping[Path, _Trace]) -> ScanReport:
        origin = Origin(
            transport=Transport.FOLDER,
            association_id="",
            peer=self.peer,
            address=str(self.folder)[-64:],
        )
        association_id = self.associations.opened(origin)
        origin = replace(origin, association_id=association_id)
        taken: dict[Path, Receipt] = {}
        refused: list[FileRefused] = []
        carried = Carried()
        is_whole = False
        try:
            for number, path in enumerate(settled):
                if number % _HEARTBEAT_EVERY == 0:
                    self.associations.heartbeat(association_id)
                try:
                    receipt = self._take(path, origin)
                except InstanceRejected as rejection:
                    carried.losses += 1
                    if is_out_of_resources(rejection.dimse_status):
                        break  # the file is tried again
                    refused.append(
                        FileRefused(
                            path=path,
                            reason=rejection.reason,
                            dimse_status=rejection.dimse_status,
                            sop_instance_uid=rejection.sop_instance_uid,
                        )
                    )
                else:
                    if receipt is not None:
                        carried.note(receipt)
                        taken[path] = receipt
                self._done[path] = traces[path]
            is_whole = True
        finally:
            self.associations.settle_losses({printable(path) for path in taken})
            for images, series in _losses_beside(taken, refused):
                self.associations.count_losses(association_id, images, series)
            self.associations.closed(
                association_id,
                Ending.RELEASED if is_whole else Ending.ABORTED,
                brought=carried.series,
                losses=carried.losses,
            )
        return ScanReport(
            taken=tuple(taken), receipts=tuple(taken.values()), refused=tuple(refused)
        )

    def _take(self, path: Path, origin: Origin) -> Receipt | None:
        """Send one file through the ingest; None where there is nothing to send."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            return take_file(self.ingest, file, path, origin)


def take_file(ingest: Ingest, file: BinaryIO, path: Path, origin: Origin) -> Receipt:
    """Send an open file through the ingest.

    Raises:
        InstanceRejected: It is not kept.
    """
    piece = file.read(_PIECE_BYTES)
    is_meant = is_meant_as_dicom(path.name, piece)
    arrival = ingest.begin_file(origin, source=printable(path), is_meant=is_meant)
    try:
        while piece:
            arrival.write(piece)
            piece = file.read(_PIECE_BYTES)
        return arrival.finish()
    finally:
        arrival.abandon()


def _losses_beside(
    taken: Mapping[Path, Receipt], refused: Collection[FileRefused]
) -> Iterator[tuple[set[str], set[str]]]:
    """Refused images of each folder, with the series that it holds as well.

    A scan may hold a whole archive: what names no series counts against those beside it.
    """
    series = defaultdict[Path, set[str]](set)
    for path, receipt in taken.items():
        series[path.parent].add(receipt.series_instance_uid)
    images = defaultdict[Path, set[str]](set)
    for each in refused:
        images[each.path.parent] |= {each.sop_instance_uid, printable(each.path)} - {""}
    for folder, lost in images.items():
        if folder in series:
            yield lost, series[folder]


def printable(path: Path) -> str:
    """A path as text that a database takes, whatever bytes the file is named with."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else "?" for each in text)


def is_meant_as_dicom(name: str, start: bytes) -> bool:
    """Whether a file was surely put there as DICOM: then it is an image that is missing if refused.

    By its suffix; without one, or with a part of a UID in its place, by not being text.
    """
    stem, dot, suffix = name.rpartition(".")
    if dot and stem and not suffix.isdigit():
        return suffix.lower() in _DICOM_SUFFIXES
    return not start or b"\0" in start[:_TEXT_BYTES]


def _files_below(folder: Path) -> Iterator[tuple[Path, _Trace]]:
    """Regular files of the folder and those below it; links and hidden files are left alone."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            # PS3.10 8.6: the directory of a medium names instances, it is none
            if name.startswith(".") or name.upper() == _MEDIA_DIRECTORY:
                continue
            path = Path(root, name)
            try:
                facts = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(facts.st_mode):
                yield path, (facts.st_size, facts.st_mtime_ns)
