"""A folder in, results out, without a server: the parts of the node in one process, one after another.

Takes the folder in as one scan, judges every series with nothing to wait for, runs the jobs, writes
the results. State lies in ``OUTPUT/.segnode`` and is that of a node: a run that was interrupted, or
killed, goes on where it was when it is started again.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Engine

from node.assemble.policy import CompletionPolicy, OnGiveUp
from node.database.migrate import migrate
from node.domain.errors import ConfigInvalid, NodeError, TryLater
from node.domain.job import DeliveryState, JobState
from node.domain.series import SeriesState
from node.infer.registry import ModelSpec, default_models_folder, load_models
from node.jobs.catalog import JobCatalog
from node.pipeline.accept import Door, open_door, spool_settings
from node.pipeline.build import Plan, plan
from node.pipeline.deliver import Deliverer
from node.pipeline.roles import delivery_room, settle_room, work_room
from node.pipeline.run_outcome import OUTPUT, OutputFolder, RunReport, report_run
from node.pipeline.settle import Settler
from node.pipeline.supervise import Signals, lock_data_folder
from node.pipeline.work import Worker
from node.receive.folder import FileRefused, FolderSettings, FolderWatch
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.rebuild import rebuild_index

DEFAULT_MODEL = "ct_tissue"
STATE_FOLDER = ".segnode"

_LOOK_EVERY_S = 0.2
_SETTLE_LIMIT_S = 20.0
# one name for all runs on one folder: each takes over what a killed one had in hand
_OWNER = "segnode run"
_EVERYTHING = 1_000_000
_UNFINISHED = (JobState.QUEUED.value, JobState.RUNNING.value)
_ON_THE_WAY = (DeliveryState.WAITING.value, DeliveryState.SENDING.value)

# a folder is whole: nothing more will come, and nobody has to be waited for
_NO_WAITING = CompletionPolicy(
    release_settle_s=0.0, quiet_s=0.0, quiet_max_s=0.0, give_up_s=0.0, on_give_up=OnGiveUp.PROCEED
)

Say = Callable[[str], None]


def run_folder(
    source: Path, output: Path, *, models: Sequence[str], config: Path | None, say: Say
) -> RunReport:
    """Run rules, or models, over a folder.

    Args:
        models: Without a configuration: what to run, each on what it accepts. With one: only rules
            that run these.
        say: Gets one sentence per step.
    Raises:
        ConfigInvalid: The configuration, a model or a folder cannot be used.
        NodeError: Interrupted; started again it goes on.
    """
    _check_folders(source, output)
    state = output / STATE_FOLDER
    with lock_data_folder(state, shared=False):
        current = _plan(state, output, models, config)
        engine = current.open_engine()
        try:
            migrate(engine)
            rebuild_index(engine, spool_settings(current.config).folder)
            return _run(current, engine, source, say)
        finally:
            engine.dispose()


def _run(current: Plan, engine: Engine, source: Path, say: Say) -> RunReport:
    current.results_folder.mkdir(parents=True, exist_ok=True)
    with open_door(current) as door:
        refused = _take_in(door, source, say)
    _settle(current, engine, say)
    _work(current, engine, say)
    return report_run(current, engine, refused)


def _check_folders(source: Path, output: Path) -> None:
    if not source.is_dir():
        raise ConfigInvalid([("INPUT", f"{source} is not a folder")])
    if output.resolve().is_relative_to(source.resolve()):
        raise ConfigInvalid(
            [("OUTPUT", "lies inside INPUT: results would be read as input, choose another folder")]
        )


def _plan(state: Path, output: Path, models: Sequence[str], config: Path | None) -> Plan:
    """A checked plan whose data lie in ``state`` and whose only destination is ``output``."""
    if config is None:
        known = load_models([default_models_folder()])
        rules = [_rule_of(_model(name, known)) for name in models or (DEFAULT_MODEL,)]
        path = state / "rules.yaml"
        storage = {"reserve_gb": 1, "max_used_percent": 100}
        path.write_text(yaml.safe_dump({"storage": storage, "rules": rules}), encoding="utf-8")
        base = plan(path)
    else:
        base = plan(config)
        for name in models:
            _model(name, base.models)
    active = [
        replace(rule, send=(OUTPUT,))
        for rule in base.rules
        if config is None or not models or rule.model.name in models
    ]
    if not active:
        raise ConfigInvalid([("--model", "no rule of this configuration runs it")])
    data_dir = state.absolute()
    return replace(
        base,
        config=replace(
            base.config,
            data_dir=data_dir,
            database_url=f"sqlite:///{data_dir / 'segnode.sqlite'}",
            completion=replace(base.config.completion, study_wait_s=0.0),
        ),
        rules=tuple(active),
        destinations={OUTPUT: OutputFolder(path=output.absolute())},
    )


def _model(name: str, known: Mapping[str, ModelSpec]) -> ModelSpec:
    if name not in known:
        there_are = ", ".join(sorted(known))
        raise ConfigInvalid([("--model", f"there is no model {name!r}; there are: {there_are}")])
    return known[name]


def _rule_of(model: ModelSpec) -> dict[str, Any]:
    """The rule that gives a model whatever it accepts."""
    accepts = {
        role: dict(given.accepts) or {"Modality": {"present": True}}
        for role, given in model.inputs.items()
    }
    rule: dict[str, Any] = {"name": model.name, "run": model.name, "send": []}
    if len(accepts) == 1:
        return rule | {"when": accepts[model.grid_role]}
    return rule | {"study": accepts}


def _take_in(door: Door, source: Path, say: Say) -> Sequence[FileRefused]:
    say(f"reading {source}")
    for row in door.quarantine.rows():  # of an earlier run; what is still no good comes again
        door.quarantine.discard(row.id)
    watch = FolderWatch(FolderSettings(folder=source), door.ingest, door.index)
    report = watch.scan(is_settled_at_once=True)
    if report.waiting:
        shortage = door.spool.shortage or "some files were being written"
        raise TryLater(f"{report.waiting} files could not be taken in: {shortage}")
    say(f"{len(report.taken)} instances taken in, {len(report.refused)} files refused")
    return report.refused


def _settle(current: Plan, engine: Engine, say: Say) -> None:
    """Let the rules judge every series, again where other rules are in force than last time."""
    arrivals = Arrivals(engine)
    room = replace(settle_room(current, engine), policy=_NO_WAITING)
    marker = current.config.data_dir / "judged-by"
    judged_by = _judges(current)
    if marker.exists() and marker.read_text(encoding="utf-8") != judged_by:
        for row in SpoolCatalog(engine).list_series(limit=_EVERYTHING)[0]:
            arrivals.force(row["series_instance_uid"], "rerun")
    settler = Settler(room)
    left, deadline = -1, 0.0
    while True:
        settler.tick(arrivals.now())
        before, left = left, _receiving(arrivals)
        if left == 0:
            break
        if left != before:
            deadline = time.monotonic() + _SETTLE_LIMIT_S
        elif time.monotonic() > deadline:
            say(f"{left} series could not be judged")
            break
        time.sleep(_LOOK_EVERY_S)
    marker.write_text(judged_by, encoding="utf-8")
    queued = JobCatalog(engine).list_jobs(state=JobState.QUEUED.value, limit=1)[1]
    say(f"{arrivals.count(SeriesState.COMPLETE)} series judged, {queued} jobs to run")


def _judges(current: Plan) -> str:
    parts = [current.config.digest, *(f"{r.rule.name}:{r.model.digest}" for r in current.rules)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _receiving(arrivals: Arrivals) -> int:
    """How many series are not settled yet; those held for a person are."""
    rows = [arrivals.series(uid) for uid in arrivals.unsettled()[0]]
    return sum(row is None or bool(row.forced) or row.state is not SeriesState.HELD for row in rows)


def _work(current: Plan, engine: Engine, say: Say) -> None:
    """Run the jobs in this thread, deliver in another, and watch both in a third."""
    signals, delivering = Signals(), Signals()
    settings = current.config.work
    worker = Worker(
        work_room(current, engine),
        owner=_OWNER,
        device=settings.devices[0],
        idle_unload_s=settings.idle_unload_s,
    )
    deliverer = Deliverer(delivery_room(current, engine), owner=_OWNER)
    progress = _Progress(engine, signals, say)
    watching = threading.Thread(target=progress.watch, name="progress", daemon=True)
    sending = threading.Thread(
        target=deliverer.run, args=(delivering, _nothing), name="deliver", daemon=True
    )
    sending.start()
    with _listening(signals):
        watching.start()
        worker.run(signals, _nothing)
    signals.stop.set()
    watching.join()
    delivering.stop.set()
    sending.join()
    if not progress.is_idle:
        raise NodeError("interrupted: the same command goes on from here")


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
    """Says which stages were finished, and stops the worker when all is done and written."""

    def __init__(self, engine: Engine, signals: Signals, say: Say) -> None:
        self._catalog = JobCatalog(engine)
        self._signals = signals
        self._say = say
        self._said: set[tuple[int, str]] = set()
        for row in self._catalog.list_jobs(limit=_EVERYTHING)[0]:
            for what, _ in _events(row):  # told by an earlier run on this folder
                self._said.add((row["id"], what))
        self.is_idle = False

    def watch(self) -> None:
        """Look until there is nothing left to do."""
        while not self._signals.stop.wait(_LOOK_EVERY_S):
            jobs, _ = self._catalog.list_jobs(limit=_EVERYTHING)
            for row in jobs:
                self._tell(row)
            if not any(row["state"] in _UNFINISHED for row in jobs) and not self._is_sending():
                self.is_idle = True
                self._signals.stop.set()

    def _tell(self, row: Mapping[str, Any]) -> None:
        for what, sentence in _events(row):
            if (row["id"], what) not in self._said:
                self._said.add((row["id"], what))
                self._say(f"job {row['id']} ({row['model']}): {sentence}")

    def _is_sending(self) -> bool:
        """Whether a result is on its way; one that the folder did not take is not waited for."""
        for state in _ON_THE_WAY:
            rows, _ = self._catalog.list_deliveries(state=state, limit=_EVERYTHING)
            if any(state == DeliveryState.SENDING.value or not row["sentence"] for row in rows):
                return True
        return False


def _events(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a job's row tells so far, each with a name of its own."""
    for stage, seconds in row["stages"].items():
        yield f"{stage} {seconds}", f"{stage} {seconds:.2f} s"
    if row["state"] not in _UNFINISHED:
        yield "end", f"{row['state']} {row['sentence']}".strip()
