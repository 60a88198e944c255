"""Runner kinds by name, and the one call that runs a model whatever its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.infer.registry import RUNNERS, ModelSpec, load_model
from node.infer.report import Report
from node.infer.volume import Volume

RunnerKind = Callable[[ModelSpec, Mapping[str, Volume], Report], LabelArray]


def run_model(
    spec: ModelSpec,
    volumes: Mapping[str, Volume],
    report: Report,
    parameters: Mapping[str, object] | None = None,
) -> LabelArray:
    """The labels of a model on the grid of its first input.

    Args:
        volumes: Role -> volume, every role of the model.
        parameters: Of this job, over those of the model folder.
    Raises:
        JobFailed: The inputs are not the model's, or what it returned is not what it declares.
    """
    if volumes.keys() != spec.inputs.keys():
        raise JobFailed(
            f"{spec.name} takes {sorted(spec.inputs)}, not {sorted(volumes)}", permanent=True
        )
    runner = replace(spec.runner, parameters={**spec.runner.parameters, **(parameters or {})})
    module, _, function = RUNNERS[spec.runner.kind].partition(":")
    kind: RunnerKind = getattr(importlib.import_module(module), function)
    labels = kind(replace(spec, runner=runner), volumes, report)
    _check(spec, volumes[spec.grid_role], labels)
    return labels


def warm(request: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """A job for an idle child: import what the models in ``request["folders"]`` need.

    The first real job then does not pay for it.
    """
    with report.stage("warm"):
        for folder in request["folders"]:
            spec = load_model(Path(folder))
            entries = (RUNNERS[spec.runner.kind], spec.runner.entry)
            for entry in entries if spec.runner.kind == "python" else entries[:1]:
                importlib.import_module(entry.partition(":")[0])
    return {}


def _check(spec: ModelSpec, volume: Volume, labels: LabelArray) -> None:
    if labels.shape != volume.geometry.shape or labels.dtype not in (np.uint8, np.uint16):
        raise JobFailed(
            f"{spec.name} returned {labels.dtype} of {labels.shape}, not labels on the grid "
            f"{volume.geometry.shape}",
            permanent=True,
        )
    present = np.zeros(int(np.iinfo(labels.dtype).max) + 1, bool)
    for plane in labels:
        present[plane] = True
    described = {0, *(segment.label_value for segment in spec.segments)}
    unknown = [int(value) for value in np.flatnonzero(present) if int(value) not in described]
    if unknown:
        raise JobFailed(
            f"{spec.name} returned labels that labels.csv does not describe: {unknown[:5]}",
            permanent=True,
        )
