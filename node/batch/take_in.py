"""The folder of ``segnode run`` as one scan, with an account of every file that brought nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

from pydicom.misc import is_dicom

from node.batch.source_files import SourceFiles
from node.batch.workers import Say
from node.domain.errors import TryLater
from node.domain.instance import InstanceState
from node.pipeline.accept import IngestService
from node.receive.folder import FileRefused, Trace, files_below, origin_of, take_files
from node.receive.ingest import Receipt
from node.spool.retention import sweep_quarantine

NO_DICOM = "not a DICOM file"

_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file that brought no instance to the run, and why."""

    path: Path
    reason: str
    dimse_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What became of the files of a folder.

    Args:
        refused: No instances, or such as cannot be read.
        duplicates: Instances that another file of the folder holds as well.
        ignored: Files that were not opened: hidden ones, links, the directory of a medium.
    """

    refused: tuple[LeftOut, ...]
    duplicates: tuple[LeftOut, ...]
    ignored: tuple[LeftOut, ...]


def take_in(door: IngestService, source: Path, say: Say) -> TakenIn:
    """Take every file of a folder and those below it; one that an earlier run took is not opened.

    Raises:
        TryLater: There is no room for all of them.
    """
    say(f"reading {source}")
    # of an earlier run; what is still no good comes again
    while sweep_quarantine(door.index.engine, door.spool.quarantine.folder, inf):
        pass
    files = _Counted(files_below(source))
    memory = SourceFiles(door.index.engine, door.spool.instances, source)
    refused: list[LeftOut] = []
    duplicates: list[LeftOut] = []
    taken = 0
    became = take_files(door.ingest, door.index, origin_of(source), files, memory.known)
    for kept in _batches(became, refused):
        taken += len(kept)
        others = memory.note(kept)
        duplicates += [
            _duplicate(path, others[path], receipt) for path, _, receipt in kept if path in others
        ]
    waiting = files.count_all() - taken - len(refused)
    if waiting:
        shortage = door.spool.shortage or "some files were being written"
        raise TryLater(f"{waiting} files could not be taken in: {shortage}")
    memory.forget_others()
    say(
        f"{taken - len(duplicates)} instances taken in, "
        f"{len(duplicates)} duplicates, {len(refused)} files refused"
    )
    return TakenIn(
        refused=tuple(refused), duplicates=tuple(duplicates), ignored=tuple(_ignored(source))
    )


class _Counted:
    """Files of a folder, and how many they were."""

    def __init__(self, files: Iterator[tuple[Path, Trace]]) -> None:
        self._files = files
        self._count = 0

    def __iter__(self) -> Iterator[tuple[Path, Trace]]:
        for each in self._files:
            self._count += 1
            yield each

    def count_all(self) -> int:
        """Also those that nobody asked for."""
        return self._count + sum(1 for _ in self._files)


def _batches(
    became: Iterable[tuple[Path, Trace, Receipt | FileRefused | None]], refused: list[LeftOut]
) -> Iterator[list[tuple[Path, Trace, Receipt]]]:
    """Files that were taken, some at a time; those that were not go to ``refused``."""
    kept: list[tuple[Path, Trace, Receipt]] = []
    for path, trace, what in became:
        if isinstance(what, FileRefused):
            reason = _why(path, what.reason)
            refused.append(LeftOut(path=path, reason=reason, dimse_status=what.dimse_status))
        elif what is not None:
            kept.append((path, trace, what))
            if len(kept) == _BATCH:
                yield kept
                kept = []
    if kept:
        yield kept


def _duplicate(path: Path, other: Path, receipt: Receipt) -> LeftOut:
    """A file whose instance came before in this run; an earlier run does not count."""
    if receipt.state is InstanceState.AMENDED:
        reason = f"the instance of {other} with other attributes: the later file counts"
    else:
        reason = f"duplicate of {other}"
    return LeftOut(path=path, reason=reason)


def _why(path: Path, reason: str) -> str:
    """The ingest takes files without preamble too: what it says of a text file is hard to read."""
    try:
        return reason if is_dicom(path) else f"{NO_DICOM} ({reason})"
    except OSError:
        return reason


def _ignored(source: Path) -> Iterator[LeftOut]:
    """What a scan passes over; a hidden folder is named once."""
    for root, folders, names in os.walk(source):
        for name in sorted([*folders, *names]):
            path = Path(root, name)
            if name.startswith("."):
                yield LeftOut(path=path, reason="hidden")
            elif path.is_symlink():
                yield LeftOut(path=path, reason="a link: links are not followed")
            elif name in folders:
                continue
            elif name.upper() == "DICOMDIR":
                yield LeftOut(path=path, reason="the directory of a medium holds no instance")
            elif not path.is_file():
                yield LeftOut(path=path, reason="not a regular file")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
