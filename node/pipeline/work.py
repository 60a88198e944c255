"""The work loop: lease a job, run it in the warm child, make its products durable rows.

The child does what is heavy and may crash; this process keeps the lease, enforces the deadline, and
writes rows: labels first, then the files of all forms with their deliveries and the end of the job in
one transaction. A worker that lost its lease writes nothing any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from node import __version__, words
from node.config import NodeConfig
from node.domain.delivery import FormsTaken
from node.domain.errors import LeaseLost, NodeError, SeriesUnusable
from node.domain.instance import Forced
from node.domain.job import Settled
from node.domain.reasons import Reason, ReasonCode, codes_of, reasons_from_json, told
from node.domain.result import Provenance
from node.infer.assets import locked_licences
from node.infer.registry import ModelSpec, load_model
from node.infer.runner import Failed, Finished, Noted, Runner, StageFinished, StageStarted
from node.jobs.leases import JobLeases
from node.jobs.results import ResultStore
from node.jobs.values import LABELS, LeasedJob, ResultFile
from node.observe.beats import Beat
from node.pipeline.build import Plan
from node.pipeline.crash_points import crash_point
from node.pipeline.execute_job import JobOrder
from node.pipeline.forms.form import forms_taken
from node.pipeline.signals import Signals
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders

log = logging.getLogger(__name__)

TARGET = "node.pipeline.execute_job:run"
WARM_TARGET = "node.pipeline.execute_job:warm"
WARM_DEADLINE_S = 120.0
LEASE_S = 30.0
HEARTBEAT_S = 5.0
SHORTAGE_WAIT_S = 30.0
LIBRARIES_GB = 2.0  # what a warm child holds before a model does anything: torch, monai, threads
LOOK_EVERY_S = 0.05
# besides the looks a round keeps results, which takes a database that may be locked
_ROUND_S = 6.0
ARRIVING_S = 10.0
OTHER = "other"  # of a job's time what no stage told: a cold start of the child, rows and files


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDeps:
    """What the loop works with; made anew when the configuration is reloaded.

    Args:
        in_rules: Model -> parameters of its first rule: what a child is warmed up for.
        taken: Which forms destinations take.
        is_work_coming: Whether a series is arriving that may become a job.
        instances: The folder of instance files.
    """

    config: NodeConfig
    models: Mapping[str, ModelSpec]
    in_rules: Mapping[str, Mapping[str, Any]]
    taken: FormsTaken
    leases: JobLeases
    results: ResultStore
    arrivals: Arrivals
    is_work_coming: Callable[[], bool]
    results_folder: Path
    instances: Path


def work_deps(plan: Plan, engine: Engine) -> WorkDeps:
    arrivals = Arrivals(engine)
    in_rules: dict[str, Mapping[str, Any]] = {}
    for rule in plan.rules:
        in_rules.setdefault(rule.model.name, rule.parameters)
    return WorkDeps(
        config=plan.config,
        models=plan.models,
        in_rules=in_rules,
        taken=forms_taken(plan.destinations),
        leases=JobLeases(engine, max_attempts=plan.config.work.attempts),
        results=ResultStore(engine),
        arrivals=arrivals,
        is_work_coming=lambda: arrivals.is_any_arriving(ARRIVING_S),
        results_folder=plan.results_folder,
        instances=SpoolFolders.of(plan.config.data_dir).instances,
    )


class Worker:
    """One warm child on one device, one job at a time; a device may have several workers.

    Args:
        owner: Name of this worker's leases; the same in each life of one role, so that a worker
            started again goes on with what its predecessor held.
        beat: Told at every round.
    """

    def __init__(
        self,
        deps: WorkDeps,
        *,
        owner: str,
        device: str,
        idle_unload_s: float,
        beat: Beat = lambda *_: None,
    ) -> None:
        self._deps = deps
        self._beat = beat
        self._owner = owner
        self._device = device
        self._runner = Runner(device=device, idle_unload_s=idle_unload_s)
        self._may_warm = True

    def use(self, deps: WorkDeps) -> None:
        self._deps = deps

    def run(self, signals: Signals, reload: Callable[[], None]) -> None:
        """Work until ``signals.stop``; the job in hand goes back then and keeps its attempts."""
        self._deps.leases.take_back(self._owner)
        with self._runner:
            while not signals.stop.is_set():
                self._beat("work", _ROUND_S)
                if signals.reload.is_set():
                    signals.reload.clear()
                    reload()
                if self._runner.is_busy:  # warming up
                    events = self._runner.poll(LOOK_EVERY_S)
                    self._may_warm = any(isinstance(event, Finished) for event in events)
                elif not self.do_next(signals):
                    self._runner.poll()
                    self._warm_in_time()
                    signals.stop.wait(LOOK_EVERY_S)

    def _warm_in_time(self) -> None:
        """Start a child while a series still arrives: its imports cost that job nothing then.

        Where that failed a job must tell why, before it is tried again.
        """
        if self._runner.process_id is None and self._may_warm and self._deps.is_work_coming():
            self._may_warm = False
            request = {
                "models": [
                    {"folder": str(self._deps.models[name].folder), "parameters": dict(parameters)}
                    for name, parameters in self._deps.in_rules.items()
                ],
                "weights_dir": str(self._deps.config.weights_dir),
                "device": self._device,
            }
            self._runner.start(WARM_TARGET, request, deadline_s=WARM_DEADLINE_S)

    def do_next(self, signals: Signals) -> bool:
        """Do the next job that is ready, to its end; False where there is none."""
        leases, without = self._deps.leases, self._for_a_gpu()
        if not leases.is_any_ready(without=without):
            return False
        job = leases.lease(self._owner, LEASE_S, without=without)
        if job is None:
            return False
        self._do(job, signals)
        return True

    def _for_a_gpu(self) -> frozenset[str]:
        """Models made for a GPU, where this worker has none and another has one."""
        if self._device != "cpu" or not any(
            d.startswith("cuda") for d in self._deps.config.work.devices
        ):
            return frozenset()
        models = self._deps.models.values()
        return frozenset(model.name for model in models if model.resources.device == "cuda")

    def close(self) -> None:
        """End the warm child; needed if you call ``do_next`` directly, without ``run``."""
        self._runner.kill()

    def _do(self, job: LeasedJob, signals: Signals) -> None:
        about = {"job": job.id, "model": job.model, "attempt": job.attempts}
        log.info("job started", extra={**about, "device": self._device})
        crash_point("job leased")
        try:
            self._attempt(job, signals)
        except LeaseLost:
            log.warning("job cancelled or in other hands", extra={"job": job.id})
        except SeriesUnusable as unusable:
            self._end(job, unusable.reasons, permanent=True)
        except NodeError as error:
            self._end(job, [told(ReasonCode.ATTEMPT_FAILED, str(error))], permanent=True)
        except Exception as error:
            log.exception("job failed", extra={"job": job.id})
            failed = told(ReasonCode.ATTEMPT_FAILED, f"{type(error).__name__} in the worker")
            self._end(job, [failed], permanent=False)
        finally:
            self._may_warm = True
            if self._runner.is_busy:
                self._runner.kill()

    def _attempt(self, job: LeasedJob, signals: Signals) -> None:
        began, told_s = time.monotonic(), 0.0
        model = self._model_of(job)
        if model.digest != job.model_digest:
            self._make_anew(job)
            return
        locked = locked_licences(model, self._deps.config.accept_licences)
        if locked:
            raise NodeError(
                f"the weights of {model.name} forbid commercial use: read {', '.join(locked)}"
                " and name it in accept_licences"
            )
        self._runner.start(
            TARGET,
            self._order(job, model).to_json(),
            deadline_s=job.deadline_s,
            memory_bytes=self._memory_bytes(model),
        )
        notes: list[Reason] = []
        beat_at = time.monotonic() + HEARTBEAT_S
        while True:
            self._beat("work", _ROUND_S)
            if signals.stop.is_set():
                self._runner.kill()
                self._deps.leases.release(job.id, self._owner)
                return
            for event in self._runner.poll(LOOK_EVERY_S):
                match event:
                    case StageStarted():
                        pass
                    case StageFinished(name=name, seconds=seconds):
                        self._deps.leases.stage(job.id, self._owner, name, seconds)
                        told_s += seconds
                    case Noted(sentence=sentence):
                        notes.append(told(ReasonCode.NOTED, sentence))
                    case Finished(result=result):
                        self._keep_labels(job, result)
                        other_s = time.monotonic() - began - told_s
                        self._deps.leases.stage(job.id, self._owner, OTHER, max(0.0, other_s))
                        self._keep(job, result, notes)
                        return
                    case Failed():
                        self._failed(job, event)
                        return
            if time.monotonic() >= beat_at:
                self._deps.leases.heartbeat(job.id, self._owner, LEASE_S)
                beat_at = time.monotonic() + HEARTBEAT_S

    def _model_of(self, job: LeasedJob) -> ModelSpec:
        """The model as the job was made for it, where this process or the disk has it so."""
        model = self._deps.models.get(job.model)
        if model is None:
            raise NodeError(f"no model {job.model} in this configuration")
        if model.digest == job.model_digest:
            return model
        return load_model(model.folder)  # a reload that has not come here yet

    def _make_anew(self, job: LeasedJob) -> None:
        """The model is another one by now, as after an upgrade: a result must name what made it.

        Judging the first series again judges the sets that it is in, too.
        """
        grid, *_ = job.inputs.values()
        self._deps.arrivals.force(str(grid["series_instance_uid"]), Forced.RERUN)
        self._deps.leases.cancel(job.id, self._owner, [Reason(ReasonCode.MODEL_CHANGED)])
        log.warning("judged again: the model changed", extra={"job": job.id, "model": job.model})

    def _failed(self, job: LeasedJob, event: Failed) -> None:
        if event.detail:
            log.error("traceback of the job", extra={"job": job.id, "at": event.detail})
        if event.waits:
            log.warning("job waits", extra={"job": job.id, "sentence": event.sentence})
            short = told(ReasonCode.RESOURCE_SHORT, event.sentence)
            self._deps.leases.release(job.id, self._owner, reasons=[short], wait_s=SHORTAGE_WAIT_S)
        else:
            failed = event.reasons or [told(ReasonCode.ATTEMPT_FAILED, event.sentence)]
            self._end(job, failed, permanent=event.permanent)

    def _order(self, job: LeasedJob, model: ModelSpec) -> JobOrder:
        deps = self._deps
        inputs = {}
        for role, given in job.inputs.items():
            series = str(given["series_instance_uid"])
            found = deps.arrivals.files_of(series, given["instances"])
            inputs[role] = {uid: deps.instances / name for uid, name in found.items()}
        return JobOrder(
            job_key=job.job_key,
            model_folder=model.folder,
            model_digest=job.model_digest,
            parameters=job.parameters,
            inputs=inputs,
            folder=deps.results_folder / str(job.id),
            weights_dir=deps.config.weights_dir,
            forms=self._forms_of(job),
            provenance=_provenance(job, model),
        )

    def _memory_bytes(self, model: ModelSpec) -> int | None:
        """What the child may take; on a GPU the driver's own mappings would count, so no limit."""
        if self._device.startswith("cuda"):
            return None
        return int((model.resources.memory_gb + LIBRARIES_GB) * 2**30)

    def _keep_labels(self, job: LeasedJob, result: Mapping[str, Any]) -> None:
        summary = {"volumes_ml": result["volumes_ml"]}
        labels = _file(job, {**result["labels"], "form": LABELS, "summary": summary})
        self._deps.results.put_labels(job.id, self._owner, labels)
        crash_point("between encode and outbox")

    def _keep(self, job: LeasedJob, result: Mapping[str, Any], notes: Sequence[Reason]) -> None:
        volumes_ml = {"volumes_ml": result["volumes_ml"]}
        implausible = reasons_from_json(result["implausible"])
        self._deps.results.put_results(
            job.id,
            self._owner,
            [
                _file(job, {**made, "summary": {**made["summary"], **volumes_ml}})
                for made in result["files"]
            ],
            forms=self._forms_of(job),
            taken=self._deps.taken,
            reasons=_how_it_ended(job, result, implausible, notes),
            is_kept_back=bool(implausible) and self._is_held(job),
        )
        if implausible:
            codes = codes_of(implausible)
            log.warning("implausible result", extra={"job": job.id, "reasons": codes})
        log.info("job done", extra={"job": job.id, "files": len(result["files"])})

    def _forms_of(self, job: LeasedJob) -> tuple[str, ...]:
        """What is still to be made of a job's result."""
        wanted = self._deps.taken.of_all(job.destinations)
        return tuple(form for form in wanted if form not in job.forms)

    def _is_held(self, job: LeasedJob) -> bool:
        """Whether an implausible result waits for a person; what was decided before stays so."""
        if job.settled is Settled.NOT_YET:
            return self._deps.config.work.on_implausible == "hold"
        return job.settled is Settled.IMPLAUSIBLE

    def _end(self, job: LeasedJob, reasons: Sequence[Reason], *, permanent: bool) -> None:
        try:
            state = self._deps.leases.fail(job.id, self._owner, reasons, permanent=permanent)
        except LeaseLost:
            log.warning("job cancelled or in other hands", extra={"job": job.id})
        except OperationalError:
            # the lease runs out and the reaper queues the job again
            log.error("the job's end could not be written", extra={"job": job.id})
        else:
            log.error(
                "job attempt ended",
                extra={"job": job.id, "sentence": words.tell_all(reasons), "state": state.value},
            )


