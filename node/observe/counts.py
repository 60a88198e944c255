"""What a process counts: bounds that were reached, and what was refused.

As with log lines a process has one set of counts, and whoever refuses something adds to it. Once ``keep_in``
was called they stand in a file that is mapped into memory: they survive ``kill -9``, the next process of the
role goes on with them, and whoever shows them sums the files of all processes. Adding takes a microsecond.

Labels hold statuses, codes and words of our own, never what a peer says of itself: the number of counts is
bounded, and they name nobody.

Source: Prometheus text exposition format 0.0.4
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TypeAlias

Key: TypeAlias = tuple[str, ...]  # the name of a kind, and the values of its labels


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of counts.

    Args:
        labels: What tells its counts from each other.
    """

    name: str
    says: str
    labels: Key = ()


ASSOCIATIONS_REFUSED = Kind(
    "segnode_associations_refused_total",
    "A-ASSOCIATE-RJ by result, source and reason (PS3.8 Table 9-21).",
    ("result", "source", "reason"),
)
ASSOCIATIONS_ABORTED = Kind(
    "segnode_associations_aborted_total",
    "Associations and requests for one that this side ended.",
    ("why",),
)
CONNECTIONS_ENDED = Kind(
    "segnode_connections_ended_total",
    "Connections that were closed before they asked for anything.",
    ("transport", "why"),
)
INSTANCES_REFUSED = Kind(
    "segnode_instances_refused_total",
    "Instances that were not kept, by the status that their sender got.",
    ("transport", "status"),
)
HTTP_REFUSED = Kind(
    "segnode_http_refused_total",
    "Requests that were answered with 4xx or 5xx.",
    ("status",),
)
HTTP_ENDED = Kind(
    "segnode_http_ended_total",
    "Requests that were ended because their peer was too slow.",
    ("why",),
)
SIGN_INS_FAILED = Kind(
    "segnode_sign_ins_failed_total",
    "Users who did not prove who they are, or guessed too often.",
    ("transport",),
)
NOT_SET_ASIDE = Kind(
    "segnode_not_quarantined_total",
    "Refused instances of which nothing was kept, since enough of them were.",
    ("why",),
)
LOG_LINES_LEFT_OUT = Kind(
    "segnode_log_lines_left_out_total",
    "Log lines about an address beyond those that it may cause in a minute.",
)
KINDS = (
    *(ASSOCIATIONS_REFUSED, ASSOCIATIONS_ABORTED, CONNECTIONS_ENDED, INSTANCES_REFUSED),
    *(HTTP_REFUSED, HTTP_ENDED, SIGN_INS_FAILED, NOT_SET_ASIDE, LOG_LINES_LEFT_OUT),
)

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ENTRY = struct.Struct("<120sQ")
_NUMBER = struct.Struct("<Q")
_MOST_ENTRIES = 512
_FILE_BYTES = _MOST_ENTRIES * _ENTRY.size
_BETWEEN = "\x1f"


class Counts:
    """Counts of one process; safe between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = Counter[Key]()
        self._file: mmap.mmap | None = None
        self._places: dict[Key, int] = {}

    def add(self, kind: Kind, *labels: object) -> None:
        key = (kind.name, *map(str, labels))
        with self._lock:
            self._numbers[key] += 1
            if self._file is not None:
                self._write(key)

    def of(self, kind: Kind, *labels: object) -> int:
        """How many there were, those of the processes before in the same file included."""
        with self._lock:
            return self._numbers[(kind.name, *map(str, labels))]

    def keep_in(self, folder: Path, role: str) -> None:
        """Go on with the first file of the role that no other process holds."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            descriptor = os.open(
                folder / f"{role}.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                os.close(descriptor)
        os.ftruncate(descriptor, _FILE_BYTES)
        with self._lock:
            self._file = mmap.mmap(descriptor, _FILE_BYTES)  # the descriptor holds the lock
            for place, (key, number) in enumerate(_entries(self._file[:])):
                self._places[key] = place
                self._numbers[key] += number
            for key in list(self._numbers):
                self._write(key)

    def _write(self, key: Key) -> None:
        if self._file is None:
            return
        place = self._places.setdefault(key, len(self._places))
        name = _BETWEEN.join(key).encode()
        if place >= _MOST_ENTRIES or len(name) > _ENTRY.size - _NUMBER.size:
            return  # no label of ours is so long, nor are there so many
        at = place * _ENTRY.size
        # number and name are written apart: a reader sees an entry with its number, or none
        _NUMBER.pack_into(self._file, at + _ENTRY.size - _NUMBER.size, self._numbers[key])
        if not self._file[at]:
            self._file[at : at + len(name)] = name


def _entries(content: bytes) -> Iterator[tuple[Key, int]]:
    for name, number in _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size]):
        if not name[0]:
            return
        yield tuple(name.rstrip(b"\0").decode().split(_BETWEEN)), number


def counted_in(folder: Path) -> Mapping[Key, int]:
    """The sums over all processes that keep their counts in a folder."""
    sums = Counter[Key]()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for key, number in _entries(path.read_bytes()):
            sums[key] += number
    return sums


def exposed(numbers: Mapping[Key, int]) -> str:
    """Counts as Prometheus reads them; a kind without labels is there from the start."""
    lines = []
    for kind in KINDS:
        lines += [f"# HELP {kind.name} {kind.says}", f"# TYPE {kind.name} counter"]
        if not kind.labels:
            lines.append(f"{kind.name} {numbers.get((kind.name,), 0)}")
        for key, number in sorted(numbers.items()):
            if kind.labels and key[0] == kind.name:
                labels = ",".join(
                    f'{name}="{value}"' for name, value in zip(kind.labels, key[1:], strict=True)
                )
                lines.append(f"{kind.name}{{{labels}}} {number}")
    return "\n".join(lines) + "\n"


def exposed_health(is_ready: bool, findings: Iterable[tuple[str, str]]) -> str:
    """Whether the node takes instances, and what is the matter with it.

    Args:
        findings: Code and subject of each; subjects are names of processes and of the configuration.
    """
    lines = [
        "# HELP segnode_ready Whether instances sent now would be taken.",
        "# TYPE segnode_ready gauge",
        f"segnode_ready {is_ready:d}",
        "# HELP segnode_finding What is the matter with the node: 1 as long as it is.",
        "# TYPE segnode_finding gauge",
    ]
    for code, subject in findings:
        lines.append(f'segnode_finding{{code="{code}",subject="{_quoted(subject)}"}} 1')
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


OF_PROCESS = Counts()
add = OF_PROCESS.add
