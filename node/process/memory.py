"""A bound on the memory of a role: what goes beyond fails there, and not the whole machine.

An allocation that fails is an error of whoever asked for it: a sender is refused with A700 or 503, a series
is held, a delivery is tried again. Where nobody can answer for it the role ends, and is started again.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn

log = logging.getLogger(__name__)

OUT_OF_MEMORY = 3
"""Exit status of a role that ended for want of memory."""


def limit_memory(role: str, limit_bytes: int) -> None:
    """Bound this process, whose children may raise the bound for themselves.

    What counts is private memory that can be written, stacks of threads whole (RLIMIT_DATA).

    Args:
        limit_bytes: 0 for none.
    Source: setrlimit(2)
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes:
        least = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
    threading.excepthook = partial(_end, role, threading.excepthook)


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
