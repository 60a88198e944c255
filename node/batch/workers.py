"""The work of ``segnode run``: a worker for each device, a deliverer, and somebody who tells how far they are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from node.database.engine import keep_time
from node.database.pages import every
from node.domain.errors import NodeError
from node.domain.job import DeliveryState, JobState
from node.domain.reasons import reasons_from_json
from node.jobs.catalog import JobCatalog
from node.pipeline.build import Plan
from node.pipeline.deliver import Deliverer, delivery_deps
from node.pipeline.signals import Signals
from node.pipeline.work import Worker, work_deps
from node.words import Audience, show_job, tell_all

Say = Callable[[str], None]
Row = Mapping[str, Any]

INTERRUPTED = "interrupted: the same command goes on from here"

# one name for all runs on one folder: each takes over what a killed one had in hand
_OWNER = "segnode run"
_LOOK_EVERY_S = 0.05
_REST_OF_LOOKS = 10  # a long list is looked at less often
_UNFINISHED = (JobState.QUEUED.value, JobState.RUNNING.value)
_ON_THE_WAY = (DeliveryState.WAITING.value, DeliveryState.SENDING.value)


class BatchWorkers:
    """The workers and the deliverer of one run, at work from its first moment.

    Like those of a server they get ready while files are still taken in: libraries and networks are
    loaded beside it.
    """

    def __init__(self, current: Plan, engine: Engine) -> None:
        self._engine = engine
        self._signals, self._delivering = Signals(), Signals()
        deps = replace(work_deps(current, engine), is_work_coming=lambda: True)
        deps.leases.take_back(None)  # the folder is locked: whoever held them is dead
        self._devices = {
            f"{_OWNER} {number}": device
            for number, device in enumerate(current.config.work.devices)
        }
        self._workers = [
            Worker(
                deps, owner=owner, device=device, idle_unload_s=current.config.work.idle_unload_s
            )
            for owner, device in self._devices.items()
        ]
        self._deliverer = Deliverer(delivery_deps(current, engine), owner=_OWNER)
        self._progress = _Progress(engine, self._signals, self._devices)
        self._pool = ThreadPoolExecutor(len(self._workers) + 2)
        self._running: list[Future[None]] = []

    def __enter__(self) -> BatchWorkers:
        # the kernel kills a worker's child with the thread that started it: threads outlive workers
        self._running = [
            self._pool.submit(worker.run, self._signals, _nothing) for worker in self._workers
        ]
        self._sending = self._pool.submit(self._deliverer.run, self._delivering, _nothing)
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.stop.set()
        wait(self._running)
        self._delivering.stop.set()
        self._pool.shutdown()

    def finish(self, say: Say) -> None:
        """Tell about the jobs until all are done and delivered.

        Raises:
            NodeError: Interrupted; the jobs in hand went back unharmed.
        """
        progress = self._progress
        with _listening(self._signals):
            watching = self._pool.submit(progress.watch, say)
            # all is done, or one of them failed
            wait([*self._running, watching], return_when=FIRST_COMPLETED)
            self._signals.stop.set()
            wait([*self._running, watching])
        for one in [*self._running, watching]:
            one.result()
        if not progress.is_idle:
            raise NodeError(INTERRUPTED)


def _nothing() -> None:
    """The configuration of one run stays."""


@contextmanager
def _listening(signals: Signals) -> Iterator[None]:
    """Turn Ctrl-C into a stop while jobs run; the job in hand goes back unharmed."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signals.listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Says what jobs begin, which stages they finished and how they end; stops when all is written.

    Made before this run has done anything: what jobs tell then was told by an earlier run.

    Args:
        devices: Owner of leases -> device.
    """

    def __init__(self, engine: Engine, signals: Signals, devices: Mapping[str, str]) -> None:
        self._engine = engine
        self._catalog = JobCatalog(engine)
        self._signals = signals
        self._devices = devices
        self._said: set[tuple[int, str]] = set()
        self._numbers: dict[int, int] = {}
        self._total = 0
        self._ended_before: set[tuple[int, float | None]] = set()
        for row in every(self._catalog.list_jobs):
            if row["state"] not in _UNFINISHED:
                self._ended_before.add((row["id"], row["finished_at"]))
            for what, _ in self._events(row):
                self._said.add((row["id"], what))
        self.is_idle = False

    def watch(self, say: Say) -> None:
        """Look until there is nothing left to do."""
        self._say = say
        self._total = sum(
            row["state"] in _UNFINISHED or (row["id"], row["finished_at"]) not in self._ended_before
            for row in every(self._catalog.list_jobs)
        )
        pause_s = _LOOK_EVERY_S
        while not self._signals.stop.wait(pause_s):
            began = time.monotonic()
            keep_time(self._engine)
            jobs = list(every(self._catalog.list_jobs))
            pause_s = max(_LOOK_EVERY_S, _REST_OF_LOOKS * (time.monotonic() - began))
            for row in reversed(jobs):  # the oldest first
                self._tell(row)
            if not any(row["state"] in _UNFINISHED for row in jobs) and not self._is_sending():
                self.is_idle = True
                self._signals.stop.set()

    def _tell(self, row: Row) -> None:
        for what, sentence in self._events(row):
            if (row["id"], what) in self._said:
                continue
            self._said.add((row["id"], what))
            number = self._numbers.setdefault(row["id"], len(self._numbers) + 1)
            self._say(f"job {number} of {self._total} ({row['model']}): {sentence}")

    def _events(self, row: Row) -> Iterator[tuple[str, str]]:
        """What a job's row tells so far, each with a name of its own."""
        if row["attempts"]:  # it may have begun and ended between two looks
            yield f"attempt {row['attempts']}", self._beginning(row)
        for stage, seconds in row["stages"].items():
            # one that grew since is told again; one that stays while a form is made later is not
            yield f"{stage} {seconds}", f"{stage} {seconds:.2f} s"
        if row["state"] not in _UNFINISHED:
            took = f" in {seconds_of(row):.1f} s" if row["state"] == JobState.DONE.value else ""
            said = show_job(row, Audience.RUN)["sentence"]
            if row["state"] == JobState.IMPLAUSIBLE.value:  # the report says what can be done
                said = tell_all(reasons_from_json(row["reasons"]))
            ended = f"{row['state']}{took}"
            yield f"{row['state']} {row['finished_at']}", f"{ended}: {said}" if said else ended

    def _beginning(self, row: Row) -> str:
        job = self._catalog.get_job(row["id"]) or {"inputs": {}}
        inputs = ", ".join(
            f"{len(given['instances'])} images of series {given['series_instance_uid']}"
            for given in job["inputs"].values()
        )
        owner = row["owner"]  # nobody any more, once it has ended
        return f"{inputs}; on {self._devices.get(owner, owner)}" if owner else inputs

    def _is_sending(self) -> bool:
        """Whether a result is on its way; one that the folder did not take is not waited for."""
        for state in _ON_THE_WAY:
            rows = every(self._catalog.list_deliveries, state=state)
            # one that was tried says how that went
            if any(state == DeliveryState.SENDING.value or not row["reasons"] for row in rows):
                return True
        return False


def seconds_of(row: Row) -> float:
    """How long the last attempt of a finished job took."""
    if row["started_at"] is None or row["finished_at"] is None:
        return 0.0
    return float(row["finished_at"] - row["started_at"])
