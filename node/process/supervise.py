"""The supervisor: one process per role, restarted when it dies, ended when the supervisor ends.

It is forked from, so it stays single-threaded, opens no database connection of its own after the
migrations, and imports what all roles share before the first fork: the children share those pages.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from node.domain.errors import ConfigInvalid
from node.observe import beats
from node.pipeline.signals import Signals
from node.process.ledger import SUPERVISOR, Ledger, silence_of

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_RESTART_AFTER_S = (0.2, 1.0, 5.0, 30.0)
_HEALTHY_AFTER_S = 30.0
# a process whose loop is late by more is ended: no wait of ours is so long
HUNG_S = 60.0
_LOOK_S = 1.0
_ROUND_S = 5.0
_DESCRIPTORS = 65_536
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


RoleMain = Callable[[Signals], int | None]


@dataclass(slots=True)
class _Child:
    role: str
    pid: int
    started_at: float
    failures: int = 0
    is_told_well: bool = False


def _allow_descriptors() -> None:
    """Raise the limit of open files to what this user may have: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Supervisor:
    """Runs each role in a process of its own until told to stop.

    Args:
        roles: Name -> the function that is the role; it returns when ``Signals.stop`` is set.
        check_reload: Raises ``ConfigInvalid`` when the file on disk must not be loaded.
        drain_s: How long a stopping role may finish what it has in hand.
        bury: Told the name of a role whose process is gone.
        ledger: The folder where others see how the processes are; None: nobody looks, and none is ended
            because it hangs.
    """

    def __init__(
        self,
        roles: Mapping[str, RoleMain],
        *,
        check_reload: Callable[[], None],
        drain_s: float,
        bury: Callable[[str], None] = lambda _role: None,
        ledger: Path | None = None,
    ) -> None:
        self._roles = roles
        self._check_reload = check_reload
        self._drain_s = drain_s
        self._bury = bury
        self._ledger_folder = ledger
        self._ledger: Ledger | None = None
        self._look_at = 0.0
        self._children: dict[int, _Child] = {}
        self._due: list[tuple[float, str, int]] = []
        self._stopping = False
        self._reloading = False

    def run(self, signals: Signals | None = None) -> int:
        """Start all roles and stay until SIGTERM or SIGINT; 0 when every role ended cleanly.

        Args:
            signals: What heard signals in this process until now.
        """
        _allow_descriptors()
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        if signals is not None:
            if signals.stop.is_set():
                return 0
            self._reloading |= signals.reload.is_set()
        if self._ledger_folder is not None:
            self._ledger = Ledger(self._ledger_folder)
            if signals is None:  # else it is a role itself, and keeps its beats where it was told
                beats.OF_PROCESS.keep_in(self._ledger.beats_of(SUPERVISOR))
        for role in self._roles:
            self._start(role, failures=0)
        while not self._stopping:
            beats.beat("supervise", _ROUND_S)
            self._reap()
            self._start_due()
            self._look_after()
            if self._reloading:
                self._reload()
            time.sleep(0.1)
        code = self._drain()
        if self._ledger is not None:
            self._ledger.close()
        return code

    def stop(self) -> None:
        """End all roles, as on SIGTERM."""
        self._stopping = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self.stop()

    def _start(self, role: str, failures: int) -> None:
        supervisor = os.getpid()
        # a collector that visits what is shared would copy its pages into every child
        gc.collect()
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        # what comes before the child listens waits until then: it has our handlers so far
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            if self._ledger is not None:
                beats.OF_PROCESS.keep_in(self._ledger.beats_of(role))
            os._exit(_run_role(self._roles[role], supervisor))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._children[pid] = _Child(role, pid, time.monotonic(), failures, not failures)
        self._note(role, child=pid, failures=failures)
        log.info("role started", extra={"role": role, "child": pid})

    def _reap(self) -> None:
        """Take whatever ended; as process 1 of a container that is orphans of the roles too."""
        with suppress(ChildProcessError):
            while (taken := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                ended, status = taken
                if child := self._children.pop(ended, None):
                    if self._ledger is not None:
                        self._ledger.beats_of(child.role).unlink(missing_ok=True)
                    self._bury(child.role)
                    self._start_again(child, status)

    def _start_again(self, child: _Child, status: int) -> None:
        """Plan the next life: at once after a clean end, later and later after failures."""
        lived_s = time.monotonic() - child.started_at
        before = 0 if lived_s > _HEALTHY_AFTER_S else child.failures
        failures = 0 if status == 0 else before + 1
        wait_s = _RESTART_AFTER_S[min(failures, len(_RESTART_AFTER_S)) - 1] if failures else 0.0
        self._due.append((time.monotonic() + wait_s, child.role, failures))
        self._note(child.role, child=None, failures=failures, status=status)
        level = logging.INFO if status == 0 else logging.ERROR
        log.log(
            level,
            "role ended, will be started again",
            extra={"role": child.role, "status": status, "wait_s": wait_s},
        )

    def _start_due(self) -> None:
        now = time.monotonic()
        ready = [entry for entry in self._due if entry[0] <= now]
        self._due = [entry for entry in self._due if entry[0] > now]
        for _, role, failures in ready:
            self._start(role, failures)

    def _look_after(self) -> None:
        """End a process that hangs; forget the failures of one that has been well for a while."""
        now = time.monotonic()
        if self._ledger is None or now < self._look_at:
            return
        if self._look_at and now - self._look_at > _ROUND_S:
            # nobody ran, this process no more than they: each may show itself first
            self._look_at = now + 2 * _ROUND_S
            return
        self._look_at = now + _LOOK_S
        for child in self._children.values():
            silent_s, loop = silence_of(self._ledger.beats_of(child.role), now)
            if silent_s > HUNG_S:
                told = {"role": child.role, "loop": loop, "silent_s": round(silent_s)}
                log.error("role hangs: it is ended", extra=told)
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            elif not child.is_told_well and now - child.started_at > _HEALTHY_AFTER_S:
                child.is_told_well = True
                self._note(child.role, failures=0)

    def _note(self, role: str, **facts: object) -> None:
        if self._ledger is not None:
            self._ledger.note(role, **facts)

    def _reload(self) -> None:
        self._reloading = False
        try:
            self._check_reload()
        except ConfigInvalid as invalid:
            log.error("reload refused, the old configuration stays", extra={"why": str(invalid)})
            if self._ledger is not None:
                self._ledger.refuse(str(invalid))
            return
        if self._ledger is not None:
            self._ledger.refuse("")
        log.info("reload")
        self._signal_all(signal.SIGHUP)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _drain(self) -> int:
        log.info("stopping")
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._drain_s
        code = 0
        while self._children and time.monotonic() < deadline:
            for pid in list(self._children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del self._children[pid]
                    code = code or status
            time.sleep(0.02)
        if self._children:
            log.error("roles did not end in time", extra={"count": len(self._children)})
            self._signal_all(signal.SIGKILL)
            return 1
        log.info("stopped")
        return 1 if code else 0


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; Linux only, elsewhere a no-op.

    Source: prctl(2), PR_SET_PDEATHSIG
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


def _run_role(role: RoleMain, supervisor: int) -> int:
    signals = Signals()
    signals.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    end_with_parent(supervisor)
    try:
        return role(signals) or 0
    except ConfigInvalid as invalid:
        log.error("role cannot run", extra={"why": str(invalid)})
        return 2
    except Exception:  # noqa: BLE001 - the last line of a process: say why it ended, and end
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
