"""The folder as a transport: a watched folder, whose settled files go through the same ingest.

A file is settled when size and time of change were the same in two scans. One scan that finds
something counts as one association. Files stay where they are, and are remembered so that none is
taken twice.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeAlias

from node.domain.errors import InstanceRejected, is_out_of_resources
from node.domain.instance import Ending, Origin, Transport
from node.observe import counts
from node.receive.ingest import Carried, Ingest, Receipt
from node.receive.store import FolderLog

_PIECE_BYTES = 1 << 20
_HEARTBEAT_EVERY = 20
_BATCH = 500  # files looked up at once
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
        taken: In their order.
        waiting: Files that are not settled, or for which there was no room.
    """

    taken: tuple[Path, ...] = ()
    refused: tuple[FileRefused, ...] = ()
    waiting: int = 0


Trace: TypeAlias = tuple[int, int]
"""Size in bytes and time of change in ns: how a file looked; another look is another file."""

Known: TypeAlias = Callable[[Sequence[tuple[Path, Trace]]], Mapping[Path, Receipt]]
"""Tells of some files those that were taken before, looked the same then, and are kept still."""


@dataclass(slots=True)
class FolderWatch:
    """Scans one folder; ``scan`` is called by the process loop every second or so.

    Of a file that was dealt with it remembers 16 bytes, for as long as the file is there.

    Args:
        peer: Configured peer that counts as the sender, or empty.
    """

    folder: Path
    ingest: Ingest
    associations: FolderLog
    peer: str = ""
    _seen: dict[Path, Trace] = field(default_factory=dict)
    _done: set[bytes] = field(default_factory=set)

    def scan(self, *, is_settled_at_once: bool = False) -> ScanReport:
        """Take every settled file; one association for all of them.

        Args:
            is_settled_at_once: For a folder that nobody writes to any more.
        Raises:
            TryLater: The association cannot be recorded now.
        """
        fresh: dict[Path, Trace] = {}
        still_done: set[bytes] = set()
        for path, trace in files_below(self.folder):
            if (mark := _mark(path, trace)) in self._done:
                still_done.add(mark)
            else:
                fresh[path] = trace
        settled = [
            (path, trace)
            for path, trace in fresh.items()
            if is_settled_at_once or self._seen.get(path) == trace
        ]
        self._seen, self._done = fresh, still_done
        taken: list[Path] = []
        refused: list[FileRefused] = []
        if settled:
            origin = origin_of(self.folder, self.peer)
            for path, trace, became in take_files(self.ingest, self.associations, origin, settled):
                self._done.add(_mark(path, trace))
                if isinstance(became, FileRefused):
                    refused.append(became)
                elif became is not None:
                    taken.append(path)
        waiting = len(fresh) - len(taken) - len(refused)
        return ScanReport(taken=tuple(taken), refused=tuple(refused), waiting=waiting)


def _mark(path: Path, trace: Trace) -> bytes:
    return blake2b(os.fsencode(path) + b"%d %d" % trace, digest_size=16).digest()


def origin_of(folder: Path, peer: str = "") -> Origin:
    """Who sends what lies in a folder; its association is not open yet."""
    return Origin(
        transport=Transport.FOLDER, association_id="", peer=peer, address=str(folder)[-64:]
    )


def _nothing_known(_files: Sequence[tuple[Path, Trace]]) -> Mapping[Path, Receipt]:
    return {}


def take_files(
    ingest: Ingest,
    associations: FolderLog,
    origin: Origin,
    files: Iterable[tuple[Path, Trace]],
    known: Known = _nothing_known,
) -> Iterator[tuple[Path, Trace, Receipt | FileRefused | None]]:
    """Take files as one association; yields what became of each, None of one that vanished.

    It ends where there is no room for a file: that one and those after it are to be tried again.

    Args:
        known: What it tells is not opened, and counts as if it had come again.
    Raises:
        TryLater: The association cannot be recorded now.
    """
    association_id = associations.opened(origin)
    origin = replace(origin, association_id=association_id)
    carried = Carried()
    beside = _Beside()
    is_whole = False
    try:
        for some in _batches(files):
            associations.heartbeat(association_id)
            receipts = known(some)
            for number, (path, trace) in enumerate(some):
                if number % _HEARTBEAT_EVERY == _HEARTBEAT_EVERY - 1:
                    associations.heartbeat(association_id)
                try:
                    receipt = receipts.get(path) or _take(ingest, path, origin)
                except InstanceRejected as rejection:
                    carried.losses += 1
                    counts.add(counts.INSTANCES_REFUSED, "folder", f"{rejection.dimse_status:04X}")
                    if is_out_of_resources(rejection.dimse_status):
                        is_whole = True
                        return  # the file is tried again
                    refused = FileRefused(
                        path=path,
                        reason=rejection.reason,
                        dimse_status=rejection.dimse_status,
                        sop_instance_uid=rejection.sop_instance_uid,
                    )
                    beside.note_refused(refused)
                    yield path, trace, refused
                    continue
                if receipt is not None:
                    carried.note(receipt)
                    beside.note_taken(path, receipt)
                yield path, trace, receipt
            beside.settle(associations)
        is_whole = True
    finally:
        beside.settle(associations)
        for images, series in beside.losses():
            associations.count_losses(association_id, images, series)
        associations.closed(
            association_id,
            Ending.RELEASED if is_whole else Ending.ABORTED,
            brought=carried.series,
            losses=carried.losses,
        )


def _batches(files: Iterable[tuple[Path, Trace]]) -> Iterator[list[tuple[Path, Trace]]]:
    rest = iter(files)
    while some := list(islice(rest, _BATCH)):
        yield some


def _take(ingest: Ingest, path: Path, origin: Origin) -> Receipt | None:
    """Send one file through the ingest; None where there is nothing to send."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        return take_file(ingest, file, path, origin)


class _Beside:
    """Refused images of each folder, and the series that it holds as well.

    A scan may hold a whole archive: what names no series counts against those beside it.
    """

    def __init__(self) -> None:
        self._series = defaultdict[Path, set[str]](set)
        self._images = defaultdict[Path, set[str]](set)
        self._taken: set[str] = set()

    def note_taken(self, path: Path, receipt: Receipt) -> None:
        self._series[path.parent].add(receipt.series_instance_uid)
        self._taken.add(printable(path))

    def note_refused(self, each: FileRefused) -> None:
        self._images[each.path.parent] |= {each.sop_instance_uid, printable(each.path)} - {""}

    def settle(self, associations: FolderLog) -> None:
        """What was lost under the name of a file that is taken now has come."""
        if self._taken:
            associations.settle_losses(self._taken)
            self._taken = set()

    def losses(self) -> Iterator[tuple[set[str], set[str]]]:
        for folder, lost in self._images.items():
            if folder in self._series:
                yield lost, self._series[folder]


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


def files_below(folder: Path) -> Iterator[tuple[Path, Trace]]:
    """Regular files of the folder and those below it, in the order of their paths, one at a time.

    Links and hidden files are left alone.
    """
    within = [iter(_entries_of(folder))]
    while within:
        for entry in within[-1]:
            if entry.is_dir(follow_symlinks=False):
                within.append(iter(_entries_of(Path(entry.path))))
                break
            # PS3.10 8.6: the directory of a medium names instances, it is none
            if entry.name.upper() == _MEDIA_DIRECTORY:
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(facts.st_mode):
                yield Path(entry.path), (facts.st_size, facts.st_mtime_ns)
        else:
            within.pop()


def _entries_of(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:  # it may not be read, or is gone
        return []
    return sorted(shown, key=lambda entry: entry.name)
