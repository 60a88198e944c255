"""A queued job whose model changed while the node was down is made anew, not failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.domain.instance import Forced
from node.domain.reasons import ReasonCode, told
from node.infer.registry import FoundModels, load_model
from node.jobs.leases import JobLeases
from node.jobs.store import JobStore
from node.spool.arrivals import Arrivals
from tests.support.node_in_process import (
    MODELS_PROBE,
    NodeInProcess,
    SharedWorker,
    node_in_process,
)
from tests.support.phantoms import Phantom

CT = Phantom(shape=(4, 24, 26))


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[NodeInProcess]:
    """A node with one queued job."""
    shutil.copytree(MODELS_PROBE / "probe", tmp_path / "models" / "probe")
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": "probe", "send": []}
    config: dict[str, Any] = {
        "models_dirs": [str(tmp_path / "models")],
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "rules": [rule],
    }
    CT.write(tmp_path / "in")
    with node_in_process(tmp_path, config, worker) as found:
        found.scan(tmp_path / "in")
        found.settle()
        yield found


def upgrade(node: NodeInProcess, tmp_path: Path) -> None:
    """The node starts again, with another version of the model."""
    path = tmp_path / "models" / "probe" / "model.yaml"
    path.write_text(path.read_text().replace("version: 1.0.0", "version: 2.0.0"))
    model = load_model(path.parent)
    rules = tuple(replace(rule, model=model) for rule in node.plan.rules)
    usable = {**node.plan.models, model.name: model}
    node.plan = replace(node.plan, rules=rules, found=FoundModels(usable=usable, unusable={}))
    node.restart_settling()


def states(node: NodeInProcess) -> list[tuple[str, str]]:
    return sorted((job["state"], job["model_digest"]) for job in node.jobs)


def test_its_series_is_judged_again_and_the_job_that_follows_is_done(
    node: NodeInProcess, tmp_path: Path
) -> None:
    ((_, before),) = states(node)
    upgrade(node, tmp_path)

    node.work()
    node.settle()
    node.work()

    after = node.plan.models["probe"].digest
    assert sorted(states(node)) == sorted([("cancelled", before), ("done", after)])
    assert len(node.segmentations()) == 1


def test_the_old_job_says_why_it_ended(node: NodeInProcess, tmp_path: Path) -> None:
    upgrade(node, tmp_path)

    node.work()

    (job,) = node.jobs
    assert (job["state"], job["sentence"]) == (
        "cancelled",
        "the model changed since the job was made: judged again",
    )


def test_a_job_that_failed_before_the_upgrade_is_made_anew_when_it_is_retried(
    node: NodeInProcess, tmp_path: Path
) -> None:
    leases = JobLeases(node.engine)
    leased = leases.lease("w", 30.0)
    assert leased is not None
    leases.fail(leased.id, "w", [told(ReasonCode.ATTEMPT_FAILED, "broken")], permanent=True)
    upgrade(node, tmp_path)

    JobStore(node.engine).retry(leased.id)
    node.work()
    node.settle()
    node.work()

    assert [state for state, _ in states(node)] == ["cancelled", "done"]


def test_a_worker_that_a_reload_has_not_reached_takes_the_model_from_the_disk(
    node: NodeInProcess, tmp_path: Path
) -> None:
    stale = node.plan
    upgrade(node, tmp_path)
    node.settle()
    Arrivals(node.engine).force(CT.uid("series"), Forced.RERUN)
    node.settle()
    node.plan = stale

    node.work()

    assert [state for state, _ in states(node)] == ["cancelled", "done"]
