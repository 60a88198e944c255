"""The worker's side of the kind ``python``: volumes, the function, labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.infer.assets import check_assets
from node.infer.kept import Kept
from node.infer.python.own_code import own_function
from node.infer.python.spec import PythonPart
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput, read_volumes
from node.infer.volume import Volume

Entry = Callable[[ModelSpec, Mapping[str, Volume], RunContext, Report], LabelArray]


def warm(spec: ModelSpec, weights_dir: Path, device: str, kept: Kept) -> None:
    """Import the entry.

    Raises:
        JobFailed: It is not there.
    """
    del weights_dir, device, kept
    entry_of(spec)


check = warm


def run(
    spec: ModelSpec, inputs: Mapping[str, SeriesInput], context: RunContext, report: Report
) -> ModelOutput:
    """Call the model's entry with its volumes; its weights, if it has any, are the right ones."""
    entry = entry_of(spec)
    check_assets(spec, context.weights_dir, hashes=context.kept.hashes)
    read = read_volumes(spec, inputs, report)
    with report.stage("infer"):
        labels = entry(spec, read.volumes, context, report)
    return ModelOutput(labels=labels, padding=read.padding.get(spec.grid_role))


def entry_of(spec: ModelSpec) -> Entry:
    """The function of a model.

    Raises:
        JobFailed: It is not there, or its file is not the declared one; permanent.
    """
    settings = spec.runner.settings
    if not isinstance(settings, PythonPart):
        raise TypeError(f"{spec.name} is no model in Python")
    if settings.is_own_code:
        return own_function(settings, spec.folder)
    module, _, name = settings.entry.partition(":")
    entry: Entry | None = getattr(importlib.import_module(module), name, None)
    if entry is None:
        raise JobFailed(f"{module} has no function {name}", permanent=True)
    return entry
