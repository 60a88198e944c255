"""The child process of a runner: takes requests, calls their target, answers on its own socket.

Started by ``node.infer.runner`` as ``python -m node.infer.child SOCKET PARENT``. The target of a
request is a function ``target(request, report, kept) -> mapping``; both mappings are plain JSON
values, and ``kept`` is what this process keeps from one request to the next.
Standard output and standard error belong to the libraries: the channel is a socket of its own. What
runs on it are JSON objects, each behind its length: nothing is pickled, so that what a crashed or
hostile library leaves on the line cannot become code.

The child must not outlive its parent: the kernel kills it when the parent's thread dies, whatever C
code it is in; a closed channel makes it kill its whole process group. Which of the two comes first is
open, so a runner kind that starts processes of its own must tie them to the child in the same way
(``setpriv --pdeathsig KILL``). A deadline or a cancel always ends the whole group.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from node.domain.errors import JobFailed, NodeError, SeriesUnusable, TryLater
from node.domain.reasons import reasons_to_json
from node.infer.assets import Kept
from node.infer.report import Report

Message: TypeAlias = dict[str, Any]
Target = Callable[[Mapping[str, Any], Report, Kept], Mapping[str, Any]]

_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 16
_IDLE_S = 10.0
_MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class ChannelBroken(Exception):
    """What came over the line is not a message."""


def send(line: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message whole.

    Raises:
        OSError: The other side is gone.
        ValueError: The message is too long, or holds what JSON cannot.
    """
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > _MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a message of {len(body)} bytes")
    line.sendall(_LENGTH.pack(len(body)) + body)


class Inbox:
    """Puts the pieces of a stream together again."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages completed by these bytes, oldest first.

        Raises:
            ChannelBroken: The stream holds something else.
        """
        self._pending += data
        messages: list[Message] = []
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > _MESSAGE_LIMIT_BYTES:
                raise ChannelBroken(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._pending) < end:
                break
            messages.append(_decoded(bytes(self._pending[_LENGTH.size : end])))
            del self._pending[:end]
        return messages


class ChannelReport:
    """Sends stages and remarks to the parent as they happen."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._told_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell the start of a stage, and its seconds when it ends well: those that none inside told."""
        send(self._line, {"kind": "stage_started", "name": name})
        started, told_s = time.monotonic(), self._told_s
        yield
        seconds = max(0.0, time.monotonic() - started - (self._told_s - told_s))
        self._told_s += seconds
        send(self._line, {"kind": "stage_finished", "name": name, "seconds": seconds})

    def note(self, sentence: str) -> None:
        """Tell one sentence."""
        send(self._line, {"kind": "note", "sentence": sentence})


def main(arguments: list[str]) -> int:
    """Serve requests until the parent closes the channel."""
    descriptor, parent = (int(argument) for argument in arguments)
    _die_with(parent)
    _spare_training()
    line = socket.socket(fileno=descriptor)
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, requests), daemon=True).start()
    kept = Kept()
    send(line, {"kind": "ready"})
    while True:
        try:
            message = requests.get(timeout=_IDLE_S)
        except queue.Empty:
            _give_card_back()
            message = requests.get()
        _limit_memory(message["memory_bytes"])
        answer = _answer(message, ChannelReport(line), kept)
        send(line, answer)
        _give_memory_back()
        if answer.get("retires"):
            return 1


def _spare_training() -> None:
    """Leave out what torch has for training on many machines: a third of a cold start, 50 MB.

    MONAI imports ignite, which compares what it saves with one class of ``torch.distributed.optim``.
    Who asks first gets a class that nothing is an instance of; from then on the module is the real one.
    """
    optimizers = ModuleType("torch.distributed.optim")

    def ask(name: str) -> object:
        if name.startswith("__"):  # by who looks through all modules
            raise AttributeError(name)
        sys.modules.pop(optimizers.__name__, None)
        if name == "ZeroRedundancyOptimizer":
            return type(name, (), {})
        return getattr(importlib.import_module(optimizers.__name__), name)

    vars(optimizers)["__getattr__"] = ask
    sys.modules[optimizers.__name__] = optimizers


def _answer(message: Message, report: ChannelReport, kept: Kept) -> Message:
    try:
        module, _, name = message["target"].partition(":")
        target: Target = getattr(importlib.import_module(module), name)
        result = target(message["request"], report, kept)
        return {"kind": "finished", "result": dict(result)}
    except JobFailed as error:
        return _failure(error.reason, permanent=error.permanent)
    except TryLater as error:
        return _failure(str(error), waits=True)
    except SeriesUnusable as error:
        return _failure(str(error), permanent=True, reasons=reasons_to_json(error.reasons))
    except NodeError as error:
        return _failure(str(error), permanent=True)
    except SystemExit as error:
        return _failure(f"the model asked its process to exit ({error.code})", retires=True)
    except MemoryError:
        # the heap may be in pieces now: a fresh process serves the next job
        return _failure("out of memory", retires=True)
    except Exception as error:  # noqa: BLE001 - this is a process loop: the job's row gets it
        detail = "".join(traceback.format_tb(error.__traceback__))
        return _failure(_sentence(error), detail=detail, retires=True)


def _failure(sentence: str, **more: Any) -> Message:
    """What ``Failed`` says of the attempt; ``retires``: this process ends with it."""
    return {"kind": "failed", "sentence": sentence, **more}


def _sentence(error: Exception) -> str:
    """The error and its place; its text only where that cannot quote a header."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__} in {Path(place.filename).name} line {place.lineno}"
    return text if "pydicom" in place.filename else f"{text}: {error}"


def _give_memory_back() -> None:
    """What the job freed goes back to the kernel; the parent asked malloc to keep it until now."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _give_card_back() -> None:
    """What torch reserved of a card and does not use now is for others."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _limit_memory(limit_bytes: int | None) -> None:
    """Make an allocation beyond the limit fail here, instead of the whole machine running out."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (resource.RLIM_INFINITY if limit_bytes is None else limit_bytes, hard)
    )


def _listen(line: socket.socket, requests: queue.SimpleQueue[Message]) -> None:
    inbox = Inbox()
    while data := line.recv(_RECEIVE_BYTES):
        for message in inbox.feed(data):
            requests.put(message)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _decoded(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise ChannelBroken("not JSON") from error
    if not isinstance(message, dict):
        raise ChannelBroken("not an object")
    return message


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies; leave at once if it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
