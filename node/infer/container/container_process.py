"""One container from its making to its removal, what it printed, and those that were left behind.

A guardian removes a container with its owner; one that was killed itself, with the machine's service
or by hand, leaves it behind. So every run looks first for containers whose labels name an owner that
is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from node.domain.errors import JobFailed
from node.infer.container.engine import ContainerOrder, Engine, is_for_good, tied
from node.infer.container.guardian import DONE
from node.infer.container.outputs import OutputFile, take_out

OWNER = "segnode.owner"
STARTED = "segnode.started"
GUARDIAN = "node.infer.container.guardian"

_LOG_HEAD_BYTES = 4 << 20
_LOG_TAIL_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_NO_WORK_S = 5.0  # less than it takes to import what a network needs
# the clock of a file system may lag by a tick
_CLOCK_SLACK_S = 2.0
_DAY_S = 86_400.0
_START_TIME = 21  # field 22 of /proc/PID/stat, in clock ticks since boot


class ContainerProcess:
    """A container that exists."""

    def __init__(self, engine: Engine, order: ContainerOrder) -> None:
        self._engine = engine
        self._order = order

    def run(self, log: Path, folder: Path) -> None:
        """Start it, and wait for its end; whether it did its work, its output tells.

        Args:
            folder: The working folder of the engine, whose monitor may leave files there.
            log: Gets what it prints: the first megabytes and the last one.
        Raises:
            JobFailed: It could not be started, or the clock was set back meanwhile: files that it wrote
                look older than its start then, as those do that came with the image.
        """
        clock_s = _clock_s()
        command = tied([self._engine.program, "start", "--attach", self._order.name])
        with (
            log.open("wb") as file,
            subprocess.Popen(  # noqa: S603 - the engine that the operator installed
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
            ) as process,
        ):
            if process.stdout is not None:
                _keep(process.stdout, file)
        if not self._started:
            raise JobFailed(
                f"{self._engine.name} could not start the container; its log says why: {log}",
                permanent=begins_for_good(log),
            )
        back_s = clock_s - _clock_s()
        if back_s > _CLOCK_SLACK_S:
            raise JobFailed(
                f"the clock was set back by {back_s:.0f} s while the container ran:"
                " which files it wrote cannot be told"
            )

    @property
    def exit_code(self) -> int:
        """Its exit code: worth a remark, never a verdict."""
        return int(self._state.get("ExitCode", 0))

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended it for passing its memory limit."""
        return bool(self._state.get("OOMKilled", False))

    @property
    def ended_at_once(self) -> bool:
        """Whether it ended so soon that it cannot have done any work."""
        state = self._state
        began, ended = (_seconds(str(state.get(key, ""))) for key in ("StartedAt", "FinishedAt"))
        return began is not None and ended is not None and ended - began < _NO_WORK_S

    @property
    def _state(self) -> Mapping[str, Any]:
        return self._engine.inspect(self._order.name)

    @property
    def _started(self) -> str:
        """When it started, by the engine; empty where it never did."""
        at = str(self._state.get("StartedAt", ""))
        return "" if at.startswith("0001-") else at

    def output(self, folder: Path) -> list[OutputFile]:
        """The files that it wrote, taken out into a new folder.

        Raises:
            JobFailed: They cannot be had.
        """
        at = _seconds(self._started) or 0.0
        source = f"{self._order.name}:{self._order.output_folder}"
        with subprocess.Popen(  # noqa: S603 - the engine that the operator installed
            tied([self._engine.program, "cp", source, "-"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            if process.stdout is None:
                raise JobFailed("the container's output could not be taken out")
            return take_out(process.stdout, folder, newer_than_s=at - _CLOCK_SLACK_S)


@contextmanager
def held_container(engine: Engine, order: ContainerOrder) -> Iterator[ContainerProcess]:
    """A container that goes with the block, and with this process however it ends.

    Raises:
        JobFailed: The engine could not make it.
    """
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", GUARDIAN, engine.program, order.name],
        stdin=subprocess.PIPE,
        start_new_session=True,
    ) as guardian:
        try:
            engine.call(*engine.create_command(order)[1:])
            yield ContainerProcess(engine, order)
        finally:
            # it knows when to give up; what is left then is found by its label
            guardian.communicate(DONE)


def begins_for_good(log: Path) -> bool:
    """Whether a log begins with words that mean that another attempt would end the same way.

    They are looked for and never quoted: a log may hold what a header says.
    """
    with log.open("rb") as file:
        return is_for_good(file.read(_PIECE_BYTES).decode("utf-8", "replace"))


def _clock_s() -> float:
    """What the clock shows beyond the seconds that passed: it changes when somebody sets it."""
    return time.time() - time.monotonic()


def _seconds(at: str) -> float | None:
    """A time of an engine, in seconds since the epoch; None where it is none."""
    try:
        return datetime.fromisoformat(f"{at[:19]}+00:00").timestamp()
    except ValueError:
        return None


def _keep(source: IO[bytes], log: IO[bytes]) -> None:
    """Write the beginning and the end of a stream."""
    head_bytes, tail = 0, bytearray()
    cut = False
    while piece := source.read1(_PIECE_BYTES):  # type: ignore[attr-defined]
        if head_bytes < _LOG_HEAD_BYTES:
            log.write(piece)
            log.flush()
            head_bytes += len(piece)
            continue
        tail += piece
        if len(tail) > 2 * _LOG_TAIL_BYTES:
            cut = True
            del tail[:-_LOG_TAIL_BYTES]
    if cut:
        log.write(b"\n[... what stood here was cut ...]\n")
    log.write(tail)


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
