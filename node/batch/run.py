"""A folder in, results out, without a server: the parts of the node in one process, one after another.

Takes the folder in as one scan, judges every series with nothing to wait for, runs the jobs, writes
the results. State lies in ``OUTPUT/.segnode`` and is that of a node: a run that was interrupted, or
killed, goes on where it was when it is started again.
"""

from __future__ import annotations

import time
from dataclasses import replace

from sqlalchemy import Engine

from node.batch.output_folder import OUTPUT, OutputFolder
from node.batch.report import RunReport, jobs_in_force, report_run
from node.batch.request import RunRequest, check_request, judged_by, plan_run
from node.batch.take_in import take_in
from node.batch.workers import INTERRUPTED, BatchWorkers, Say
from node.batch.writer import ResultWriter
from node.database.migrate import migrate
from node.database.pages import every
from node.domain.completion_policy import CompletionPolicy, OnGiveUp, OnRefused
from node.domain.errors import ConfigInvalid, NodeError
from node.domain.instance import Forced, SeriesState
from node.domain.job import JobState
from node.jobs.catalog import JobCatalog
from node.jobs.store import JobStore
from node.pipeline.accept import open_ingest
from node.pipeline.build import Plan
from node.pipeline.data_folder import lock_data_folder
from node.pipeline.settle import Settler, settle_deps
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpoolFolders
from node.spool.losses import Losses
from node.spool.rebuild import rebuild_index
from node.words import show_count

STATE_FOLDER = ".segnode"

_LOOK_EVERY_S = 0.2
_SETTLE_LIMIT_S = 20.0

# a folder is whole: nothing more will come, and nobody has to be waited for
_NO_WAITING = CompletionPolicy(
    release_settle_s=0.0, quiet_s=0.0, quiet_max_s=0.0, give_up_s=0.0, on_give_up=OnGiveUp.PROCEED
)


def run_folder(request: RunRequest, say: Say) -> RunReport:
    """Run rules, or models, over a folder.

    Args:
        say: Gets one sentence per step.
    Raises:
        ConfigInvalid: The configuration, a model, an option or a folder cannot be used.
        NodeError: Interrupted; started again it goes on.
    """
    check_request(request)
    state = request.output / STATE_FOLDER
    with lock_data_folder(state, shared=False):
        current = plan_run(request, state, say)
        for name, model in current.found.unusable.items():
            say(f"set aside: model {name}: {model}")
        engine = current.open_engine()
        try:
            migrate(engine)
            rebuild_index(engine, SpoolFolders.of(current.config.data_dir))
            return _run(current, engine, request, say)
        except KeyboardInterrupt:
            raise NodeError(INTERRUPTED) from None
        finally:
            engine.dispose()


def _run(current: Plan, engine: Engine, request: RunRequest, say: Say) -> RunReport:
    began = time.monotonic()
    current.results_folder.mkdir(parents=True, exist_ok=True)
    output = _output_folder(request, engine)
    current = replace(current, destinations={OUTPUT: output})
    with BatchWorkers(current, engine) as workers:
        Losses(engine).forget_all()  # of an earlier run; what is still refused is lost again
        with open_ingest(current) as door:
            taken = take_in(door, request.source, say)
        _settle(current, engine, request, say)
        if request.accepts_implausible:  # what an earlier run kept back is written by this one
            for job in jobs_in_force(JobCatalog(engine), JobState.IMPLAUSIBLE):
                JobStore(engine).accept(job["id"])
        writer = ResultWriter(current, engine, output)
        # what an earlier run made goes into the folder, too, in the forms and names of this one
        for job in jobs_in_force(JobCatalog(engine), JobState.DONE):
            writer.ask(job)
        workers.finish(say)
    return report_run(current, engine, writer, taken, seconds=time.monotonic() - began)


def _output_folder(request: RunRequest, engine: Engine) -> OutputFolder:
    catalog = SpoolCatalog(engine)

    def modality_of(series_instance_uid: str) -> str:
        row = catalog.get_series(series_instance_uid)
        return str(row["modality"]) if row else ""

    try:
        return OutputFolder(
            path=request.output.absolute(),
            layout=request.layout,
            forms=request.forms,
            modality_of=modality_of,
        )
    except ValueError as error:
        raise ConfigInvalid([("--layout", str(error))]) from None


def _settle(current: Plan, engine: Engine, request: RunRequest, say: Say) -> None:
    """Let the rules judge every series, again where other rules are in force than last time."""
    arrivals = Arrivals(engine)
    on_refused = OnRefused.PROCEED if request.proceed else current.policy.on_refused
    policy = replace(_NO_WAITING, on_refused=on_refused)
    deps = replace(settle_deps(current, engine), policy=policy)
    marker = current.config.data_dir / "judged-by"
    decided_by = judged_by(current)
    if marker.exists() and marker.read_text(encoding="utf-8") != decided_by:
        for row in every(SpoolCatalog(engine).list_series):
            arrivals.force(row["series_instance_uid"], Forced.RERUN)
    marker.write_text(decided_by, encoding="utf-8")
    settler = Settler(deps)
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
    catalog = JobCatalog(engine)
    # who starts a run again wants what failed to be tried again
    for job in jobs_in_force(catalog, JobState.FAILED, JobState.PARKED):
        JobStore(engine).retry(job["id"])
    judged = SpoolCatalog(engine).count_series(SeriesState.COMPLETE)
    queued = catalog.count_jobs(JobState.QUEUED)
    said = [show_count(sum(numbers.values())) for numbers in (judged, queued)]
    say(f"{said[0]} series judged, {said[1]} jobs to run")


def _receiving(arrivals: Arrivals) -> int:
    """How many series are not settled yet; those held for a person are."""
    rows = (arrivals.series(uid) for uid in arrivals.unsettled()[0])
    return sum(
        row is None or row.forced is not None or row.state is not SeriesState.HELD for row in rows
    )
