"""The spool's files: one per kept version of an instance, made durable before anyone is told.

    incoming/*.part      being written
    instances/ab/<sha256 of SOP Instance UID>[.N].dcm      version 1, and amended versions N
    series/ab/<sha256 of Series Instance UID>      whose series it is
    quarantine/*.dcm     refused, kept aside for a person

A file appears under its name by ``link``, which fails where the name is taken: the same SOP
Instance UID is noticed across processes and machines without the database.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from uuid import uuid4

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin
from node.domain.received import Loss, Note, Received
from node.domain.statuses import PATIENT_MIX_UP, SAME_UID_OTHER_PIXELS
from node.domain.uids import file_stem, is_uid
from node.spool.digest_process import DigestProcess
from node.spool.duplicates import Duplicate, Known, Verdict, judge_duplicate
from node.spool.folders import SpoolFolders
from node.spool.index import Index
from node.spool.markers import SeriesMarkers
from node.spool.parts import SpoolPart, no_room
from node.spool.quarantine import QuarantineFolder
from node.spool.record import InstanceRecord, encode_record, read_record
from node.spool.space import SpaceGuard, Watermark
from node.spool.tombstones import Tombstones

# answers that a person may overrule, for the bytes themselves are sound
OVERRULABLE = frozenset((SAME_UID_OTHER_PIXELS, PATIENT_MIX_UP))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where the spool lies and what it may hold.

    Args:
        folders: Made when absent.
    """

    folders: SpoolFolders
    watermark: Watermark = field(default_factory=Watermark)
    quarantine_max_gb: float = 5.0


