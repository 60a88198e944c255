"""Waiting for what a test is about, never for time.

One bound for everything: it only ends a test whose condition never comes, so that it is far above
what the slowest machine takes. A test that needs something to happen *soon* makes the alternative
impossible instead (a timeout of an hour in the node), and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

PATIENCE_S = 240.0


def wait_for(what: str, claim: Callable[[], object], timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again until the claim holds; its value is returned.

    What cannot be asked yet (nobody listens, no such row) does not hold yet.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = claim()
        except (OSError, HTTPException, KeyError, IndexError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s} s, last seen {last!r}")


def eventually(claim: Callable[[], object], within_s: float = PATIENCE_S) -> bool:
    """Whether the claim comes to hold; asked more often than ``wait_for`` does."""
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
