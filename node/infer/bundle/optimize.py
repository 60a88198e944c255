"""Making an optimized network of a bundle, and holding its labels against the original's.

MONAI's own ``trt_export`` makes it, in a process of its own, with the arguments that model.yaml names
(``runner.trt_export``, as the bundle's publisher gives them). Then both networks run the same series
on the same device; the new one is accepted only where every label that either found agrees.

Nothing heavy is imported before it was looked for, so that what is missing is told wherever it is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobRefused
from node.domain.result import LabelArray, label_values_of, mask_of
from node.domain.segment import Segment
from node.infer.assets import sha256_of, sync_folder
from node.infer.bundle.spec import Bundle, Optimized, bundle_of, settings_of, write_lock
from node.infer.registry import ModelSpec
from node.infer.report import Report, Stopwatch
from node.infer.run_context import RunContext, SeriesInput, run_model

FOLDER = "optimized"  # of a model in weights_dir
DICE_LEAST = 0.99
_ARGUMENTS = "arguments.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRT:
    """MONAI's ``trt_export``."""

    precision: str
    options: Mapping[str, object]

    @property
    def engine(self) -> str:
        """Goes into results."""
        return f"tensorrt {self.precision}"

    def require(self, device: str) -> None:
        """Torch-TensorRT and a GPU that it can use.

        Raises:
            JobFailed: With all that is missing.
        """
        absent = [
            f"{package} is not installed"
            for package in ("torch", "monai", "torch_tensorrt", "fire")
            if importlib.util.find_spec(package) is None
        ]
        has_torch = importlib.util.find_spec("torch") is not None
        if not (
            device.startswith("cuda")
            and has_torch
            and importlib.import_module("torch").cuda.is_available()
        ):
            absent.append("no CUDA GPU can be used")
        if absent:
            raise JobRefused(f"TensorRT needs more than there is: {', '.join(absent)}")

    def arguments(self, device: str) -> Mapping[str, object]:
        """What it is told beside the network, its weights and where to write: as the publisher says."""
        number = int(device.partition(":")[2] or 0)
        return {"device": number, **self.options, "precision": self.precision}

    def export(self, arguments: Path, root: Path, log: Path) -> int:
        """Export as a file of arguments says, in a process of its own: it takes GPU memory, and may die.

        Args:
            root: Of the bundle, whose code the network may need.
            log: Gets all that is said.
        Returns:
            The exit code.
        """
        with log.open("wb") as file:
            ended = subprocess.run(  # noqa: S603 - our own interpreter and MONAI's module
                [
                    sys.executable,
                    *("-P", "-m", "monai.bundle"),
                    *("trt_export", "--args_file", str(arguments)),
                ],
                check=False,
                cwd=arguments.parent,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)]),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return ended.returncode


