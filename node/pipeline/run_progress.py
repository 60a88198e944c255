"""The work of ``segnode run``: a worker per device, a deliverer, and somebody who tells how far they are."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from node.domain.errors import NodeError
from node.domain.job import DeliveryState, JobState
from node.jobs.catalog import JobCatalog
from node.pipeline.build import Plan
from node.pipeline.deliver import Deliverer
from node.pipeline.roles import delivery_room, work_room
from node.pipeline.supervise import Signals
from node.pipeline.work import Worker

Say = Callable[[str], None]
Row = Mapping[str, Any]

EVERYTHING = 1_000_000
INTERRUPTED = "interrupted: the same command goes on from here"

# one name for all runs on one folder: each takes over what a killed one had in hand
_OWNER = "segnode run"
_LOOK_EVERY_S = 0.2
_UNFINISHED = (JobState.QUEUED.value, JobState.RUNNING.value)
_ON_THE_WAY = (DeliveryState.WAITING.value, DeliveryState.SENDING.value)


def do_all_jobs(
    current: Plan, engine: Engine, say: Say, *, when_done: Callable[[int], object]
) -> None:
    """Run what is queued on every device, deliver beside it, and tell about both until all is done.

    Args:
        when_done: Called with each job that is done, while others still run.
    Raises:
        NodeError: Interrupted; the jobs in hand went back unharmed.
    """
    signals, delivering = Signals(), Signals()
    room = work_room(current, engine)
    room.leases.take_back(None)  # the folder is locked: whoever held them is dead
    workers = {
        f"{_OWNER} {number}": device for number, device in enumerate(current.config.work.devices)
    }
    progress = _Progress(engine, signals, say, devices=workers, when_done=when_done)
    deliverer = Deliverer(delivery_room(current, engine), owner=_OWNER)
    sending = threading.Thread(
        target=deliverer.run, args=(delivering, _nothing), name="deliver", daemon=True
    )
    sending.start()
    # the kernel kills a worker's child with the thread that started it: threads outlive the workers
    with ThreadPoolExecutor(len(workers) + 1) as pool, _listening(signals):
        running = [pool.submit(progress.watch)]
        for owner, device in workers.items():
            idle_unload_s = current.config.work.idle_unload_s
            worker = Worker(room, owner=owner, device=device, idle_unload_s=idle_unload_s)
            running.append(pool.submit(worker.run, signals, _nothing))
        wait(running, return_when=FIRST_COMPLETED)  # all is done, or one of them failed
        signals.stop.set()
    delivering.stop.set()
    sending.join()
    for one in running:
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

    Args:
        devices: Owner of leases -> device.
    """

    def __init__(
        self,
        engine: Engine,
        signals: Signals,
        say: Say,
        *,
        devices: Mapping[str, str],
        when_done: Callable[[int], object],
    ) -> None:
        self._catalog = JobCatalog(engine)
        self._signals = signals
        self._say = say
        self._devices = devices
        self._when_done = when_done
        self._said: set[tuple[int, str]] = set()
        self._numbers: dict[int, int] = {}
        rows = self._catalog.list_jobs(limit=EVERYTHING)[0]
        self._total = sum(row["state"] in _UNFINISHED for row in rows)
        for row in rows:
            for what, _ in self._events(row):  # told by an earlier run on this folder
                self._said.add((row["id"], what))
        self.is_idle = False

    def watch(self) -> None:
        """Look until there is nothing left to do."""
        while not self._signals.stop.wait(_LOOK_EVERY_S):
            jobs, _ = self._catalog.list_jobs(limit=EVERYTHING)
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
            if what == JobState.DONE.value:
                self._when_done(row["id"])

    def _events(self, row: Row) -> Iterator[tuple[str, str]]:
        """What a job's row tells so far, each with a name of its own."""
        if row["state"] == JobState.RUNNING.value:
            yield f"attempt {row['attempts']}", self._beginning(row)
        for stage, seconds in row["stages"].items():
            yield f"{stage} {seconds}", f"{stage} {seconds:.2f} s"
        if row["state"] not in _UNFINISHED:
            took = f" in {seconds_of(row):.1f} s" if row["state"] == JobState.DONE.value else ""
            yield row["state"], f"{row['state']}{took}: {row['sentence']}".removesuffix(": ")

    def _beginning(self, row: Row) -> str:
        job = self._catalog.get_job(row["id"]) or {"inputs": {}}
        inputs = [
            f"{len(given['instances'])} images of series {given['series_instance_uid']}"
            for given in job["inputs"].values()
        ]
        return f"{', '.join(inputs)}; on {self._devices.get(row['owner'], row['owner'])}"

    def _is_sending(self) -> bool:
        """Whether a result is on its way; one that the folder did not take is not waited for."""
        for state in _ON_THE_WAY:
            rows, _ = self._catalog.list_deliveries(state=state, limit=EVERYTHING)
            if any(state == DeliveryState.SENDING.value or not row["sentence"] for row in rows):
                return True
        return False


def seconds_of(row: Row) -> float:
    """How long the last attempt of a finished job took."""
    if row["started_at"] is None or row["finished_at"] is None:
        return 0.0
    return float(row["finished_at"] - row["started_at"])
