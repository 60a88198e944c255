"""Using an optimized network: only one that was compared, and only where nothing changed since.

``weights_dir/NAME/optimized.json`` says for each variant which file it is, what it was made of and
with, and how well its labels agreed with the original's. Whatever differs from that puts the
original in its place, and is told.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from node.domain.errors import JobFailed
from node.infer.assets import FileHashes, write_json
from node.infer.bundle.config import bundle_of
from node.infer.bundle.fast import Loaded
from node.infer.registry import ModelSpec

LOCK = "optimized.json"
FOLDER = "optimized"
WISHES = ("auto", "off", "candidate")  # candidate: for the comparison itself
LIBRARIES = ("torch", "torch_tensorrt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """One optimized network, and what it holds for.

    Args:
        file: Relative to the model's folder in weights_dir.
        weights_sha256: Of the weights that it was made of.
        model_digest: Of the model when it was compared.
        made_with: Versions of libraries, and the name of the device.
        compared: What the comparison found; empty before it.
    """

    file: str
    sha256: str
    weights_sha256: str
    model_digest: str
    engine: str
    made_with: Mapping[str, str]
    accepted: bool = False
    compared: Mapping[str, Any] = field(default_factory=dict)


def with_optimized(
    loaded: Loaded,
    spec: ModelSpec,
    variant: str,
    weights_dir: Path,
    device: str,
    hashes: FileHashes,
) -> Loaded:
    """The bundle with its optimized network, or as it is, with a remark where one cannot be used."""
    entry = _chosen(spec, variant, weights_dir)
    if entry is None:
        return loaded
    stale = _stale(entry, spec, variant, weights_dir, device, hashes)
    if stale:
        remark = f"the optimized network is not used: {stale}; segnode models optimize {spec.name}"
        return replace(loaded, remark=remark)
    if "torch_tensorrt" in entry.made_with:
        importlib.import_module("torch_tensorrt")  # registers what its networks are made of
    network = torch.jit.load(str(weights_dir / spec.name / entry.file), map_location=device)  # type: ignore[no-untyped-call]
    return replace(loaded, network=network.eval(), engine=entry.engine)


def chosen_optimized(spec: ModelSpec, variant: str, weights_dir: Path) -> str:
    """Which optimized network a job would have, as text that differs where it is another one.

    Raises:
        JobFailed: The parameter ``optimized`` has no such value; permanent.
    """
    entry = _chosen(spec, variant, weights_dir)
    return "" if entry is None else repr(entry)


def made_with(device: str) -> dict[str, str]:
    """What an optimized network depends on, as it is here."""
    kind, _, number = device.partition(":")
    name = torch.cuda.get_device_name(int(number or 0)) if kind == "cuda" else kind
    return {"device": name, **{each: _version(each) for each in LIBRARIES if _version(each)}}


def read_lock(folder: Path) -> dict[str, Optimized]:
    """Variant -> its optimized network, as far as the file can be read."""
    try:
        body = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return {variant: Optimized(**entry) for variant, entry in body.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_lock(folder: Path, variant: str, entry: Optimized | None) -> None:
    """Write down an optimized network, or take it out."""
    entries = read_lock(folder)
    entries.pop(variant, None)
    if entry is not None:
        entries[variant] = entry
    write_json(folder / LOCK, {name: asdict(each) for name, each in entries.items()})


def _chosen(spec: ModelSpec, variant: str, weights_dir: Path) -> Optimized | None:
    wish = _wish(spec)
    entry = None if wish == "off" else read_lock(weights_dir / spec.name).get(variant)
    return entry if entry is not None and (entry.accepted or wish == "candidate") else None


def _wish(spec: ModelSpec) -> str:
    given = spec.runner.parameters.get("optimized", "auto")
    wish = {True: "auto", False: "off"}[given] if isinstance(given, bool) else str(given)
    if wish not in WISHES:
        raise JobFailed(f"optimized: there is no {wish!r}; use auto or off", permanent=True)
    return wish


def _stale(
    entry: Optimized,
    spec: ModelSpec,
    variant: str,
    weights_dir: Path,
    device: str,
    hashes: FileHashes,
) -> str:
    """What changed since it was made and compared; nothing where it may be used."""
    here = made_with(device)
    for name in sorted({*here, *entry.made_with}):
        then, now = entry.made_with.get(name, "none"), here.get(name, "none")
        if then != now:
            return f"it was made with {name} {then}, here is {now}"
    if entry.model_digest != spec.digest:
        return "the model, or segnode, changed since it was compared"
    if hashes.of(bundle_of(spec, variant, weights_dir, hashes).weights) != entry.weights_sha256:
        return "it was made of other weights"
    path = weights_dir / spec.name / entry.file
    if not path.is_file() or hashes.of(path) != entry.sha256:
        return "its file is missing or changed"
    return ""


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
