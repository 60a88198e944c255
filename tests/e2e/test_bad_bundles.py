"""Bundles that fail over the whole road: each ends its own job, sends nothing, and harms no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monai")

from tests.support.bad_bundles import (
    eats_memory,
    finds_nothing,
    gives_another_shape,
    gives_no_numbers_to_compare,
    gives_unknown_labels,
    hangs,
    lies_elsewhere,
    raises,
)
from tests.support.bundles import Recipe, threshold, write_bundle_model
from tests.support.node_in_process import SharedWorker, node_in_process
from tests.support.phantoms import Phantom

CT = Phantom(shape=(20, 24, 28), spacing_mm=(9.0, 8.0, 7.0))
DEADLINE_S = 5

RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "no_numbers": gives_no_numbers_to_compare,
    "hanging": hangs,
    "raising": raises,
    "another_shape": gives_another_shape,
    "elsewhere": lies_elsewhere,
    "unknown_labels": gives_unknown_labels,
    "hungry": lambda: replace(eats_memory(), resources={"memory_gb": 1}),
    "other_weights": lambda: threshold(0.0),
    "no_weights": lambda: threshold(0.0),
    "nothing": finds_nothing,
    "good": lambda: threshold(-500.0),
}
SENTENCES = {
    "no_numbers": "not numbers",
    "hanging": f"passed its deadline of {DEADLINE_S} s",
    "raising": "no such channel",
    "another_shape": "",
    "elsewhere": "not one label for each voxel of its image",
    "unknown_labels": "labels that labels.csv does not describe: [200]",
    "hungry": "out of memory",
    "other_weights": "models/model.pt of other_weights is not the file with the hash",
    "no_weights": "models/model.pt of no_weights is missing: segnode models pull no_weights",
}


Jobs = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """What became of one series that every bundle was run on, in this order, by one worker."""
    folder = tmp_path_factory.mktemp("bad")
    for name, recipe in RECIPES.items():
        made = write_bundle_model(folder, name, recipe())
        if name == "other_weights":
            (made.root / "models" / "model.pt").write_bytes(b"something else")
        elif name == "no_weights":
            (made.root / "models" / "model.pt").unlink()
    worker = SharedWorker()
    try:
        with node_in_process(folder, _config(folder), worker) as node:
            CT.write(folder / "in")
            node.scan(folder / "in")
            node.settle()
            node.work()
            yield {job["model"]: job for job in node.jobs}
    finally:
        worker.close()


def _config(folder: Path) -> dict[str, Any]:
    (folder / "shelf").mkdir()
    rule = {"when": {"Modality": "CT"}, "send": ["shelf"]}
    return {
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "models_dirs": [str(folder / "models")],
        "weights_dir": str(folder / "weights"),
        "destinations": {"shelf": {"kind": "folder", "path": str(folder / "shelf")}},
        "rules": [
            {
                **rule,
                "name": name,
                "run": name,
                **({"deadline_s": DEADLINE_S} if name == "hanging" else {}),
            }
            for name in RECIPES
        ],
        "work": {"attempts": 1},
    }


@pytest.mark.parametrize("name", SENTENCES)
def test_a_bad_bundle_ends_its_job_with_one_sentence(jobs: Jobs, name: str) -> None:
    job = jobs[name]

    assert job["state"] in ("failed", "parked")
    assert SENTENCES[name] in job["sentence"]
    assert "\n" not in job["sentence"]
    assert not job["results"]
    assert not job["deliveries"]


def test_jobs_after_bad_ones_run(jobs: Jobs) -> None:
    assert (jobs["good"]["state"], jobs["good"]["sentence"]) == ("done", "")
    good = jobs["good"]
    assert good["id"] > max(jobs[name]["id"] for name in SENTENCES)


def test_a_bundle_that_finds_nothing_is_done_without_an_object(jobs: Jobs) -> None:
    job = jobs["nothing"]

    assert (job["state"], job["sentence"]) == ("done", "nothing found")
    assert [row["form"] for row in job["results"]] == ["labels"]


def test_only_the_good_result_is_to_be_sent(jobs: Jobs) -> None:
    assert {name for name, job in jobs.items() if job["deliveries"]} == {"good"}
