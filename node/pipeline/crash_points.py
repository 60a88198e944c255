"""Named moments at which a test kills the process, to show that nothing is lost there.

Without ``SEGNODE_CRASH_AT`` in the environment this does nothing. A file named by
``SEGNODE_CRASH_ONCE`` is created at the crash and prevents the next one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


def crash_point(name: str) -> None:
    """kill -9 this process here, once, when a test asked for it."""
    if os.environ.get("SEGNODE_CRASH_AT") != name:
        return
    marker = Path(os.environ["SEGNODE_CRASH_ONCE"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
