"""What a supervisor knows of its processes, written where others see it.

One file per supervisor, locked as long as it lives, and one of beats for each of its processes. So whoever
asks how the node is (``/readyz``, ``segnode status``) needs no connection to anybody: a process that died,
one that is stuck and a supervisor that is stopped show there, whatever else still works.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from node.observe.beats import due_in

SUPERVISOR = "supervisor"
_FILE_BYTES = 16_384
_LONGEST_REFUSAL = 2_000
_NONE = (0.0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleState:
    """One process as its supervisor sees it.

    Args:
        child: Its process id; None between two lives.
        failures: How often it ended badly, one soon after the other; 0 once it was well for a while.
        status: How it ended last, as waitpid(2) tells it.
        silent_s: For how long a loop of it has been due; 0.0 where none is.
        loop: Which one.
    """

    name: str
    child: int | None = None
    failures: int = 0
    status: int = 0
    silent_s: float = 0.0
    loop: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """All processes of a node on this machine, and whether they go by what is on disk.

    Args:
        refused: Why the configuration on disk was not loaded; empty where it is in force.
    """

    roles: tuple[RoleState, ...] = ()
    refused: str = ""


class Ledger:
    """The file of one supervisor, rewritten whenever something changes.

    Args:
        folder: Of all supervisors of a data folder; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_the_dead(folder)
        self._path = folder / f"{uuid4().hex}.json"
        self._roles: dict[str, dict[str, Any]] = {}
        self._refused = ""
        unlocked = self._path.with_suffix(".new")
        self._descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._write()
        unlocked.rename(self._path)

    def beats_of(self, role: str) -> Path:
        """Where a process keeps its beats."""
        return _beats_of(self._path, role)

    def note(self, role: str, **facts: Any) -> None:
        """Facts of a process, as in ``RoleState``."""
        self._roles.setdefault(role, {"name": role}).update(facts)
        self._write()

    def refuse(self, why: str) -> None:
        """What is on disk was not loaded; empty: it was."""
        if why != self._refused:
            self._refused = why[:_LONGEST_REFUSAL]
            self._write()

    def close(self) -> None:
        """The supervisor ends, and no process of it is left."""
        _forget(self._path)
        os.close(self._descriptor)

    def _write(self) -> None:
        content = json.dumps({"roles": list(self._roles.values()), "refused": self._refused})
        with suppress(OSError):  # a full disk is told by others, and ends no supervisor
            # in place, and always as long: the lock is on this file
            os.pwrite(self._descriptor, content.encode().ljust(_FILE_BYTES), 0)


def state_in(folder: Path, now_s: float | None = None) -> NodeState:
    """What the supervisors of a data folder know; nothing where none is there.

    Args:
        now_s: Monotonic seconds.
    """
    now_s = time.monotonic() if now_s is None else now_s
    roles: list[RoleState] = []
    refused = ""
    for path, content in _ledgers(folder):
        refused = refused or str(content["refused"])
        for entry in content["roles"]:
            is_alive = entry.get("child") is not None
            silent_s, loop = (
                silence_of(_beats_of(path, entry["name"]), now_s) if is_alive else _NONE
            )
            roles.append(RoleState(**entry, silent_s=silent_s, loop=loop))
        silent_s, loop = silence_of(_beats_of(path, SUPERVISOR), now_s)
        if silent_s:
            roles.append(RoleState(name=SUPERVISOR, silent_s=silent_s, loop=loop))
    return NodeState(roles=tuple(sorted(roles, key=lambda role: role.name)), refused=refused)


def silence_of(beats: Path, now_s: float) -> tuple[float, str]:
    """For how long the loop that is due longest has been so, and its name."""
    late = [(now_s - due_s, loop) for loop, due_s in due_in(beats).items() if due_s < now_s]
    return max(late, default=_NONE)


def _beats_of(ledger: Path, role: str) -> Path:
    return ledger.with_name(f"{ledger.stem}.{role.replace('/', '_')}.beats")


def _ledgers(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):  # it ended meanwhile, or is just being rewritten
            if _is_held(path):
                yield path, json.loads(path.read_bytes())


def _forget_the_dead(folder: Path) -> None:
    """Supervisors that were killed leave their files."""
    for path in folder.glob("*.json"):
        if not _is_held(path):
            _forget(path)


def _forget(ledger: Path) -> None:
    for path in ledger.parent.glob(f"{ledger.stem}.*"):
        path.unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