def _file(job: LeasedJob, facts: Mapping[str, Any]) -> ResultFile:
    return ResultFile(
        **{
            **facts,
            "file_name": f"{job.id}/{facts['file_name']}",
            "study_instance_uid": job.study_instance_uid,
        }
    )


def _how_it_ended(
    job: LeasedJob,
    result: Mapping[str, Any],
    implausible: Sequence[Reason],
    notes: Sequence[Reason],
) -> list[Reason]:
    nothing = [] if result["volumes_ml"] else [Reason(ReasonCode.NOTHING_FOUND)]
    ended = [*implausible, *nothing, *notes]
    if job.settled is Settled.ACCEPTED:
        ended.append(Reason(ReasonCode.TAKEN_ALL_THE_SAME))
    return ended


def _provenance(job: LeasedJob, model: ModelSpec) -> Provenance:
    return Provenance(
        model_name=model.name,
        model_version=model.version,
        model_digest=job.model_digest,
        weights_digest=model.weights_digest,
        node_version=__version__,
        config_digest=job.config_digest,
        parameters={key: str(value) for key, value in job.parameters.items()},
        research_use=model.research_use,
        series_number=job.series_number,
        content_date=job.content_date,
        content_time=job.content_time,
        revision=job.revision,
        replaces=job.replaces,
        incomplete=_incomplete(job.inputs),
    )


def _incomplete(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Of how many of how many images a job is made; empty where none is known to be missing."""
    parts = [
        f"{role + ' ' if len(inputs) > 1 else ''}{count} of {count + missing} images"
        for role, given in inputs.items()
        if (missing := int(given.get("missing", 0)))
        for count in [len(given["instances"])]
    ]
    return ", ".join(parts)
