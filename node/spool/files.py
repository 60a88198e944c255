"""The spool's files: one per kept version of an instance, made durable before anyone is told.

    incoming/*.part      being written
    instances/ab/<sha256 of SOP Instance UID>[.N].dcm      version 1, and amended versions N
    series/ab/<sha256 of Series Instance UID>      whose series it is
    quarantine/*.dcm     refused, kept aside for a person

One subject: what a name means, who may take it, and whether there is room for one more. A file
appears under its name by ``link``, which fails where the name is taken: the same SOP Instance UID
is noticed across processes and machines without the database.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

from node.domain.errors import InstanceRejected, Status
from node.domain.instance import InstanceState, Origin
from node.domain.limits import IngestLimits
from node.domain.received import Loss, Note, Received
from node.domain.uids import file_stem, is_uid
from node.spool.digest_process import DigestProcesses
from node.spool.duplicates import Duplicate, Known, judge_duplicate
from node.spool.index import Index, KnownSeries
from node.spool.parts import (
    Inflating,
    InstanceRecord,
    SpoolPart,
    encode_record,
    no_room,
    read_record,
)
from node.spool.quarantine import QuarantineFolder

_UIDS = (
    *("sop_class_uid", "sop_instance_uid", "transfer_syntax_uid"),
    *("study_instance_uid", "series_instance_uid"),
)
_MAX_NOTED = 10_000  # series times notes remembered by one process

_EVENTS = {
    Duplicate.AMENDED: (
        "amended",
        "An instance came again with the same pixels and another header; the newest header counts.",
    ),
    Duplicate.CONFLICT: (
        "conflict",
        "An instance came again with other pixels or another place under the same UID.",
    ),
}
_GIGABYTE = 1_000_000_000
_CACHE_S = 0.25
_CACHE_BYTES = 4 << 20
_PART_BYTES = 64 << 10  # what an empty part counts as: it takes an inode
_INODES = 1000  # kept in reserve where there are many
_MOST_BYTES = 1024  # a key has 64


class SpoolFolders:
    """The folders of a spool.

    Args:
        root: ``<data_dir>/spool``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.instances = root / "instances"
        self.series = root / "series"
        self.quarantine = root / "quarantine"

    @classmethod
    def of(cls, data_dir: Path) -> SpoolFolders:
        return cls(data_dir / "spool")

    def made(self) -> SpoolFolders:
        """Themselves, made when absent."""
        for folder in (self.incoming, self.instances, self.series, self.quarantine):
            folder.mkdir(parents=True, exist_ok=True)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """Where the node stops taking instances, before the disk does it."""

    reserve_gb: float = 5.0
    max_used_percent: float = 85.0


