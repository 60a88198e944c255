"""The stages of a job add up to what the job took, whatever runs inside what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import resampled, write_bundle_model
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import simulated_node

CHEST = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5))
OF_EVERY_JOB = {"headers", "read", "check", "keep labels", "judge", "encode", "verify", "other"}
OF_KIND = {
    "ct_tissue": {"infer", "shapes", "compose"},
    "resampled": {"load model", "prepare", "network", "invert"},
}


@pytest.mark.parametrize("model", OF_KIND)
def test_stages_add_up_to_the_job(tmp_path: Path, worker: SharedWorker, model: str) -> None:
    keys: dict[str, Any] = {
        "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": model, "send": []}]
    }
    if model == "resampled":
        pytest.importorskip("monai")
        made = write_bundle_model(tmp_path / "made", model, resampled())
        keys |= {"models_dirs": [str(made.folder)], "weights_dir": str(made.weights_dir)}

    with simulated_node(tmp_path, worker, **keys) as node:
        node.receive(CHEST.files())
        node.run()
        (job,) = node.table("job")

    whole_s = job["finished_at"] - job["started_at"]
    # what is left is one transaction: all rows of the result, and the end of the job
    left_s = whole_s - sum(job["stages"].values())
    assert job["state"] == "done", job["sentence"]
    assert job["stages"].keys() == OF_EVERY_JOB | OF_KIND[model]
    assert -0.01 < left_s < max(0.5, 0.2 * whole_s)
