"""Optimizing a model, inside a child process: it loads what may crash, and may take long."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError

from node.domain.errors import JobRefused
from node.infer.assets import Kept
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Report
from node.infer.run_context import RunContext, SeriesInput
from node.pipeline.series import StoredHeader, judged_source, read_header

# named as text: what it imports is loaded in the child only
_OPTIMIZE = "node.infer.bundle.optimize"


def run(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """Make, compare and accept an optimized network.

    Args:
        request: ``model_folder``, ``weights_dir``, ``variant`` (or empty), ``precision``, ``sample``.
    Raises:
        JobFailed: It cannot be made here, the sample is none, or the labels differ.
    """
    model = load_model(Path(request["model_folder"]))
    if model.runner.kind != "monai_bundle":
        raise JobRefused(f"{model.name} is no MONAI bundle: nothing to optimize")
    device = os.environ.get("SEGNODE_DEVICE", "cpu")
    optimizing = importlib.import_module(_OPTIMIZE)
    exporter = optimizing.exporter_of(model, request["precision"])
    exporter.require(device)
    variants = model.runner.variant_names
    variant = request["variant"] or str(model.runner.parameters.get("variant", variants[0]))
    if variant not in variants:
        raise JobRefused(
            f"{model.name} has no variant {variant!r}; there are: {', '.join(variants)}"
        )
    with report.stage("headers"):
        inputs = read_sample(model, Path(request["sample"]))
    with tempfile.TemporaryDirectory(prefix="segnode-optimize-") as folder:
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        context = RunContext(
            device=device,
            weights_dir=Path(request["weights_dir"]),
            scratch=scratch,
            memory_gb=model.resources.memory_gb,
            kept=kept,
        )
        made = optimizing.optimize(model, variant, inputs, context, report, exporter)
    return {"variant": variant, **asdict(made)}


def read_sample(model: ModelSpec, folder: Path) -> dict[str, SeriesInput]:
    """One series for each role: the folder itself, or for several roles a folder for each in it.

    Raises:
        JobFailed: A folder is missing, or does not hold one series that the model could take.
    """
    if len(model.inputs) == 1:
        return {model.grid_role: _read_series(model, model.grid_role, folder)}
    return {role: _read_series(model, role, folder / role) for role in model.inputs}


def _read_series(model: ModelSpec, role: str, folder: Path) -> SeriesInput:
    if not folder.is_dir():
        raise JobRefused(f"the sample has no folder {folder.name} for role {role}")
    headers, files = {}, {}
    series = set()
    for path in sorted(folder.rglob("*")):
        if header := _header(path):
            series.add(str(header.dataset.get("SeriesInstanceUID", "")))
            uid = str(header.dataset.SOPInstanceUID)
            headers[uid], files[uid] = header, path
    if len(series) != 1:
        raise JobRefused(f"the sample holds {len(series)} series for role {role}, not one")
    return judged_source(headers, files, model.inputs[role]).given


def _header(path: Path) -> StoredHeader | None:
    """The header of an image; None for anything else."""
    if not path.is_file():
        return None
    try:
        header = read_header(path, force=False)
    except (InvalidDicomError, EOFError):
        return None
    return header if "Rows" in header.dataset else None
