"""A bound on the memory of a role: what goes beyond fails there, and not the whole machine.

An allocation that fails is an error of whoever asked for it: a sender is refused with A700 or 503, a series
is held, a delivery is tried again. Where nobody can answer for it the role ends, and is started again.

An interpreter that gets nothing more may also go round in circles with its lock held: CPython 3.11 does so where
an exception leaves a ``with`` block. So each role has a watchdog that needs no lock.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

log = logging.getLogger(__name__)

STUCK_S = 60.0
_BEAT_S = 5.0
OUT_OF_MEMORY = 3
"""Exit status of a role that ended for want of memory."""


def limit_memory(role: str, limit_bytes: int, *, stuck_s: float = STUCK_S) -> None:
    """Bound this process, which must not fork from now on; what it runs may raise its own bound.

    What counts is private memory that can be written, stacks of threads whole (RLIMIT_DATA).

    Args:
        limit_bytes: 0 for none.
        stuck_s: When no thread of it ran for so long it ends, with all their tracebacks on standard error.
    Source: setrlimit(2)
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes:
        least = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
    threading.excepthook = partial(_end, role, threading.excepthook)
    beat_s = min(_BEAT_S, stuck_s / 4)
    threading.Thread(target=_beat, args=(stuck_s, beat_s), name="watchdog", daemon=True).start()


def _beat(stuck_s: float, beat_s: float) -> None:
    while True:
        with suppress(RuntimeError, MemoryError):  # no thread for it now: this one runs, at least
            faulthandler.dump_traceback_later(stuck_s, exit=True)
        time.sleep(beat_s)


def end_for_memory(role: str) -> NoReturn:
    """End this process at once: files and rows are the truth, and others wait for its locks."""
    log.error("role ends: out of memory (see memory.role_gb)", extra={"role": role})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(OUT_OF_MEMORY)


def _end(
    role: str,
    otherwise: Callable[[threading.ExceptHookArgs], object],
    raised: threading.ExceptHookArgs,
) -> None:
    """A thread ended by an error: without it the role would only seem to be at work."""
    if issubclass(raised.exc_type, MemoryError):
        end_for_memory(role)
    otherwise(raised)
