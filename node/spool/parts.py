"""A file that is being written: ``incoming/*.part``, with room for its head in front.

Each part is locked by the process that writes it, so one left behind by a killed process can be
told from one in use.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin
from node.domain.received import Received
from node.domain.statuses import OUT_OF_RESOURCES
from node.spool.record import HEAD_BYTES


def no_room(reason: str) -> InstanceRejected:
    """The rejection of an instance for want of disk or index; a later try may succeed."""
    return InstanceRejected(reason, dimse_status=OUT_OF_RESOURCES, quarantine=False)


class PartKeeper(Protocol):
    """Where a finished part goes."""

    def keep(self, part: SpoolPart, received: Received, origin: Origin) -> InstanceState: ...

    def put_aside(
        self,
        part: SpoolPart,
        received: Received,
        origin: Origin,
        rejection: InstanceRejected,
        *,
        source: str = "",
    ) -> None: ...

    def forget_space(self) -> None: ...


class SpoolPart:
    """One incoming instance; not for use by two threads at once."""

    def __init__(self, keeper: PartKeeper, path: Path) -> None:
        self._keeper = keeper
        self.path = path
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise no_room(f"no file can be made: {error.strerror}") from error
        # shared: a rebuild that looks at this moment takes the exclusive lock and must not stop us
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)
        self._end = HEAD_BYTES
        self._is_open = True

    def write(self, data: bytes | memoryview) -> None:
        """Append data-set bytes."""
        try:
            while data:
                written = os.pwrite(self.descriptor, data, self._end)
                self._end += written
                data = data[written:] if written < len(data) else b""
        except OSError as error:
            self._keeper.forget_space()
            raise no_room(f"the instance cannot be written: {error.strerror}") from error

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
    def scratch(self) -> Iterator[BinaryIO]:
        """A nameless file on the same disk."""
        try:
            file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - closed below
        except OSError as error:
            raise no_room(f"no file can be made: {error.strerror}") from error
        with file:
            yield file

    def keep(self, received: Received, origin: Origin) -> InstanceState:
        """Make the instance durable."""
        return self._keeper.keep(self, received, origin)

    def quarantine(
        self, received: Received, origin: Origin, rejection: InstanceRejected, *, source: str = ""
    ) -> None:
        """Keep the bytes aside, with the reason and the file that they came from."""
        self._keeper.put_aside(self, received, origin, rejection, source=source)

    def discard(self) -> None:
        """Close and remove the part; harmless when that was done."""
        if not self._is_open:
            return
        self._is_open = False
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def remove_stale_parts(folder: Path) -> int:
    """Remove parts whose process is gone; how many."""
    removed = 0
    for path in folder.glob("*.part"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)
            removed += 1
    return removed