class Spool:
    """The files and the only hands that touch them; one per process, safe between threads."""

    def __init__(self, settings: SpoolSettings, index: Index) -> None:
        self._settings = settings
        self._index = index
        self.incoming = settings.folders.incoming
        self.instances = settings.folders.instances
        for folder in (self.incoming, self.instances, settings.folders.series):
            folder.mkdir(parents=True, exist_ok=True)
        self._shards = _open_shards(self.instances)
        self.markers = SeriesMarkers(settings.folders.series)
        self.quarantine = QuarantineFolder(
            settings.folders.quarantine, index, max_gb=settings.quarantine_max_gb
        )
        self._space = SpaceGuard(settings.folders.root, settings.watermark)
        self._digests = DigestProcess()
        self._tombstones = Tombstones(index.engine, index.now)
        self._noted: set[tuple[str, Note]] = set()
        self._name, self._numbers = uuid4().hex, count(1)  # no two spools name a part alike

    @property
    def shortage(self) -> str:
        """Why nothing can be taken now, in one sentence; empty when something can."""
        return self._space.shortage or self._index.trouble

    def forget_space(self) -> None:
        """Look at the disk anew: a write failed, or files were deleted."""
        self._space.forget()

    def new_part(self) -> SpoolPart:
        """Room for one instance.

        Raises:
            InstanceRejected: 0xA700, disk or index are short.
        """
        if self.shortage:
            raise no_room(self.shortage)
        return SpoolPart(self, self.incoming / f"{self._name}-{next(self._numbers):x}.part")

    def path_of(self, file_name: str) -> Path:
        """Where a file of the index lies."""
        return self.instances / file_name

    def close(self) -> None:
        """End the digest process and let go of the folders."""
        self._digests.close()
        for descriptor in self._shards.values():
            os.close(descriptor)
        self._shards.clear()

    def put_aside(
        self,
        part: SpoolPart,
        received: Received,
        origin: Origin,
        rejection: InstanceRejected,
        *,
        source: str = "",
    ) -> None:
        """Move a part to quarantine.

        Args:
            source: The file that it came from, where it came by one.
        """
        head = _head(received, origin, self._index.now(), version=0, rejection=rejection)
        self.quarantine.take(part, replace(head, source=source))

    def record_loss(self, loss: Loss) -> None:
        """Write down that an image was not kept."""
        self._index.record_loss(loss)

    def keep(
        self, part: SpoolPart, received: Received, origin: Origin, *, is_overruled: bool = False
    ) -> InstanceState:
        """Make a checked part durable, or recognise it.

        Args:
            is_overruled: A person decided that this instance counts, in spite of a conflict.
        Raises:
            InstanceRejected: 0xC020, other pixels under a known UID; 0xC021, another patient or
                study in the series; 0xA700, no room.
        """
        try:
            self._claim_series(received, is_overruled)
            deleted = self._tombstones.of(received)
            if received.received_sha256 in deleted.values():
                return InstanceState.DUPLICATE
            state = self._link(part, received, origin, deleted, is_overruled)
        except OSError as error:
            self.forget_space()
            raise no_room(f"the instance cannot be kept: {error.strerror}") from error
        if received.notes and state is not InstanceState.DUPLICATE:
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
                self._index.record_event(
                    note.value,
                    note.sentence,
                    series_instance_uid=series,
                    sop_instance_uid=received.sop_instance_uid,
                )

    def _claim_series(self, received: Received, is_overruled: bool) -> None:
        series = received.series_instance_uid
        if is_overruled or self.markers.claim(series, received.patient_key):
            return
        self._index.record_event(
            "patient_mix_up",
            "An instance of another patient or study came under the UID of this series.",
            series_instance_uid=series,
            sop_instance_uid=received.sop_instance_uid,
        )
        raise InstanceRejected(
            "the series belongs to another patient or study",
            dimse_status=PATIENT_MIX_UP,
            sop_instance_uid=received.sop_instance_uid,
        )

    def _link(
        self,
        part: SpoolPart,
        received: Received,
        origin: Origin,
        deleted: dict[int, str],
        is_overruled: bool,
    ) -> InstanceState:
        """Link the part under the next free version, after looking at the versions before."""
        stem = file_stem(received.sop_instance_uid)
        shard = self._shards[stem[:2]]
        while True:
            known, version, name = self._versions(stem, deleted)
            head = _head(received, origin, self._index.now(), version=version)
            verdict = Verdict.stored(received)
            if known:
                os.pwrite(part.descriptor, encode_record(head), 0)
                verdict = judge_duplicate(part.path, received, known, self._digests)
            if verdict.duplicate is Duplicate.DUPLICATE:
                # the first copy may still be on its way to the disk
                os.fsync(shard)
                return InstanceState.DUPLICATE
            self._report(verdict, received, is_overruled)
            head = replace(head, pixel_identity=verdict.pixel_identity)
            if self._place(part, head, name, shard):
                self._index.record_instance(head.instance(name))
                is_amended = verdict.duplicate is Duplicate.AMENDED
                return InstanceState.AMENDED if is_amended else InstanceState.STORED

    def _versions(self, stem: str, deleted: dict[int, str]) -> tuple[list[Known], int, str]:
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

    def _place(self, part: SpoolPart, head: InstanceRecord, name: str, shard: int) -> bool:
        """Make the part durable under its name; False when another process took the name."""
        os.pwrite(part.descriptor, encode_record(head), 0)
        os.fdatasync(part.descriptor)
        try:
            os.link(part.path, self.instances / name)
        except FileExistsError:
            return False
        os.fsync(shard)
        return True

    def _report(self, verdict: Verdict, received: Received, is_overruled: bool) -> None:
        """Write the event of an amended or conflicting copy; refuse the latter unless told."""
        if verdict.duplicate is Duplicate.NEW:
            return
        kind, sentence = _EVENTS[verdict.duplicate]
        self._index.record_event(
            kind,
            sentence,
            series_instance_uid=received.series_instance_uid,
            sop_instance_uid=received.sop_instance_uid,
        )
        if verdict.duplicate is Duplicate.CONFLICT and not is_overruled:
            raise InstanceRejected(
                "another instance is kept under this SOP Instance UID",
                dimse_status=SAME_UID_OTHER_PIXELS,
                sop_instance_uid=received.sop_instance_uid,
            )


def _open_shards(folder: Path) -> dict[str, int]:
    """Descriptors of the 256 folders of instances, made when absent, for their syncs."""
    shards: dict[str, int] = {}
    for number in range(256):
        path = folder / f"{number:02x}"
        path.mkdir(exist_ok=True)
        shards[path.name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)
    return shards


def _head(
    received: Received,
    origin: Origin,
    now: float,
    *,
    version: int,
    rejection: InstanceRejected | None = None,
) -> InstanceRecord:
    """The head of a file; of a refused one only what is well formed goes into it."""
    uids = {
        name: uid if is_uid(uid := getattr(received, name)) else ""
        for name in (
            "sop_class_uid",
            "sop_instance_uid",
            "transfer_syntax_uid",
            "study_instance_uid",
            "series_instance_uid",
        )
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
        dimse_status=rejection.dimse_status if rejection else 0,
        reason=rejection.reason if rejection else "",
    )
