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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydicom import dcmread
from sqlalchemy import Engine

from node.assemble.policy import CompletionPolicy, OnGiveUp
from node.database.migrate import migrate
from node.deliver import FolderDestination
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.domain.errors import ConfigInvalid, NodeError, TryLater
from node.domain.job import DeliveryState, JobState, MatchState
from node.domain.series import SeriesState
from node.infer.registry import ModelSpec, default_models_folder, load_models
from node.jobs.catalog import JobCatalog
from node.pipeline.accept import Door, open_door, spool_settings
from node.pipeline.build import Plan, plan
from node.pipeline.deliver import Deliverer
from node.pipeline.roles import delivery_room, settle_room, work_room
from node.pipeline.settle import Settler
from node.pipeline.supervise import Signals, lock_data_folder
from node.pipeline.work import Worker
from node.receive.folder import FileRefused, FolderSettings, FolderWatch
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.rebuild import rebuild_index

DEFAULT_MODEL = "ct_tissue"
STATE_FOLDER = ".segnode"
OUTPUT = "output"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What one rule made of one series, or set of series.

    Args:
        state: A match state: done, unmatched, parked, failed and the like.
        file: The result, where there is one.
        volumes_ml: Segment name -> volume.
    """

    rule: str
    series_instance_uid: str
    state: str
    sentence: str = ""
    model: str = ""
    file: Path | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of everything in the folder."""

    series: Sequence[Mapping[str, Any]]
    outcomes: Sequence[RunOutcome]
    refused: Sequence[FileRefused]

    @property
    def is_good(self) -> bool:
        """Whether something was there and nothing that was begun failed."""
        return bool(self.series) and not any(outcome.is_failure for outcome in self.outcomes)


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
    return _report(current, engine, refused)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """A destination that files results under the series they were made of."""

    path: Path

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Write the object; a result of a later revision gets a name of its own."""
        header = dcmread(deliverable.path, specific_tags=["ReferencedSeriesSequence"])
        source = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        outcome = self._folder(f"{source}/{{model}}.seg.{{ext}}").send(deliverable)
        if outcome.kind is DeliveryClass.BLOCKED:  # the name is taken by other content
            layout = f"{source}/{{model}}.{{SOPInstanceUID}}.seg.{{ext}}"
            return self._folder(layout).send(deliverable)
        return outcome

    def find(self, source_series: str, model: str, sop_instance_uid: str) -> Path | None:
        """Where an object lies that was written before."""
        folder = self.path / source_series
        names = (f"{model}.{sop_instance_uid}.seg.dcm", f"{model}.seg.dcm")
        return next((folder / name for name in names if (folder / name).is_file()), None)

    def _folder(self, layout: str) -> FolderDestination:
        return FolderDestination(name=OUTPUT, path=self.path, layout=layout)


def _take_in(door: Door, source: Path, say: Say) -> Sequence[FileRefused]:
    say(f"reading {source}")
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
        # what earlier runs on this folder finished is not told again
        done, _ = self._catalog.list_jobs(limit=_EVERYTHING)
        self._told = {row["id"] for row in done if row["state"] not in _UNFINISHED}
        self._said: set[tuple[int, str]] = set()
        self.is_idle = False

    def watch(self) -> None:
        """Look until there is nothing left to do."""
        while not self._signals.stop.wait(_LOOK_EVERY_S):
            jobs, _ = self._catalog.list_jobs(limit=_EVERYTHING)
            for row in jobs:
                if row["id"] not in self._told:
                    self._tell(row)
            if not any(row["state"] in _UNFINISHED for row in jobs) and not self._is_sending():
                self.is_idle = True
                self._signals.stop.set()

    def _tell(self, row: Mapping[str, Any]) -> None:
        for stage, seconds in row["stages"].items():
            self._once(
                row["id"], stage, f"job {row['id']} ({row['model']}): {stage} {seconds:.2f} s"
            )
        if row["state"] not in _UNFINISHED:
            ended = f"{row['state']} {row['sentence']}".strip()
            self._once(row["id"], "end", f"job {row['id']} ({row['model']}): {ended}")

    def _once(self, job_id: int, what: str, sentence: str) -> None:
        if (job_id, what) not in self._said:
            self._said.add((job_id, what))
            self._say(sentence)

    def _is_sending(self) -> bool:
        """Whether a result is on its way; one that the folder did not take is not waited for."""
        for state in _ON_THE_WAY:
            rows, _ = self._catalog.list_deliveries(state=state, limit=_EVERYTHING)
            if any(state == DeliveryState.SENDING.value or not row["sentence"] for row in rows):
                return True
        return False


def _report(current: Plan, engine: Engine, refused: Sequence[FileRefused]) -> RunReport:
    series, _ = SpoolCatalog(engine).list_series(limit=_EVERYTHING)
    matches, _ = JobCatalog(engine).list_matches(limit=_EVERYTHING)
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in matches:
        known = newest.get((row["rule"], row["series_key"]))
        if row["state"] != MatchState.SUPERSEDED and (
            known is None or known["revision"] < row["revision"]
        ):
            newest[row["rule"], row["series_key"]] = row
    in_force = [row for row in newest.values() if _is_in_force(row, newest)]
    outcomes = [_outcome(current, JobCatalog(engine), row) for row in in_force]
    outcomes += _never_judged(series, outcomes)
    return RunReport(
        series=series,
        outcomes=sorted(outcomes, key=lambda outcome: (outcome.series_instance_uid, outcome.rule)),
        refused=refused,
    )


def _is_in_force(
    row: Mapping[str, Any], newest: Mapping[tuple[str, str], Mapping[str, Any]]
) -> bool:
    """What an earlier judgement said of a series does not count beside the newest one."""
    same = (one["revision"] for (_, key), one in newest.items() if key == row["series_key"])
    return bool(row["revision"] == max(same))


def _outcome(current: Plan, catalog: JobCatalog, row: Mapping[str, Any]) -> RunOutcome:
    roles: Mapping[str, str] = row["roles"]
    job = catalog.get_job(row["job_id"]) if row["job_id"] is not None else None
    if job is None:
        return RunOutcome(
            rule=row["rule"],
            series_instance_uid=next(iter(roles.values())),
            state=row["state"],
            sentence=row["sentence"],
        )
    model = current.models[job["model"]]
    source = roles.get(model.grid_role) or next(iter(roles.values()))
    made = next((one for one in job["results"] if one["sop_instance_uid"]), None)
    output = current.destinations[OUTPUT]
    file = None
    if made is not None and isinstance(output, OutputFolder):
        file = output.find(source, model.name, made["sop_instance_uid"])
    unsent = [one["sentence"] for one in job["deliveries"] if one["sent_at"] is None]
    return RunOutcome(
        rule=row["rule"],
        series_instance_uid=source,
        state=row["state"],
        sentence="; ".join(filter(None, [job["sentence"], *unsent])),
        model=model.name,
        file=file,
        volumes_ml=_volumes(model, made["summary"] if made else {}),
        stages=job["stages"],
        is_failure=job["state"] != JobState.DONE or (made is not None and file is None),
    )


def _volumes(model: ModelSpec, summary: Mapping[str, Any]) -> Mapping[str, float]:
    return {
        model.segment_of[int(value)].name: float(volume_ml)
        for value, volume_ml in summary.get("volumes_ml", {}).items()
        if int(value) in model.segment_of
    }


def _never_judged(
    series: Sequence[Mapping[str, Any]], outcomes: Sequence[RunOutcome]
) -> list[RunOutcome]:
    """Series that are held: no rule was asked, and the reason stands in their row."""
    judged = {outcome.series_instance_uid for outcome in outcomes}
    return [
        RunOutcome(
            rule="",
            series_instance_uid=row["series_instance_uid"],
            state=row["state"],
            sentence=row["sentence"] or "only rules on sets of series could take it",
        )
        for row in series
        if row["series_instance_uid"] not in judged
    ]
