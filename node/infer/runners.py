"""Runner kinds by name, and the one call that runs a model whatever its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobFailed
from node.domain.result import LabelArray, label_values_of
from node.infer.kept import Kept
from node.infer.padding import cleared
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput

Worker = Callable[[ModelSpec, Mapping[str, SeriesInput], RunContext, Report], ModelOutput]


def run_model(
    spec: ModelSpec,
    inputs: Mapping[str, SeriesInput],
    context: RunContext,
    report: Report,
    parameters: Mapping[str, object] | None = None,
) -> ModelOutput:
    """What a model makes of its inputs, on the grid of the first.

    Args:
        inputs: Role -> series, every role of the model.
        parameters: Of this job, over those of the model folder.
    Raises:
        JobFailed: The inputs are not the model's, or what it returned is not what it declares.
    """
    if inputs.keys() != spec.inputs.keys():
        raise JobFailed(
            f"{spec.name} takes {sorted(spec.inputs)}, not {sorted(inputs)}", permanent=True
        )
    module, _, function = spec.runner.settings.WORKER.partition(":")
    work: Worker = getattr(importlib.import_module(module), function)
    produced = work(_with(spec, parameters or {}), inputs, context, report)
    with report.stage("check"):
        check_labels(spec, inputs[spec.grid_role].stack.grid.shape, produced.labels)
        return _without_padding(spec, produced, report)


def _without_padding(spec: ModelSpec, produced: ModelOutput, report: Report) -> ModelOutput:
    """What was found where there is no image is taken out, counted and told."""
    padding = produced.padding
    if padding is None:
        return produced
    ran = {**produced.ran, "padding": padding.words}
    if spec.inputs[spec.grid_role].labels_on_padding:
        return replace(produced, ran=ran)
    labels, number = cleared(produced.labels, padding)
    if number:
        ran["padding_cleared"] = f"{number} voxels"
        report.note(f"labels on {number} voxels of padding were taken out")
    return replace(produced, labels=labels, ran=ran)


def warm(request: Mapping[str, Any], report: Report, kept: Kept) -> Mapping[str, Any]:
    """A job for an idle child: what ``request["models"]`` need before a first job.

    Each is given by its folder and the parameters that a job will have. The first real job then
    does not pay for it. A kind that can do more than be imported has a function
    ``warm(spec, weights_dir, device, kept)``.
    """
    with report.stage("warm"):
        for given in request["models"]:
            spec = _with(load_model(Path(given["folder"])), given["parameters"])
            worker = importlib.import_module(spec.runner.settings.WORKER.partition(":")[0])
            if hasattr(worker, "warm"):
                worker.warm(spec, Path(request["weights_dir"]), request["device"], kept)
    return {}


def _with(spec: ModelSpec, parameters: Mapping[str, object]) -> ModelSpec:
    """A model with the parameters of a job over its own."""
    runner = replace(spec.runner, parameters={**spec.runner.parameters, **parameters})
    return replace(spec, runner=runner)


def check_labels(spec: ModelSpec, shape: tuple[int, int, int], labels: LabelArray) -> None:
    """Whether an array is what the model declares: on this grid, with no label but its own.

    Raises:
        JobFailed: It is not; permanent.
    """
    if labels.shape != shape or labels.dtype not in (np.uint8, np.uint16):
        raise JobFailed(
            f"{spec.name} returned {labels.dtype} of {labels.shape}, not labels on the grid {shape}",
            permanent=True,
        )
    present = np.zeros(int(np.iinfo(labels.dtype).max) + 1, bool)
    for plane in labels:
        present[plane] = True
    found = {
        value
        for stored in np.flatnonzero(present).tolist()
        for value in label_values_of(stored, overlapping=spec.has_regions)
    }
    unknown = sorted(found - spec.segment_of.keys())
    if unknown:
        raise JobFailed(
            f"{spec.name} returned labels that labels.csv does not describe: {unknown[:5]}",
            permanent=True,
        )
