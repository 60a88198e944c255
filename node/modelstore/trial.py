"""A trial of a model inside a child process: its code and weights are loaded, and it runs on a series."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.result import mask_of
from node.infer.assets import Kept
from node.infer.registry import load_model
from node.infer.report import Report
from node.infer.run_context import RunContext, run_model
from node.pipeline.judge import variant_by_header
from node.pipeline.optimize_job import read_sample


def run(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """Try a model.

    Args:
        request: ``model_folder``, ``weights_dir``, ``device``, ``sample``: a folder with a series, or
            one folder per role; empty: only what can be loaded is loaded.
    Raises:
        JobFailed: Its code or its weights cannot be used, or it fails on the series.
    """
    model = load_model(Path(request["model_folder"]))
    weights_dir = Path(request["weights_dir"])
    worker = importlib.import_module(model.runner.WORKER.partition(":")[0])
    if hasattr(worker, "check"):
        worker.check(model, weights_dir, request["device"], kept)
    if not request["sample"]:
        return {"found": []}
    with tempfile.TemporaryDirectory(prefix="segnode-trial-") as folder:
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        context = RunContext(
            device=request["device"],
            weights_dir=weights_dir,
            scratch=scratch,
            memory_gb=model.resources.memory_gb,
            kept=kept,
        )
        inputs = read_sample(model, Path(request["sample"]))
        chosen = variant_by_header(model, {}, inputs[model.grid_role].header)
        labels = run_model(model, inputs, context, report, chosen).labels
    found = [
        segment.name
        for segment in model.segments
        if np.any(mask_of(labels, segment.label_value, overlapping=model.has_regions))
    ]
    return {"found": found}
