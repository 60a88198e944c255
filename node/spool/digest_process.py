"""Content digests of spool files, computed in limited processes of their own.

A file may make a codec crash, hang or ask for all memory; then only such a process ends, and the file
counts as one that cannot be compared. The processes start when they are first needed and go away by
themselves after ten idle seconds. Large files have one of their own, so that nobody's small one waits for
them; of these there are two, so that it does not wait for one that hangs either.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import IO

IDLE_S = 10.0
MEMORY_BYTES = 1 << 30
# from here on a file is large: its pixels are read frame by frame
LARGE_BYTES = 64 << 20
_DEFERRED_BYTES = 1 << 20
_SMALL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What two files must share to be one instance, or one image with another header."""

    content: str
    pixels: str


class DigestProcesses:
    """Asks the processes."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, timeout_s: float = 60.0) -> None:
        one = partial(DigestProcess, memory_bytes=memory_bytes, timeout_s=timeout_s)
        self._large = one()
        self._all_small = tuple(one() for _ in range(_SMALL))
        self._small: LifoQueue[DigestProcess] = LifoQueue()  # those that are warm first
        for process in self._all_small:
            self._small.put(process)

    def digests(self, path: Path) -> Digests | None:
        """The digests of a file; None when its pixels cannot be decoded within the limits."""
        if path.stat().st_size >= LARGE_BYTES:
            return self._large.digests(path)
        process = self._small.get()
        try:
            return process.digests(path)
        finally:
            self._small.put(process)

    def close(self) -> None:
        for process in (self._large, *self._all_small):
            process.close()


class DigestProcess:
    """Asks one process; one question at a time."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, timeout_s: float = 60.0) -> None:
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def digests(self, path: Path) -> Digests | None:
        """The digests of a file; None when its pixels cannot be decoded within the limits."""
        with self._lock:
            is_old = self._process is not None
            answer = self._ask(path)
            if not answer and is_old:
                # it may have ended because it was idle: ask one that was started for this question
                answer = self._ask(path)
        if not answer:
            return None
        found = json.loads(answer)
        return Digests(**found) if found else None

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _ask(self, path: Path) -> str:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started with pipes")
        try:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._stop()
            return ""
        line = _line_within(process.stdout, self._timeout_s)
        if not line:
            self._stop()
        return line

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        command = [sys.executable, "-m", "node.spool.digest_process", str(self._memory_bytes)]
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        # wait, and close both pipes
        self._process.communicate()
        self._process = None


def _line_within(stream: IO[str], timeout_s: float) -> str:
    """One whole line, or nothing when the process ended or took too long."""
    # not select(), which knows no descriptor above 1023
    waiting = select.poll()
    waiting.register(stream, select.POLLIN)
    ready = waiting.poll(timeout_s * 1000)
    return stream.readline().strip() if ready else ""


def _digests_of(path: str) -> dict[str, str]:
    from pydicom import dcmread

    from node.domain.digests import content_digest, pixel_and_geometry_digest

    with Path(path).open("rb") as file:
        is_large = os.fstat(file.fileno()).st_size >= LARGE_BYTES
        instance = dcmread(file, defer_size=_DEFERRED_BYTES if is_large else None)
        # a deflated file is whole in memory by now
        is_deflated = instance.file_meta.TransferSyntaxUID.is_deflated
        frames_from = file if is_large and not is_deflated else None
        # content first: reading values for the geometry would replace undecoded elements
        return {
            "content": content_digest(instance, frames_from),
            "pixels": pixel_and_geometry_digest(instance, frames_from),
        }


def _serve(memory_bytes: int) -> None:
    import warnings

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    while select.select([sys.stdin], [], [], IDLE_S)[0]:
        path = sys.stdin.readline().strip()
        if not path:
            return
        try:
            answer = _digests_of(path)
        except Exception:  # noqa: BLE001 - whatever a codec raises, the file cannot be compared
            answer = {}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
