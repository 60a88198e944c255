"""A process that removes a container when the process that started it is gone.

::

    python -m node.infer.container.guardian ENGINE CONTAINER

A container does not die with the program that started it: it belongs to the engine. The guardian is
a session of its own, so that neither a killed process group nor a stopped service takes it along, and
holds the reading end of a pipe whose only writing end is the runner process. When that closes, for
whatever reason, the container goes; so the guardian outlives the runner by a moment, and by no more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

DONE = b"done"

_READ_BYTES = 64
_CALL_S = 30.0
_LOOK_EVERY_S = 0.3
# an engine that was asked for a container while its asker died may still bring one about
_LOOKS_AFTER_DEATH = 6
_GIVE_UP_S = 120.0


def main(arguments: list[str]) -> int:
    """Wait for the pipe on standard input to close, then remove the container."""
    engine, container = arguments
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    said = b""
    while piece := os.read(0, _READ_BYTES):
        said += piece
    looks = 1 if said == DONE else _LOOKS_AFTER_DEATH
    return 0 if _remove(engine, container, looks) else 1


def _remove(engine: str, container: str, looks: int) -> bool:
    """Remove until the engine has said ``looks`` times in a row that there is nothing."""
    ends_at = time.monotonic() + _GIVE_UP_S
    absent = 0
    while time.monotonic() < ends_at:
        _call(engine, "rm", "--force", "--volumes", container)
        names = _call(engine, "ps", "--all", "--quiet", f"--filter=name=^{container}$")
        absent = absent + 1 if names == "" else 0
        if absent >= looks:
            return True
        time.sleep(_LOOK_EVERY_S)
    return False


def _call(engine: str, *arguments: str) -> str | None:
    """What the engine prints, None where it failed."""
    try:
        done = subprocess.run(  # noqa: S603 - the engine that the runner uses
            [engine, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
