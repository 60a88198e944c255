"""Containers of runner processes that are gone, found by what their labels say of their owner.

A guardian removes a container with its owner; one that was killed itself, with the machine's service
or by hand, leaves it behind. So every run looks first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from node.domain.errors import JobFailed
from node.infer.container.engine import Engine

OWNER = "segnode.owner"
STARTED = "segnode.started"

_DAY_S = 86_400.0
_START_TIME = 21  # field 22 of /proc/PID/stat, in clock ticks since boot


def owner_labels() -> dict[str, str]:
    """What marks a container as one of this process."""
    return {OWNER: _owner(os.getpid()), STARTED: str(int(time.time()))}


def remove_leftovers(engine: Engine) -> int:
    """Remove containers whose owner is gone; returns how many there were.

    An owner in another container than this process cannot be seen from here: what it left behind
    goes after a day, which is longer than any run.
    """
    names = engine.call("ps", "--all", "--quiet", f"--filter=label={OWNER}").split()
    removed = 0
    for name in names:
        try:
            owner, started = engine.call(
                *("inspect", "--type=container"),
                f'--format={{{{index .Config.Labels "{OWNER}"}}}} '
                f'{{{{index .Config.Labels "{STARTED}"}}}}',
                name,
            ).split()
            if _is_gone(owner, float(started)):
                engine.call("rm", "--force", "--volumes", name)
                removed += 1
        except (JobFailed, ValueError):
            continue  # gone meanwhile, or not ours
    return removed


def _is_gone(owner: str, started: float) -> bool:
    namespace, _, rest = owner.partition("/")
    process = rest.partition("/")[0]
    if namespace != _namespace() or not process.isdecimal():
        return time.time() - started > _DAY_S
    return _owner(int(process)) != owner


def _owner(process_id: int) -> str:
    """A process as ``namespace/pid/start``, which no later process is."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
        # the name of the program stands in brackets and may hold anything
        fields = stat.rpartition(")")[2].split()
    except OSError:
        return ""
    if fields[0] == "Z":  # dead, and not buried yet
        return ""
    start = fields[_START_TIME - 2]
    return f"{_namespace()}/{process_id}/{start}"


def _namespace() -> str:
    """This machine since its start, and the process namespace in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "unknown"
