"""A file of the spool as it is written: ``incoming/*.part``, the data set and the head in front.

The first 2048 bytes of every file are preamble, group 0002 and the node's own record. The data set
always starts at the same place, so it is written before anything is known of it; the head is put in
front at the end, and until then the file is no DICOM file. The record (origin, digests, time) stands
in Private Information (0002,0102), which also fills the rest: index rows can be rebuilt from the
files alone, and any DICOM tool still reads them.

Each part is locked by the process that writes it, so one left behind by a killed process can be
told from one in use.

Source: PS3.10 7.1
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from struct import pack, unpack_from
from threading import Lock
from typing import TYPE_CHECKING

from node.domain.errors import InstanceRejected, Status
from node.domain.instance import Instance, InstanceState, Origin, Transport
from node.domain.received import Received
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, uid_from
from node.spool.tables import SENDER_WIDTHS

if TYPE_CHECKING:
    from node.spool.files import Spool

HEAD_BYTES = 2048

_RECORD_CREATOR_UID = uid_from("segnode", "spool record", "1")
# twice what one instance may be inflated to
_MAX_INFLATING_BYTES = 8 << 30
_PREAMBLE = bytes(128) + b"DICM"
_RECORD_TAG = 0x0102
_SOURCE_CHARACTERS = 80  # the end of a path, which may be of four bytes each
_OF_INSTANCE = tuple({each.name for each in fields(Instance)} - {"file_name", "data_offset"})


def no_room(reason: str) -> InstanceRejected:
    """The rejection of an instance for want of disk or index; a later try may succeed."""
    return InstanceRejected(reason, dimse_status=Status.OUT_OF_RESOURCES, quarantine=False)


class SpoolPart:
    """One incoming instance; not for use by two threads at once."""

    def __init__(self, spool: Spool, path: Path) -> None:
        self._spool = spool
        self.path = path
        try:
            self.descriptor = _open_locked(self.path)
        except OSError as error:
            raise no_room(f"no file can be made: {error.strerror}") from error
        self._end = HEAD_BYTES
        self._is_open = True

    def write(self, data: bytes | memoryview) -> None:
        self._end = _append(self._spool, self.descriptor, self._end, data)

    def rewrite(self, offset: int, data: bytes) -> None:
        """Put bytes in the place of some that were written."""
        try:
            os.pwrite(self.descriptor, data, HEAD_BYTES + offset)
        except OSError as error:
            raise no_room(f"the instance cannot be written: {error.strerror}") from error

    @contextmanager
    def content(self) -> Iterator[bytes | memoryview]:
        """The data-set bytes written so far."""
        if self._end <= HEAD_BYTES:
            yield b""
            return
        with (
            mmap.mmap(self.descriptor, self._end, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as whole,
            whole[HEAD_BYTES:] as data,
        ):
            yield data

    @contextmanager
    def scratch(self) -> Iterator[ScratchFile]:
        """A nameless file on the same disk."""
        try:
            file = tempfile.TemporaryFile(dir=self.path.parent, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise no_room(f"no file can be made: {error.strerror}") from error
        with file, self._spool.inflating.some() as room:
            yield ScratchFile(self._spool, room, file.fileno())

    def keep(self, received: Received, origin: Origin) -> InstanceState:
        """Make the instance durable."""
        return self._spool.keep(self, received, origin)

    def quarantine(
        self, received: Received, origin: Origin, rejection: InstanceRejected, *, source: str = ""
    ) -> None:
        """Keep the bytes aside, with the reason and the file that they came from."""
        self._spool.put_aside(self, received, origin, rejection, source)

    def discard(self) -> None:
        """Close and remove the part; harmless when that was done.

        One that cannot be removed now is stale once it is closed.
        """
        if not self._is_open:
            return
        self._is_open = False
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class Inflating:
    """What all parts of a process are inflated to at once, within a bound."""

    def __init__(self, max_bytes: int = _MAX_INFLATING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._held_bytes = 0

    @contextmanager
    def some(self) -> Iterator[Callable[[int], None]]:
        """Takes room as it is called with sizes; gives it back at the end.

        Raises:
            InstanceRejected: From the call: 0xA700, the bound is reached.
        """
        mine = 0

        def take(size_bytes: int) -> None:
            nonlocal mine
            with self._lock:
                if self._held_bytes + size_bytes > self._max_bytes:
                    raise no_room("too much is being inflated at once")
                self._held_bytes += size_bytes
            mine += size_bytes

        try:
            yield take
        finally:
            with self._lock:
                self._held_bytes -= mine


class ScratchFile:
    """What a part is inflated to, on the same disk and within the same room."""

    def __init__(self, spool: Spool, take: Callable[[int], None], descriptor: int) -> None:
        self._spool = spool
        self._take = take
        self._descriptor = descriptor
        self._end = 0

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: bytes, /) -> int:
        self._take(len(data))
        self._end = _append(self._spool, self._descriptor, self._end, data)
        return len(data)


def _append(spool: Spool, descriptor: int, end: int, data: bytes | memoryview) -> int:
    """Write at the end of a file, where there is room; its end then.

    Raises:
        InstanceRejected: 0xA700, disk or watermark are reached.
    """
    spool.take_space(len(data))
    try:
        while data:
            written = os.pwrite(descriptor, data, end)
            end += written
            data = data[written:] if written < len(data) else b""
    except OSError as error:
        spool.forget_space()
        raise no_room(f"the instance cannot be written: {error.strerror}") from error
    return end


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        # shared: a rebuild that looks at this moment takes the exclusive lock and must not stop us
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # before the lock it looked like one of a dead process


# an empty part that nobody locks yet may be a moment old
_MAKING_S = 10.0


def remove_stale_parts(folder: Path, before: float = inf) -> int:
    """Remove parts whose process is gone and that were last written before a time; how many."""
    removed = 0
    for path in folder.glob("*.part"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime >= before:
                continue
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            status = os.fstat(file.fileno())
            is_being_made = not status.st_size and time.time() - status.st_mtime < _MAKING_S
            if status.st_nlink and not is_being_made:  # else it ended meanwhile
                path.unlink()
                removed += 1
    return removed


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """What a file of the spool says of itself.

    Args:
        version: 0 in quarantine.
        dimse_status: With ``reason`` and ``source``, the file that it came from: of a file in
            quarantine.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    origin: Origin
    received_at: float
    received_sha256: str
    size_bytes: int
    version: int
    pixel_identity: str = ""
    is_input: bool = False
    patient_key: str = ""
    dimse_status: int = 0
    reason: str = ""
    source: str = ""

    def instance(self, file_name: str) -> Instance:
        """The index row of a kept file."""
        same = {name: getattr(self, name) for name in _OF_INSTANCE}
        return Instance(**same, file_name=file_name, data_offset=HEAD_BYTES)