@dataclass(slots=True)
class SpaceGuard:
    """Watches the file system that holds a folder.

    It looks again after a quarter of a second, and after 4 MB were written: with one of these for all
    threads of a process, each process goes so far beyond the watermark at most.

    Args:
        folder: It must be there for anything to be taken.
    """

    folder: Path
    watermark: Watermark
    monotonic_s: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    _looked_at: float = -inf
    _shortage: str = ""
    _taken_bytes: int = 0

    @classmethod
    def of(cls, settings: SpoolSettings) -> SpaceGuard:
        """The one that tells whether a spool takes instances."""
        return cls(settings.folders.incoming, settings.watermark)

    @property
    def shortage(self) -> str:
        """One sentence when there is no room, else empty."""
        now = self.monotonic_s()
        if now - self._looked_at >= _CACHE_S:
            self._taken_bytes = 0
            self._shortage = self._look()
            self._looked_at = now
        return self._shortage

    def take(self, size_bytes: int) -> str:
        """So many bytes are about to be written: the shortage, looked at anew where it is due."""
        self._taken_bytes += size_bytes
        if self._taken_bytes >= _CACHE_BYTES:
            self.forget()
        return self.shortage

    def forget(self) -> None:
        """Look again at the next question: something was just deleted, or failed to be written."""
        self._looked_at = -inf

    def _look(self) -> str:
        try:
            disk = os.statvfs(self.folder)
        except OSError as error:
            return f"the folder for instances cannot be used ({error.strerror})"
        if disk.f_flag & os.ST_RDONLY:
            return "the disk for instances is read-only"
        free_gb = disk.f_bavail * disk.f_frsize / _GIGABYTE
        usable = disk.f_blocks - disk.f_bfree + disk.f_bavail
        used_percent = 100.0 * (1 - disk.f_bavail / usable) if usable else 100.0
        reserve_gb, limit = self.watermark.reserve_gb, self.watermark.max_used_percent
        if free_gb < reserve_gb:
            return f"{free_gb:.1f} GB free, {reserve_gb:g} GB are kept in reserve"
        if used_percent > limit:
            return f"the disk is {used_percent:.0f} % full, the limit is {limit:g} %"
        inodes = min(_INODES, disk.f_files // 10)
        if disk.f_favail < inodes:
            return f"{disk.f_favail} inodes free, {inodes} are kept in reserve"
        return ""


class SeriesMarkers:
    """The folder of markers: one small file per series that says whose it is.

    The first instance of a series makes the file, by ``link``, which only one process can do; every
    later one must agree with it. So "two patients in one series" is found without the database.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def claim(self, series_instance_uid: str, key: str) -> bool:
        """Whether the series belongs to ``key``: it did before, or does from now on.

        Raises:
            OSError: The marker can neither be read nor written.
        """
        path = self._path(series_instance_uid)
        try:
            found = _read_marker(path)
        except FileNotFoundError:
            found = self._make(path, key)
        return (found or self._fill(path, key)) == key

    def release(self, series_instance_uid: str) -> None:
        """Forget a series none of whose files is left."""
        self._path(series_instance_uid).unlink(missing_ok=True)

    def _path(self, series_instance_uid: str) -> Path:
        stem = file_stem(series_instance_uid)
        return self._folder / stem[:2] / stem

    def _fill(self, path: Path, key: str) -> str:
        """A damaged disk left a name without its text: whoever comes first writes it."""
        with path.open("r+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if found := file.read():
                return found
            file.write(key)
            file.flush()
            os.fdatasync(file.fileno())
        return key

    def _make(self, path: Path, key: str) -> str:
        path.parent.mkdir(exist_ok=True)
        fresh = path.parent / f".{uuid4().hex}"
        try:
            with fresh.open("x", encoding="ascii") as file:
                file.write(key)
                file.flush()
                os.fdatasync(file.fileno())
            path.hardlink_to(fresh)
        except FileExistsError:
            return _read_marker(path)
        finally:
            fresh.unlink(missing_ok=True)
        return key


def _read_marker(path: Path) -> str:
    """The text of a marker; asked for every instance, so without the layers of a Python file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_BYTES).decode("ascii")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where the spool lies and what it may hold.

    Args:
        folders: Made when absent.
    """

    folders: SpoolFolders
    watermark: Watermark = field(default_factory=Watermark)
    quarantine_max_gb: float = 5.0
    max_instances_per_series: int = IngestLimits().max_instances_per_series


class Spool:
    """The files and the only hands that touch them; one per process, safe between threads."""

    def __init__(self, settings: SpoolSettings, index: Index) -> None:
        self._index = index
        folders = settings.folders.made()
        self.incoming, self.instances = folders.incoming, folders.instances
        _make_shards(self.instances)
        self.markers = SeriesMarkers(folders.series)
        self.quarantine = QuarantineFolder(
            folders.quarantine, index, max_gb=settings.quarantine_max_gb
        )
        self._space = SpaceGuard.of(settings)
        self.inflating = Inflating()
        self._digests = DigestProcesses()
        self._series = KnownSeries(index.engine, index.now, settings.max_instances_per_series)
        self._noted: set[tuple[str, Note]] = set()
        self._name, self._numbers = uuid4().hex, count(1)  # no two spools name a part alike

    @property
    def shortage(self) -> str:
        """Why nothing can be taken now, in one sentence; empty when something can."""
        return self._space.shortage or self._index.trouble

    def forget_space(self) -> None:
        """Look at the disk anew: a write failed, or files were deleted."""
        self._space.forget()

    def take_space(self, size_bytes: int) -> None:
        """So many bytes are about to be written.

        Raises:
            InstanceRejected: 0xA700, the disk is short.
        """
        if shortage := self._space.take(size_bytes):
            raise no_room(shortage)

    def new_part(self) -> SpoolPart:
        """Room for one instance.

        Raises:
            InstanceRejected: 0xA700, disk or index are short.
        """
        self.take_space(_PART_BYTES)
        if self.shortage:
            raise no_room(self.shortage)
        return SpoolPart(self, self.incoming / f"{self._name}-{next(self._numbers):x}.part")

    def path_of(self, file_name: str) -> Path:
        return self.instances / file_name

    def close(self) -> None:
        """End the digest process."""
        self._digests.close()

    def put_aside(
        self,
        part: SpoolPart,
        received: Received,
        origin: Origin,
        why: InstanceRejected,
        source: str,
    ) -> None:
        """Move a part to quarantine.

        Args:
            source: The file that it came from, where it came by one.
        """
        head = replace(
            _head(received, origin, self._index.now(), version=0),
            dimse_status=why.dimse_status,
            reason=why.reason,
            source=source,
        )
        self.quarantine.take(part, head)

    def record_loss(self, loss: Loss) -> None:
        self._index.record_loss(loss)

    def keep(
        self, part: SpoolPart, received: Received, origin: Origin, *, is_overruled: bool = False
    ) -> InstanceState:
        """Make a checked part durable, or recognise it.

        Args:
            is_overruled: A person decided that this instance counts, in spite of a conflict.
        Raises:
            InstanceRejected: 0xC020, other pixels under a known UID; 0xC021, another patient or
                study in the series; 0xC031, the series is full; 0xA700, no room.
        """
        try:
            self._claim_series(received, is_overruled)
            deleted = self._series.deleted(received)
            if received.received_sha256 in deleted.values():
                return InstanceState.DUPLICATE
            state = self._link(part, received, origin, deleted, is_overruled)
        except OSError as error:
            self.forget_space()
            raise no_room(f"the instance cannot be kept: {error.strerror}") from error
        if state is not InstanceState.DUPLICATE:
            self._record_notes(received)
        return state

    def _record_notes(self, received: Received) -> None:
        """One event per series and kind: a thousand images of one exporter are one fact."""
        if len(self._noted) > _MAX_NOTED:
            self._noted.clear()
        series = received.series_instance_uid
        for note in received.notes:
            if (series, note) not in self._noted:
                self._noted.add((series, note))
                self._tell(note.value, note.sentence, received)

    def _tell(self, kind: str, sentence: str, received: Received) -> None:
        self._index.record_event(
            kind,
            sentence,
            series_instance_uid=received.series_instance_uid,
            sop_instance_uid=received.sop_instance_uid,
        )

    def _claim_series(self, received: Received, is_overruled: bool) -> None:
        if is_overruled or self.markers.claim(received.series_instance_uid, received.patient_key):
            return
        self._tell(
            "patient_mix_up",
            "An instance of another patient or study came under the UID of this series.",
            received,
        )
        raise InstanceRejected(
            "the series belongs to another patient or study",
            dimse_status=Status.PATIENT_MIX_UP,
            sop_instance_uid=received.sop_instance_uid,
        )

    def _link(
        self,
        part: SpoolPart,
        received: Received,
        origin: Origin,
        deleted: Mapping[int, str],
        is_overruled: bool,
    ) -> InstanceState:
        """Link the part under the next free version, after looking at the versions before."""
        stem = file_stem(received.sop_instance_uid)
        while True:
            known, version, name = self._versions(stem, deleted)
            head = _head(received, origin, self._index.now(), version=version)
            state = InstanceState.STORED
            if known:
                os.pwrite(part.descriptor, encode_record(head), 0)
                verdict = judge_duplicate(part.path, received, known, self._digests)
                if verdict.duplicate is Duplicate.DUPLICATE:
                    # the first copy may still be on its way to the disk
                    _sync_folder(known[0].path.parent)
                    return InstanceState.DUPLICATE
                self._require_room(received, is_overruled)
                self._report(verdict.duplicate, received, is_overruled)
                head = replace(head, pixel_identity=verdict.pixel_identity)
                if verdict.duplicate is Duplicate.AMENDED:
                    state = InstanceState.AMENDED
            else:
                self._require_room(received, is_overruled)
            if self._place(part, head, name):
                self._series.note(received)
                self._index.record_instance(head.instance(name))
                return state

    def _require_room(self, received: Received, is_overruled: bool) -> None:
        """Refuse what its series has no room for, unless a person decided otherwise."""
        if not is_overruled:
            self._series.require_room(received)

    def _versions(self, stem: str, deleted: Mapping[int, str]) -> tuple[list[Known], int, str]:
        """The versions on disk, and number and name of the next one."""
        known: list[Known] = []
        for version in count(1):
            name = f"{stem[:2]}/{stem}.dcm" if version == 1 else f"{stem[:2]}/{stem}.{version}.dcm"
            path = self.instances / name
            if version in deleted:
                continue
            if not path.exists():
                break
            known.append(Known(path, read_record(path)))
        return known, version, name

    def _place(self, part: SpoolPart, head: InstanceRecord, name: str) -> bool:
        """Make the part durable under its name; False when another process took the name."""
        path = self.instances / name
        os.pwrite(part.descriptor, encode_record(head), 0)
        os.fdatasync(part.descriptor)
        try:
            os.link(part.path, path)
        except FileExistsError:
            return False
        _sync_folder(path.parent)
        return True

    def _report(self, duplicate: Duplicate, received: Received, is_overruled: bool) -> None:
        """Write the event of an amended or conflicting copy; refuse the latter unless told."""
        kind, sentence = _EVENTS[duplicate]
        self._tell(kind, sentence, received)
        if duplicate is Duplicate.CONFLICT and not is_overruled:
            raise InstanceRejected(
                "another instance is kept under this SOP Instance UID",
                dimse_status=Status.SAME_UID_OTHER_PIXELS,
                sop_instance_uid=received.sop_instance_uid,
            )


def _make_shards(folder: Path) -> None:
    """The 256 folders of instances, made when absent."""
    for number in range(256):
        (folder / f"{number:02x}").mkdir(exist_ok=True)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; it is opened anew: another disk may be there by now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _head(received: Received, origin: Origin, now: float, *, version: int) -> InstanceRecord:
    """The head of a file; of a refused one only what is well formed goes into it."""
    uids: dict[str, Any] = {
        name: uid if is_uid(uid := getattr(received, name)) else "" for name in _UIDS
    }
    return InstanceRecord(
        **uids,
        origin=origin,
        received_at=now,
        received_sha256=received.received_sha256,
        size_bytes=received.size_bytes,
        version=version,
        pixel_identity=received.received_sha256,
        is_input=received.is_input,
        patient_key=received.patient_key,
    )
