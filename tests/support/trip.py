"""One CT from C-STORE to the destination that gets its SEG, and every function of ours it calls.

The child's work is done in this process, so that one profiler sees the whole trip; the files that
carry a job to a child and back are counted by name. Another CT went before: what a warm worker keeps
is no part of the trip.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from pydicom.uid import CTImageStorage
from pynetdicom import AE

import node
from node.deliver.dimse import send_c_store
from node.infer.assets import Kept
from node.infer.report import Report
from node.infer.runner import Event, Finished, Noted, StageFinished, StageStarted
from node.pipeline.execute_job import run as execute_job
from node.pipeline.signals import Signals
from node.pipeline.work import Worker, work_deps
from tests.support.bundles import resampled, write_bundle_model
from tests.support.evil_peers import StoreScp
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, simulated_node
from tests.support.waiting import PATIENCE_S, wait_for

PACKAGE = Path(node.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
CARRIES_TO_CHILD = {"infer/runner.py", "infer/child.py"}
_CO_OPTIMIZED = 0x1  # set for functions, not for bodies of modules and classes


@dataclass
class Trip:
    """Functions in the order in which they were first called, as (file below ``node``, name).

    Args:
        steps: Those of ``pipeline`` alone, and what it calls of other rooms.
    """

    calls: dict[tuple[str, str], None] = field(default_factory=dict)
    steps: dict[tuple[str, str], None] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Files of rooms that were entered; the nouns of ``domain`` travel, they are no stops."""
        entered = {file for file, _ in self.calls if not file.startswith("domain/")}
        return entered | CARRIES_TO_CHILD

    @property
    def stays(self) -> list[str]:
        """Files in which a reader who follows the steps stays, one after the other."""
        files = [file for file, _ in self.steps if not file.startswith("domain/")]
        return [file for file, _ in groupby(files)]

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & _CO_OPTIMIZED:
            path = Path(code.co_filename)
            if path.is_relative_to(PACKAGE):
                call = (str(path.relative_to(PACKAGE)), code.co_qualname)
                self.calls.setdefault(call)
                if "pipeline" in (path.parent.name, _caller(frame).parent.name):
                    self.steps.setdefault((call[0], call[1].partition(".<")[0]))

    @contextmanager
    def watched(self) -> Iterator[None]:
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def _caller(frame: FrameType) -> Path:
    """The file of ours that a call comes from, through whatever is not ours."""
    back = frame.f_back
    while back is not None and not Path(back.f_code.co_filename).is_relative_to(PACKAGE):
        back = back.f_back
    return Path(back.f_code.co_filename) if back is not None else Path()


class InThisProcess:
    """Stands where the runner of a child stands."""

    process_id = 0
    is_busy = False

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._kept = Kept()

    def start(self, _target: str, request: Mapping[str, Any], **_limits: Any) -> None:
        report = _Report(self._events)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a child's are its own
            self._events.append(Finished(result=execute_job(request, report, self._kept)))

    def poll(self, _wait_s: float = 0.0) -> list[Event]:
        events, self._events = self._events, []
        return events

    def kill(self) -> None:
        """Nothing to kill."""


class _Report(Report):
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._events.append(StageStarted(name=name))
        yield
        self._events.append(StageFinished(name=name, seconds=0.0))

    def note(self, sentence: str) -> None:
        self._events.append(Noted(sentence=sentence))


def trip(folder: Path) -> Trip:
    """Take it, in a process of its own: what other tests left behind is not on the way."""
    command = [sys.executable, "-m", "tests.support.trip", str(folder)]
    # threads that wait for each other in turns cost minutes where cores are busy
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Trip(dict.fromkeys((file, name) for file, name in json.loads(done.stdout)))


def _take(folder: Path) -> Trip:
    made = write_bundle_model(folder / "made", "resampled", resampled())
    with StoreScp(ae_title="PACS").listening() as scp:
        keys: dict[str, Any] = {
            "models_dirs": [str(made.folder)],
            "weights_dir": str(made.weights_dir),
            "peers": {"PACS": {"ae_title": "PACS", "host": "127.0.0.1", "port": scp.port}},
            "destinations": {"pacs": {"kind": "dimse", "peer": "PACS"}},
            "rules": [
                {"name": "ct", "when": {"Modality": "CT"}, "run": "resampled", "send": ["pacs"]}
            ],
        }
        with simulated_node(folder, SharedWorker(), **keys) as simulated:
            worker = Worker(
                work_deps(simulated.node.plan, simulated.node.engine),
                owner="work cpu",
                device="cpu",
                idle_unload_s=60,
            )
            worker._runner = InThisProcess()  # type: ignore[assignment]
            _travel("before", simulated, worker, scp)
            taken = Trip()
            with taken.watched():
                _travel("watched", simulated, worker, scp)
            assert {job["state"] for job in simulated.table("job")} == {"done"}
    return taken


def settling(folder: Path) -> Trip:
    """The part of it from the tick that finds a whole series to the row of its job."""
    taken = Trip()
    with simulated_node(folder, SharedWorker()) as simulated:
        simulated.tick()
        simulated.receive(ct().files())
        with taken.watched():
            simulated.tick(simulated.node.plan.policy.quiet_max_s + 1)
        assert len(simulated.table("job")) == 1
    steps = list(taken.steps)
    begin = steps.index(("pipeline/settle.py", "Settler.tick"))
    end = steps.index(("jobs/store.py", "JobStore.enqueue"))
    taken.steps = dict.fromkeys(steps[begin : end + 1])
    return taken


def _travel(study: str, simulated: SimulatedNode, worker: Worker, scp: StoreScp) -> None:
    already = len(scp.objects)
    _send(simulated.node.dicom_port, study)
    simulated.settle()
    assert worker.do_next(Signals())

    def delivered() -> bool:
        simulated.pass_time(60)  # what a busy machine was too slow for is tried again
        simulated.deliver()
        return len(scp.objects) > already

    wait_for("the SEG at its destination", delivered)


def _send(port: int, study: str) -> None:
    sender = AE("PACS")
    sender.acse_timeout = sender.dimse_timeout = sender.network_timeout = PATIENCE_S
    sender.add_requested_context(CTImageStorage)
    association = sender.associate("127.0.0.1", port, ae_title="SEGNODE")
    for dataset in Phantom(study=study, series=study, spacing_mm=(6.0, 5.0, 5.5)).datasets():
        assert send_c_store(association, dataset, 1).Status == 0
    association.release()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # to stderr, which a failure shows
    sys.stdout.write(json.dumps(list(_take(Path(sys.argv[1])).calls)))
