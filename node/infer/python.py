"""Runner kind ``python``: a model that is a function of this package.

::

    def run(spec: ModelSpec, volumes: Mapping[str, Volume], room: Room, report: Report)
        -> labels on the grid of the first input

Entries outside ``node.infer`` are refused when the model folder is loaded: a model folder is data
and must not make the node import what it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from node.domain.result import LabelArray
from node.infer.assets import check_assets
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput, read_volumes


def warm(spec: ModelSpec, weights_dir: Path, device: str) -> None:
    """Import the entry."""
    del weights_dir, device
    importlib.import_module(spec.runner.entry.partition(":")[0])


def run(
    spec: ModelSpec, inputs: Mapping[str, SeriesInput], context: RunContext, report: Report
) -> ModelOutput:
    """Call the model's entry with its volumes; its weights, if it has any, are the right ones."""
    check_assets(spec, context.weights_dir)
    module, _, function = spec.runner.entry.partition(":")
    entry = getattr(importlib.import_module(module), function)
    read = read_volumes(spec, inputs, report)
    with report.stage("infer"):
        labels: LabelArray = entry(spec, read.volumes, context, report)
    return ModelOutput(labels=labels, padding=read.padding.get(spec.grid_role))
