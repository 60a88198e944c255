"""How far the loops of a process come: until when each of them is due to show itself again.

A loop says at every round how long the next one may take. Once ``keep_in`` was called that stands in a file
that is mapped into memory: to say it takes a microsecond, and whoever looks finds a process that is stopped,
stuck or gone by a time that has passed. Times are of the monotonic clock, which all processes of a machine
share until it starts anew.

Source: clock_gettime(2), CLOCK_MONOTONIC
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import TypeAlias

Beat: TypeAlias = Callable[[str, float], None]
"""The name of a loop, and in how many seconds it shows itself again."""

START_S = 20.0
"""How long a process may take until its first loop goes round."""

_START = "start"
_SLOT = struct.Struct("<56sd")
_NUMBER = struct.Struct("<d")
_MOST_LOOPS = 32
_FILE_BYTES = _MOST_LOOPS * _SLOT.size


class Beats:
    """The loops of one process; safe between threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._file: mmap.mmap | None = None
        self._places: dict[str, int] = {}

    def keep_in(self, path: Path) -> None:
        """A process begins: it has no loop yet, and some time to get one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        os.ftruncate(descriptor, _FILE_BYTES)
        with self._lock:
            self._file = mmap.mmap(descriptor, _FILE_BYTES)
            self._places = {}
        os.close(descriptor)
        self.beat(_START, START_S)

    def beat(self, loop: str, within_s: float) -> None:
        """A loop is here, and comes round again within so many seconds."""
        place = self._places.get(loop)
        if place is None:
            place = self._new_place(loop)
        if self._file is not None and place < _MOST_LOOPS:
            due_s = self._monotonic() + within_s
            _NUMBER.pack_into(self._file, (place + 1) * _SLOT.size - _NUMBER.size, due_s)

    def end(self, loop: str) -> None:
        """A loop goes round no more, as it should."""
        self.beat(loop, float("inf"))

    def _new_place(self, loop: str) -> int:
        with self._lock:
            place = self._places.setdefault(loop, len(self._places))
            if self._file is not None and place < _MOST_LOOPS:
                at = place * _SLOT.size
                # what is due comes before the name: nobody reads a loop that is due at 0
                _NUMBER.pack_into(self._file, at + _SLOT.size - _NUMBER.size, float("inf"))
                name = loop.encode()[: _SLOT.size - _NUMBER.size]
                self._file[at : at + len(name)] = name
        if loop != _START and _START in self._places:
            self.end(_START)
        return place


def due_in(path: Path) -> Mapping[str, float]:
    """Loop -> monotonic seconds until which it is to show itself; of a process that has no file: none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = len(content) // _SLOT.size * _SLOT.size
    return {
        name.rstrip(b"\0").decode("utf-8", "replace"): due_s
        for name, due_s in _SLOT.iter_unpack(content[:whole])
        if name[0]
    }


OF_PROCESS = Beats()
beat = OF_PROCESS.beat
