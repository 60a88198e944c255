"""Destinations of kind ``folder``: files for people and programs that read them."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import string
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from node.deliver.destination import Destination, Probe, blocked, result_file_gone, sick
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.domain.settings import Mistake

# of a layout -> attribute of what is delivered
FIELDS = {
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "Modality": "modality",
    "model": "model",
    "output": "output",
    "ext": "ext",
}
DEFAULT_LAYOUT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.{ext}"

_SAFE = frozenset(string.ascii_letters + string.digits + "._- ")
# The file system cannot link, or may not: FAT, some network shares
_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDestination(Destination):
    """Writes each object once, under a name of the layout; what lies there is never replaced.

    Args:
        path: An existing folder. It is not created: where it is a mount that is gone, results must
            wait and not fill the disk below.
        layout: Relative path with fields in braces; none of them carries patient data.
    """

    needs: ClassVar[str] = "`path`, an existing folder"
    does: ClassVar[str] = "writes files below it, by `layout`"
    service: ClassVar[str] = "files, nothing on the network"
    carries_any_file: ClassVar[bool] = True

    kind: Literal["folder"] = "folder"
    path: Path
    layout: str = DEFAULT_LAYOUT

    def mistakes(self) -> Iterator[Mistake]:
        if sentence := _mistake_of(self.layout):
            yield "layout", sentence

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Write the object; done when file and folder are on the disk."""
        source = Path(deliverable.path)
        if not source.is_file():
            return result_file_gone()
        if not self.path.is_dir():
            return sick(f"the folder {self.path} is not there: create it, or mount it")
        target = self.path / self.relative_path(deliverable)
        try:
            _make_folders(self.path, target.parent)
            return _write_once(source, target)
        except OSError as error:
            return sick(f"the folder cannot be written: {os.strerror(error.errno or 0)}")

    def probe(self) -> Probe:
        if not self.path.is_dir():
            return Probe.bad(f"{self.path} is not there: create it, or mount it")
        if not os.access(self.path, os.W_OK | os.X_OK):
            return Probe.bad(f"{self.path} cannot be written")
        return Probe.good(f"{self.path} can be written")

    def relative_path(self, deliverable: DeliverableObject) -> Path:
        """Where below the folder the object will lie; no part can climb out of it."""
        values = {field: getattr(deliverable, name) for field, name in FIELDS.items()}
        values["model"] = deliverable.model or "result"
        return Path(*(_safe(part.format_map(values)) for part in self.layout.split("/")))


def _mistake_of(layout: str) -> str:
    """Why it is no relative path with nothing but our fields in braces; empty where it is one."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(layout)}
    except ValueError:
        return "a brace is not closed"
    if unknown := sorted(fields.difference(FIELDS, {None}), key=str):
        return f"unknown field {{{unknown[0]}}}; known are {', '.join(sorted(FIELDS))}"
    if any(part in ("", ".", "..") for part in layout.split("/")):
        return "must be a relative path without empty parts, . and .."
    return ""


def _safe(part: str) -> str:
    cleaned = "".join(c if c in _SAFE else "_" for c in part).strip(". ")[:200]
    return cleaned or "_"


def _make_folders(root: Path, folder: Path) -> None:
    if folder == root or folder.is_dir():
        return
    _make_folders(root, folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _write_once(source: Path, target: Path) -> Outcome:
    """Copy beside the target, sync, and give it its name only if the name is free."""
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(source, part)
        with part.open("rb+") as writer:
            os.fsync(writer.fileno())
        if not _claim(part, target) and not filecmp.cmp(source, target, shallow=False):
            return blocked(
                "another file with other content has this name already: "
                "put {SOPInstanceUID} into the layout, or move that file"
            )
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return Outcome(kind=DeliveryClass.SENT, sentence="written")


def _claim(part: Path, target: Path) -> bool:
    """Give the file its final name; False where the name is taken."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if target.exists():
            return False
        part.rename(target)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
