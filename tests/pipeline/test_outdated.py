"""A queued job whose model changed while the node was down is made anew, not failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.infer.registry import FoundModels, load_model
from node.pipeline.outdated import judge_outdated_again
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

    renewed = judge_outdated_again(node.plan, node.engine)
    node.settle()
    node.work()

    assert renewed == [CT.uid("series")]
    after = node.plan.models["probe"].digest
    assert sorted(states(node)) == sorted([("cancelled", before), ("done", after)])
    assert len(node.segmentations()) == 1


def test_without_it_the_job_fails_and_tells(node: NodeInProcess, tmp_path: Path) -> None:
    upgrade(node, tmp_path)

    node.work()

    (job,) = node.jobs
    assert job["state"] == "failed"
    assert "changed on disk since the job was made: rerun the series" in job["sentence"]


def test_jobs_of_models_that_did_not_change_are_left_alone(node: NodeInProcess) -> None:
    assert judge_outdated_again(node.plan, node.engine) == []
    node.settle()

    assert [state for state, _ in states(node)] == ["queued"]
