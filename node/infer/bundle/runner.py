"""Runner kind ``monai_bundle``: any MONAI bundle, unchanged.

``mode: fast`` (the default) runs the bundle's own parts in the warm worker; ``mode: strict`` runs its
own command line in a process of its own, and is the reference. Out of memory steps down, and every
step is told: one window at a time, sums in main memory, the variant that model.yaml names as next,
the CPU.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from node.domain.errors import JobRefused
from node.domain.result import LabelArray, mask_of
from node.infer.assets import Kept, check_assets, missing_assets
from node.infer.bundle.fast import (
    PRECISIONS,
    MemoryMode,
    run_fast,
    warm_up,
    windows_at_once,
)
from node.infer.bundle.image import Prepared
from node.infer.bundle.loading import Loaded, is_out_of_memory, load, with_optimized
from node.infer.bundle.spec import (
    PREPARE,
    asking_for,
    bundle_of,
    chosen_optimized,
    is_asked_by_class,
    labels_wanted,
    settings_of,
    variant_of,
)
from node.infer.bundle.strict import run_strict
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput, read_volumes
from node.infer.volume import Volume

MODES = ("fast", "strict")


def warm(spec: ModelSpec, weights_dir: Path, device: str, kept: Kept) -> None:
    """Load the default variant, and on a card show it windows, so that the first job finds all that.

    On a CPU a window costs a warm-up what it costs a job, which may be waiting by then. Of several
    models the first: one network is warm at a time.
    """
    settings = settings_of(spec)
    variant = spec.runner.parameters.get("variant", next(iter(settings.variants)))
    if not kept.is_empty:
        return
    loaded = _loaded(spec, str(variant), weights_dir, device, kept)
    precision = str(spec.runner.parameters.get("precision", "fp32"))
    is_fast = spec.runner.parameters.get("mode") != "strict" and precision in PRECISIONS
    if is_fast and device != "cpu":
        with suppress(RuntimeError, JobRefused):  # a job tells what is wrong
            warm_up(
                loaded, MemoryMode(device=device, precision=precision), settings.region_channels
            )
        _free_memory()


def check(spec: ModelSpec, weights_dir: Path, device: str, kept: Kept) -> None:
    """Whether the weights that are here are those of the bundle's network, one variant for each.

    Raises:
        JobRefused: The bundle cannot be built, or they are not.
    """
    missing = {each.path for each in missing_assets(spec, weights_dir)}
    if missing & {each.path for each in spec.files}:
        return
    variants = settings_of(spec).variants
    by_weights = {each.weights: name for name, each in reversed(variants.items())}
    for weights, variant in by_weights.items():
        if weights not in missing:
            bundle = bundle_of(spec, variant, weights_dir, kept.hashes)
            load(bundle, device, regions=spec.has_regions)


def run(
    spec: ModelSpec, inputs: Mapping[str, SeriesInput], context: RunContext, report: Report
) -> ModelOutput:
    """Run the bundle of a model.

    Raises:
        JobFailed: See the modules of this package; or no step had memory enough.
    """
    variant = variant_of(spec)
    wanted = labels_wanted(spec)
    mode = str(spec.runner.parameters.get("mode", "fast"))
    precision = str(spec.runner.parameters.get("precision", "fp32"))
    for name, value, known in (("mode", mode, MODES), ("precision", precision, PRECISIONS)):
        if value not in known:
            there_are = ", ".join(known)
            raise JobRefused(f"no {name} {value!r}; there are: {there_are}")
    # what is missing is told before all else
    bundle = bundle_of(spec, variant, context.weights_dir, context.kept.hashes)
    read = read_volumes(spec, inputs, report)
    prepared = _prepare(spec, variant, read.volumes, context, report)
    by_class = is_asked_by_class(bundle)
    if precision == "tf32" and context.device == "cpu":
        report.note("precision: tf32 is of GPUs; on a CPU it is fp32")
        precision = "fp32"
    if mode == "strict":
        asking = asking_for(bundle, wanted) if by_class and wanted else bundle
        labels = run_strict(asking, prepared.channels, context, report)
        ran = {"variant": variant, "mode": mode, "device": torch.device(context.device).type}
    else:
        first = MemoryMode(device=context.device, precision=precision)
        labels, ran = _step_down(spec, variant, first, wanted, prepared.channels, context, report)
    with report.stage("invert"):
        labels = prepared.back(labels)
    # a class may stand for others ("kidney" for left and right), which only the bundle knows
    narrowed = labels if by_class else _narrowed(spec, labels, wanted)
    return ModelOutput(labels=narrowed, ran=ran, padding=read.padding.get(spec.grid_role))


def _prepare(
    spec: ModelSpec,
    variant: str,
    volumes: Mapping[str, Volume],
    context: RunContext,
    report: Report,
) -> Prepared:
    settings = settings_of(spec)
    chosen = settings.variants[variant]
    step = chosen if chosen.prepare else settings
    if step.prepare:
        files = check_assets(
            spec, context.weights_dir, step.prepare_files, hashes=context.kept.hashes
        )
        module, _, function = PREPARE[step.prepare].partition(":")
        with report.stage("prepare series"):
            prepared: Prepared = getattr(importlib.import_module(module), function)(
                volumes, files, context.device, report
            )
        return prepared
    channels = settings.channels or list(spec.inputs)
    if len({volumes[role].grid for role in channels}) > 1:
        raise JobRefused(
            f"the series of {spec.name} do not lie on one grid, and it names no step that would"
            " bring them there"
        )
    return Prepared(channels=tuple(volumes[role] for role in channels), back=lambda labels: labels)


def _step_down(
    spec: ModelSpec,
    variant: str,
    first: MemoryMode,
    wanted: Sequence[int],
    channels: Sequence[Volume],
    context: RunContext,
    report: Report,
) -> tuple[LabelArray, dict[str, str]]:
    """Labels, and what decided them, by the first way of running the bundle that has memory enough."""

    asks_less = False  # whether one window at a time is less than what was tried

    def attempt(name: str, effort: MemoryMode) -> tuple[LabelArray, dict[str, str]]:
        nonlocal asks_less
        with report.stage("load model"):
            loaded = _loaded(spec, name, context.weights_dir, effort.device, context.kept)
        if loaded.remark:
            report.note(loaded.remark)
        regions = settings_of(spec).region_channels
        try:
            labels = run_fast(loaded, channels, effort, report, regions, wanted)
        except (MemoryError, RuntimeError):
            asks_less = windows_at_once(loaded) > 1 or not loaded.recorder.is_empty
            loaded.recorder.drop()
            raise
        engine = {"engine": loaded.engine} if loaded.engine else {}
        device = torch.device(effort.device).type
        return labels, {
            "variant": name, "precision": effort.precision, "device": device, **engine
        }  # fmt: skip

    for sentence, name, effort in _steps(spec, variant, first):
        if effort == _single(first) and not asks_less:
            continue
        if sentence:
            report.note(f"out of memory: {sentence}")
        try:
            return attempt(name, effort)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        _free_memory()  # after the error is gone, which holds on to what the attempt had made
    raise JobRefused(
        f"out of memory, even in the smallest way to run {spec.name}: give it more"
        " (resources.memory_gb), or another device"
    )


def _steps(
    spec: ModelSpec, variant: str, first: MemoryMode
) -> Iterator[tuple[str, str, MemoryMode]]:
    """What is told, variant and effort of the first try and what may follow, from little loss to much."""
    variants = settings_of(spec).variants
    single = _single(first)
    seen: list[str] = []
    while variant and variant not in seen:
        yield f"variant {variant}" if seen else "", variant, first
        yield "one window at a time", variant, single
        if first.device != "cpu":
            yield "sums in main memory", variant, replace(single, slab_on_cpu=True)
        seen.append(variant)
        variant = variants[variant].next
    if first.device != "cpu":
        yield "on the CPU", seen[0], MemoryMode(device="cpu", single_windows=True)


def _single(effort: MemoryMode) -> MemoryMode:
    """The same, one window after the other."""
    return replace(effort, single_windows=True, recorded=False)


def _loaded(spec: ModelSpec, variant: str, weights_dir: Path, device: str, kept: Kept) -> Loaded:
    bundle = bundle_of(spec, variant, weights_dir, kept.hashes)
    entry = chosen_optimized(spec, variant, weights_dir)

    def load_it() -> Loaded:
        own = load(bundle, device, regions=spec.has_regions)
        return with_optimized(own, entry, spec, bundle, device, kept.hashes) if entry else own

    return kept.network((spec.digest, variant, device, repr(entry)), load_it, _free_memory)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _narrowed(spec: ModelSpec, labels: LabelArray, wanted: Sequence[int]) -> LabelArray:
    """Only the structures that the job's ``labels`` name; all by default."""
    if not wanted:
        return labels
    narrowed = np.zeros_like(labels)
    for value in wanted:
        where = mask_of(labels, value, overlapping=spec.has_regions)
        narrowed[where] |= labels.dtype.type(1 << (value - 1) if spec.has_regions else value)
    return narrowed