def said_by(origin: Origin) -> dict[str, str]:
    """What a sender said of itself, cut to what is kept of it."""
    return {name: getattr(origin, name)[:limit] for name, limit in SENDER_WIDTHS.items()}


def encode_record(head: InstanceRecord) -> bytes:
    """Preamble and group 0002, exactly ``HEAD_BYTES`` long."""
    calling, called = head.origin.calling_ae_title, head.origin.called_ae_title
    titles = ((0x0016, calling), (0x0017, calling), (0x0018, called))
    body = b"".join(
        (
            pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _text(0x0002, b"UI", head.sop_class_uid),
            _text(0x0003, b"UI", head.sop_instance_uid),
            _text(0x0010, b"UI", head.transfer_syntax_uid),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            # PS3.10 7.1: who sent it to us, and to which title of ours
            *(_text(element, b"AE", title) for element, title in titles if title),
            _text(0x0100, b"UI", _RECORD_CREATOR_UID),
        )
    )
    room = HEAD_BYTES - len(_PREAMBLE) - 12 - len(body) - 12
    record = json.dumps(_record(head), ensure_ascii=False, separators=(",", ":")).encode()
    if len(record) > room:
        raise ValueError(f"a record of {len(record)} bytes does not fit in {room}")
    body += pack("<HH2sHI", 0x0002, _RECORD_TAG, b"OB", 0, room) + record.ljust(room)
    return _PREAMBLE + pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(body)) + body


def decode_record(data: bytes) -> InstanceRecord:
    """The record of a spool file.

    Raises:
        ValueError: These are not the first bytes of a file that the spool wrote.
    """
    texts: dict[int, str] = {}
    position = len(_PREAMBLE)
    if len(data) < HEAD_BYTES or data[:position] != _PREAMBLE:
        raise ValueError("no file of the spool")
    while position < HEAD_BYTES:
        group, element, vr, length = unpack_from("<HH2sH", data, position)
        position += 8
        if vr == b"OB":
            (length,) = unpack_from("<I", data, position)
            position += 4
        if group != 0x0002 or position + length > HEAD_BYTES:
            raise ValueError("no file of the spool")
        if element == _RECORD_TAG:
            return _head(json.loads(data[position : position + length]), texts)
        texts[element] = data[position : position + length].rstrip(b" \0").decode("latin-1")
        position += length
    raise ValueError("no record in the file")


def read_record(path: Path) -> InstanceRecord:
    """The record of a spool file, read from its first bytes."""
    with path.open("rb", buffering=0) as file:
        return decode_record(file.read(HEAD_BYTES) or b"")


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _record(head: InstanceRecord) -> Mapping[str, object]:
    return {
        "study": head.study_instance_uid,
        "series": head.series_instance_uid,
        "road": head.origin.transport.value,  # the key that files of before have, too
        "association": head.origin.association_id,
        **{name: value for name, value in said_by(head.origin).items() if value},
        "received_at": head.received_at,
        "sha256": head.received_sha256,
        "size": head.size_bytes,
        "version": head.version,
        "pixels": head.pixel_identity if head.pixel_identity != head.received_sha256 else "",
        "input": head.is_input,
        "patient": head.patient_key,
        **({"status": head.dimse_status, "reason": head.reason[:120]} if head.dimse_status else {}),
        **({"source": head.source[-_SOURCE_CHARACTERS:]} if head.source else {}),
    }


def _head(record: Mapping[str, str], texts: Mapping[int, str]) -> InstanceRecord:
    sha256 = str(record["sha256"])
    return InstanceRecord(
        sop_class_uid=texts.get(0x0002, ""),
        sop_instance_uid=texts.get(0x0003, ""),
        transfer_syntax_uid=texts.get(0x0010, ""),
        study_instance_uid=str(record["study"]),
        series_instance_uid=str(record["series"]),
        origin=Origin(
            transport=Transport(record["road"]),
            association_id=str(record["association"]),
            **{name: str(record.get(name, "")) for name in SENDER_WIDTHS},
        ),
        received_at=float(record["received_at"]),
        received_sha256=sha256,
        size_bytes=int(record["size"]),
        version=int(record["version"]),
        pixel_identity=str(record["pixels"]) or sha256,
        is_input=bool(record["input"]),
        patient_key=str(record["patient"]),
        dimse_status=int(record.get("status", 0)),
        reason=str(record.get("reason", "")),
        source=str(record.get("source", "")),
    )