def exporter_of(spec: ModelSpec, precision: str) -> TensorRT:
    """How a model is exported, as its model.yaml says.

    Raises:
        JobRefused: It does not say.
    """
    options: Mapping[str, Any] | None = settings_of(spec).trt_export
    if options is None:
        raise JobRefused(f"{spec.name} cannot be exported: its model.yaml has no runner.trt_export")
    return TensorRT(precision=precision, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two label arrays agree.

    Args:
        dice: Of each label value that either holds.
        equal: Share of voxels that are the same, of those where either is not background.
    """

    dice: Mapping[int, float]
    equal: float

    @property
    def lowest(self) -> tuple[int, float]:
        """The label that agrees least."""
        return min(self.dice.items(), key=lambda item: item[1])


def optimize(
    spec: ModelSpec,
    variant: str,
    inputs: Mapping[str, SeriesInput],
    context: RunContext,
    report: Report,
    exporter: TensorRT,
) -> Optimized:
    """Make, compare and, where it agrees, accept an optimized network.

    Raises:
        JobRefused: It cannot be made here, or its labels are not the original's. The
            original stays in use.
    """
    exporter.require(context.device)
    folder = context.weights_dir / spec.name
    write_lock(folder, variant, None)
    with report.stage("export"):
        entry = _exported(spec, variant, context, exporter)
    write_lock(folder, variant, entry)
    with ExitStack() as unless_it_agrees:
        unless_it_agrees.callback((folder / entry.file).unlink, missing_ok=True)
        unless_it_agrees.callback(write_lock, folder, variant, None)
        agreement, seconds = _compared(spec, variant, inputs, context, report)
        _require_agreement(agreement, spec.segment_of)
        unless_it_agrees.pop_all()
    value, dice = agreement.lowest
    accepted = replace(
        entry,
        accepted=True,
        compared={
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "labels": len(agreement.dice),
            "lowest_dice": dice,
            "lowest_label": spec.segment_of[value].name,
            "equal_voxels": agreement.equal,
            "network_s": seconds,
        },
    )
    write_lock(folder, variant, accepted)
    return accepted


def export_arguments(
    bundle: Bundle, target: Path, exporter: TensorRT, device: str
) -> dict[str, object]:
    """What MONAI's export is told; the network is the one that the bundle builds for inference."""
    metadata = bundle.config.parent / "metadata.json"
    return {
        **{name.replace("::", "#"): value for name, value in bundle.overrides.items()},
        "bundle_root": str(bundle.root),
        "net_id": "network_def",
        "filepath": str(target),
        "ckpt_file": str(bundle.weights),
        "config_file": str(bundle.config),
        **({"meta_file": str(metadata)} if metadata.is_file() else {}),
        **exporter.arguments(device),
    }


def _exported(spec: ModelSpec, variant: str, context: RunContext, exporter: TensorRT) -> Optimized:
    from node.infer.bundle.loading import made_with

    bundle = bundle_of(spec, variant, context.weights_dir)
    work = context.scratch / "export"
    work.mkdir()
    made = work / "network.ts"
    arguments = export_arguments(bundle, made, exporter, context.device)
    (work / _ARGUMENTS).write_text(json.dumps(arguments), encoding="utf-8")
    folder = bundle.root / FOLDER
    folder.mkdir(exist_ok=True)
    log = folder / f"{variant}.log"
    code = exporter.export(work / _ARGUMENTS, bundle.root, log)
    if code or not made.is_file():
        raise JobRefused(f"MONAI's export of {spec.name} failed (exit code {code}): see {log}")
    path = folder / f"{variant}.ts"
    shutil.move(made, path)
    sync_folder(path.parent)
    return Optimized(
        file=f"{FOLDER}/{path.name}",
        sha256=sha256_of(path),
        weights_sha256=sha256_of(bundle.weights),
        model_digest=spec.digest,
        engine=exporter.engine,
        made_with=made_with(context.device),
    )


def _compared(
    spec: ModelSpec,
    variant: str,
    inputs: Mapping[str, SeriesInput],
    context: RunContext,
    report: Report,
) -> tuple[Agreement, Mapping[str, float]]:
    labels: dict[str, LabelArray] = {}
    seconds = {}
    for name, wish in (("original", "off"), ("optimized", "candidate")):
        scratch = context.scratch / name
        scratch.mkdir()
        named = _Named(report, name)
        parameters = {"variant": variant, "optimized": wish, "precision": "fp32", "mode": "fast"}
        produced = run_model(spec, inputs, replace(context, scratch=scratch), named, parameters)
        if produced.ran.get("variant") != variant or ("engine" in produced.ran) != (wish != "off"):
            raise JobRefused(
                f"the {name} network could not run as asked, such as for want of memory:"
                " nothing was compared"
            )
        labels[name], seconds[name] = produced.labels, round(named.seconds.get("network", 0.0), 3)
    agreement = compare_labels(
        labels["original"], labels["optimized"], overlapping=spec.has_regions
    )
    return agreement, seconds


def _require_agreement(agreement: Agreement, segments: Mapping[int, Segment]) -> None:
    if not agreement.dice:
        raise JobRefused(
            "neither network finds anything in this sample: take a series that shows what the model"
            " segments"
        )
    value, dice = agreement.lowest
    if dice < DICE_LEAST:
        raise JobRefused(
            f"its labels are not the original's: Dice {dice:.4f} for {segments[value].name}, at least"
            f" {DICE_LEAST} is asked for; the original stays in use"
        )


class _Named(Stopwatch):
    """Tells stages and remarks on, under the name of the network that they are of."""

    def __init__(self, report: Report, name: str) -> None:
        super().__init__()
        self._report, self._name = report, name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The stage, timed here and told there."""
        with self._report.stage(f"{self._name}: {name}"), super().stage(name):
            yield

    def note(self, sentence: str) -> None:
        """The remark."""
        self._report.note(f"{self._name}: {sentence}")


def compare_labels(original: LabelArray, other: LabelArray, *, overlapping: bool) -> Agreement:
    """Dice per label between two arrays of one shape, labels or bits of regions."""
    stored = np.union1d(np.unique(original), np.unique(other)).tolist()
    values = {each for one in stored for each in label_values_of(one, overlapping=overlapping)}
    dice = {}
    for value in sorted(values):
        first = mask_of(original, value, overlapping=overlapping)
        second = mask_of(other, value, overlapping=overlapping)
        both = int(np.count_nonzero(first & second))
        dice[value] = 2 * both / (int(first.sum()) + int(second.sum()))
    either = (original != 0) | (other != 0)
    count = int(either.sum())
    equal = float(np.count_nonzero((original == other) & either)) / count if count else 1.0
    return Agreement(dice=dice, equal=equal)
