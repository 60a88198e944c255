"""Named moments at which a test kills a process, to show that nothing is lost there.

Without ``SEGNODE_CRASH_AT`` in the environment this does nothing. The process reaches the point
once: it creates the file that ``SEGNODE_CRASH_MARK`` names, and then kills itself, or, with
``SEGNODE_CRASH_HOW=wait``, stands still until the test kills whatever it is there to kill.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def crash_point(name: str) -> None:
    """kill -9 this process here, once, when a test asked for it."""
    if os.environ.get("SEGNODE_CRASH_AT") != name:
        return
    mark = Path(os.environ["SEGNODE_CRASH_MARK"])
    if mark.exists():
        return
    mark.touch()
    if os.environ.get("SEGNODE_CRASH_HOW") != "wait":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(60)
