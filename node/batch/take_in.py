"""The folder of ``segnode run`` as one scan, with an account of every file that brought nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.misc import is_dicom

from node.batch.workers import Say
from node.domain.errors import TryLater
from node.domain.instance import InstanceState
from node.pipeline.accept import IngestService
from node.receive.folder import FolderWatch, ScanReport

NO_DICOM = "not a DICOM file"


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
    """Take every file of a folder and those below it.

    Raises:
        TryLater: There is no room for all of them.
    """
    say(f"reading {source}")
    for row in door.quarantine.rows():  # of an earlier run; what is still no good comes again
        door.quarantine.discard(row.id)
    watch = FolderWatch(source, door.ingest, door.index)
    report = watch.scan(is_settled_at_once=True)
    if report.waiting:
        shortage = door.spool.shortage or "some files were being written"
        raise TryLater(f"{report.waiting} files could not be taken in: {shortage}")
    duplicates = tuple(_duplicates(report))
    say(
        f"{len(report.taken) - len(duplicates)} instances taken in, "
        f"{len(duplicates)} duplicates, {len(report.refused)} files refused"
    )
    return TakenIn(
        refused=tuple(
            LeftOut(path=one.path, reason=_why(one.path, one.reason), dimse_status=one.dimse_status)
            for one in report.refused
        ),
        duplicates=duplicates,
        ignored=tuple(_ignored(source)),
    )


def _duplicates(report: ScanReport) -> Iterator[LeftOut]:
    """Files whose instance came before in this scan; an earlier run does not count."""
    first: dict[str, Path] = {}
    for path, receipt in zip(report.taken, report.receipts, strict=True):
        other = first.setdefault(receipt.sop_instance_uid, path)
        if other is path:
            continue
        if receipt.state is InstanceState.AMENDED:
            reason = f"the instance of {other} with other attributes: the later file counts"
        else:
            reason = f"duplicate of {other}"
        yield LeftOut(path=path, reason=reason)


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
