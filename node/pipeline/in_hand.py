"""What a process has in hand, written where it outlives the process.

A series that kills its process would kill the next one as well: whoever starts finds what was in hand when
one died. A note is 64 bytes on a page that the kernel keeps, and no write to the disk: it tells of
processes that died, not of machines.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_LENGTH = 64  # of a UID (PS3.5 9.1)


class InHand:
    """The note of one process; its lock is what tells that the process lives.

    Args:
        folder: Of all processes of a role; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / uuid4().hex
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    @contextmanager
    def holding(self, uid: str) -> Iterator[None]:
        """Note what is worked on; an error is no death."""
        os.pwrite(self._descriptor, uid.encode().ljust(_LENGTH), 0)
        try:
            yield
        finally:
            os.pwrite(self._descriptor, b" " * _LENGTH, 0)

    def left_by_the_dead(self) -> list[str]:
        """What was in hand of those that died since somebody asked; each is told once."""
        found = []
        for path in self._folder.iterdir():
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(os.read(descriptor, _LENGTH).decode("ascii", "replace").strip())
                path.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)
        return [uid for uid in found if uid]

    def close(self) -> None:
        """Nothing is in hand any more."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
