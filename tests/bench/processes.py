"""What a tree of processes takes, read from ``/proc`` while threads and processes of it come and go.

A thread or process may end between two reads, and ``/proc`` then answers ENOENT or, of a file that is
open already, ESRCH. Who ended is left out of the sums of memory; CPU time is read again until nobody
came or went, since the time of one that ended moves to its parent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TRIES = 100


def tree(process_id: int) -> Iterator[int]:
    """A process and all below it that live while they are listed."""
    yield process_id
    try:
        tasks = list(Path(f"/proc/{process_id}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # this thread has just ended
        for child in children:
            yield from tree(int(child))


def sum_of_tree(process_id: int, figure: Callable[[int], float]) -> float:
    """A figure of each process of a tree, summed; whoever has just ended adds nothing."""
    return sum(_of_living(each, figure) for each in tree(process_id))


def _of_living(process_id: int, figure: Callable[[int], float]) -> float:
    try:
        return figure(process_id)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def pss_mb(process_id: int) -> float:
    """Proportional set size of one process.

    Raises:
        FileNotFoundError, ProcessLookupError: It has ended.
    Source: proc(5), smaps_rollup
    """
    rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0  # a zombie has no memory


def anonymous_mb(process_id: int) -> float:
    """What a process has of its own, whatever others share of it.

    Source: proc(5), RssAnon
    """
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def resident_mb(process_id: int) -> float:
    """Resident memory; cheap to ask for, where the proportional one stops the process for long.

    Raises:
        FileNotFoundError, ProcessLookupError: It has ended.
    Source: proc(5), statm
    """
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * _PAGE_BYTES / 1e6


def cpu_s(process_id: int) -> float:
    """CPU seconds of a process tree, children that ended included.

    Raises:
        RuntimeError: Its processes come and go so fast that no reading is one of a single moment.
    Source: proc(5), stat
    """
    for _ in range(_TRIES):
        before = set(tree(process_id))
        ticks = sum_of_tree(process_id, _ticks)
        if set(tree(process_id)) == before:
            return ticks / _TICKS_PER_S
    raise RuntimeError(f"the processes below {process_id} never stood still")


def _ticks(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])
