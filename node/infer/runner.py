"""The parent's side of a runner: one warm child process, kept, watched, killed, replaced."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from node.domain.reasons import Reason, reasons_from_json
from node.infer.child import ChannelBroken, Inbox, Message, send

_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """The job entered a stage."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """The job left a stage."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A remark for the job's record."""

    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is done; the result is what its target returned."""

    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt is over.

    Args:
        reasons: Why the series is no input, where that is what was found.
        permanent: True when another attempt would end the same way.
        waits: True when nothing is wrong with the job: a resource is short, such as disk.
        detail: Where in the code, without text of the data.
    """

    sentence: str
    reasons: tuple[Reason, ...] = ()
    permanent: bool = False
    waits: bool = False
    detail: str = ""


# Networks ask for the same large arrays again and again. By default glibc gives each back to the
# kernel, which hands out zeroed pages anew: a third of the time of a convolution on a CPU. The child
# keeps them until its job is over (see node.infer.child).
_KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
# Read by torch as it is imported: the memory of a card does not fall into pieces that are too small,
# and what cuBLAS answers does not depend on how much of it is free.
_ON_A_CARD = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_PIECES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # either name is an operator's choice

Event: TypeAlias = StageStarted | StageFinished | Noted | Finished | Failed


class Runner:
    """One child process of one device, started at the first job and kept warm.

    Use it from one thread, which must live as long as the runner: the kernel kills the child when
    the thread that started it ends.

    Args:
        device: Name of the device, given to the child as SEGNODE_DEVICE.
        idle_unload_s: A child without work for so long is ended by the next ``poll``.
    """

    def __init__(self, *, device: str = "cpu", idle_unload_s: float = 600.0) -> None:
        self._device = device
        self._idle_unload_s = idle_unload_s
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._inbox = Inbox()
        self._busy = False
        self._stage = ""
        self._deadline_s = 0.0
        self._ends_at = 0.0
        self._idle_since = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._busy

    @property
    def process_id(self) -> int | None:
        """The child's process id, None while there is no child."""
        return self._process.pid if self._process else None

    def start(
        self,
        target: str,
        request: Mapping[str, Any],
        *,
        deadline_s: float,
        memory_bytes: int | None = None,
    ) -> None:
        """Hand the child a job; ``poll`` tells how it goes.

        Args:
            target: "module:function", called in the child with the request and a report.
            memory_bytes: Most memory the child may allocate; beyond it the job fails, no more.
        Raises:
            RuntimeError: A job is under way.
        """
        if self._busy:
            raise RuntimeError("the runner has a job already")
        message = {"target": target, "request": dict(request), "memory_bytes": memory_bytes}
        if not self._send(message):  # no child yet, or it died between two jobs
            self._spawn()
            self._send(message)
        self._busy, self._stage = True, ""
        self._deadline_s, self._ends_at = deadline_s, time.monotonic() + deadline_s

    def poll(self, timeout_s: float = 0.0) -> list[Event]:
        """What happened since the last call, waiting up to ``timeout_s`` for something to happen.

        The last event of a job is ``Finished`` or ``Failed``, whatever becomes of the child.
        """
        if not self._busy:
            if self._process and time.monotonic() - self._idle_since > self._idle_unload_s:
                self.kill()
            return []
        wait_s = max(0.0, min(timeout_s, self._ends_at - time.monotonic()))
        events, alive = self._receive(wait_s)
        if any(isinstance(event, Finished | Failed) for event in events):
            return events
        if not alive:
            events.append(Failed(sentence=self._last_words()))
        elif time.monotonic() >= self._ends_at:
            sentence = f"passed its deadline of {self._deadline_s:g} s{self._where}"
            self.kill()
            events.append(Failed(sentence=sentence))
        return events

    def kill(self) -> None:
        """End the child and its whole process group at once: a cancelled job, or the end of work.

        A job that was under way gives no more events.
        """
        if self._process is not None:
            # nobody else waits for the child, so that its number still names its group
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._line is not None:
            self._line.close()
        self._process, self._line, self._inbox = None, None, Inbox()
        self._busy, self._idle_since = False, time.monotonic()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _spawn(self) -> None:
        self.kill()
        ours, theirs = socket.socketpair()
        environment = {
            **_KEEPING_MEMORY,
            **_ON_A_CARD,
            **(
                {} if os.environ.keys() & set(_PIECES) else {_PIECES[0]: "expandable_segments:True"}
            ),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "SEGNODE_DEVICE": self._device,
        }
        # -P: the working directory is no place to import from
        command = [sys.executable, "-P", "-m", "node.infer.child"]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment,
            )
        self._line = ours

    def _send(self, message: Message) -> bool:
        try:
            if self._line is not None:
                send(self._line, message)
                return True
        except OSError:
            pass  # the child is gone; the caller makes another
        return False

    def _receive(self, wait_s: float) -> tuple[list[Event], bool]:
        """Events that came within ``wait_s``, and whether the line still stands."""
        if self._line is None:
            return [], False
        with selectors.DefaultSelector() as selector:
            selector.register(self._line, selectors.EVENT_READ)
            if not selector.select(wait_s):
                return [], True
        try:
            data = self._line.recv(_RECEIVE_BYTES)
            messages = self._inbox.feed(data)
        except (OSError, ChannelBroken):
            data, messages = b"", []
        events = [event for message in messages if (event := self._read(message)) is not None]
        return events, bool(data)

    def _read(self, message: Message) -> Event | None:
        match message.pop("kind", None):
            case "stage_started":
                self._stage = message["name"]
                return StageStarted(**message)
            case "stage_finished":
                self._stage = ""
                return StageFinished(**message)
            case "note":
                return Noted(**message)
            case "finished":
                self._rest()
                return Finished(**message)
            case "failed":
                sentence = message.pop("sentence") + self._where
                reasons = reasons_from_json(message.pop("reasons", ()))
                self._rest()
                if message.pop("retires", False):
                    self.kill()
                return Failed(sentence=sentence, reasons=reasons, **message)
        return None  # "ready"

    @property
    def _where(self) -> str:
        return f" in stage {self._stage}" if self._stage else ""

    def _rest(self) -> None:
        self._busy, self._stage, self._idle_since = False, "", time.monotonic()

    def _last_words(self) -> str:
        """Bury the child and say how it died.

        Its channel closed because it ended: by then the kernel has its exit code, and the signal
        that ``kill`` sends for the sake of the group no longer changes it.
        """
        where, process = self._where, self._process
        self.kill()
        code = process.returncode if process else None
        if code is not None and code < 0:
            return f"the runner process was killed by {signal.Signals(-code).name}{where}"
        return f"the runner process ended with exit code {code}{where}"
