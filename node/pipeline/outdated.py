"""Queued jobs whose model is another one by now, as after an upgrade: their series are judged again."""

from __future__ import annotations

from sqlalchemy import Engine

from node.domain.job import JobState
from node.domain.series import Forced
from node.jobs.catalog import JobCatalog
from node.pipeline.build import Plan
from node.spool.arrivals import Arrivals

_EVERYTHING = 100_000


def judge_outdated_again(plan: Plan, engine: Engine) -> list[str]:
    """Have series judged again where a queued job of theirs waits for a model of another digest.

    Such a job can only fail: a result must name the model that made it. Called once when the node
    starts and once when it reloads, with the plan that series are judged by, so that the job that
    follows fits.

    Returns:
        The series, each once.
    """
    catalog, arrivals = JobCatalog(engine), Arrivals(engine)
    queued, _ = catalog.list_jobs(state=JobState.QUEUED.value, limit=_EVERYTHING)
    found: dict[str, None] = {}
    for row in queued:
        model = plan.models.get(row["model"])
        if model is None or model.digest == row["model_digest"]:
            continue
        whole = catalog.get_job(row["id"])
        if whole is not None:
            grid, *_ = whole["inputs"].values()  # judging one series judges the sets that it is in
            found[grid["series_instance_uid"]] = None
    for series_instance_uid in found:
        arrivals.force(series_instance_uid, Forced.RERUN)
    return list(found)
