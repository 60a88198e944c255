"""The models of this node: which there are, what they say of themselves, and what each lacks here.

A list of models is looked at often, so nothing is imported here that receives, judges, stores or runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.config import NodeConfig, load
from node.infer.assets import Asset, learned, locked_licences, missing_assets
from node.infer.registry import FoundModels, ModelSpec, default_models_folder, find_models

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsHere:
    """The models that a configuration gives, and the configuration."""

    config: NodeConfig
    found: FoundModels

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """Those that can be used, by name."""
        return self.found.usable


def models_here(config: Path | None, folders: Sequence[Path] | None = None) -> ModelsHere:
    """The models that come with segnode, those of the configuration, and those of these folders.

    Rules are not looked at: one that is wrong is no reason to hide the models.

    Raises:
        ConfigInvalid: The configuration cannot be used.
    """
    read = load(config, os.environ)
    found = find_models([default_models_folder(), *read.models_dirs, *(folders or ())])
    return ModelsHere(config=read, found=found)


def shortcomings(model: ModelSpec, weights_dir: Path, accepted: Collection[str]) -> Iterator[str]:
    """One sentence for each thing that stands between a model and its first job.

    Files are looked for, not into: every run holds them to their hashes.
    """
    missing = missing_assets(model, weights_dir)
    if missing:
        count = len(model.files) + len(model.weights)
        yield (
            f"{len(missing)} of {count} files are missing, {missing[0].path} among them:"
            f" segnode models pull {model.name}"
        )
    for licence in locked_licences(model, accepted):
        yield f"its weights forbid commercial use: read {licence} and name it in accept_licences"
    yield from model.runner.shortcomings()


@dataclass(frozen=True, slots=True)
class ModelCatalog:
    """The models of this node as JSON-ready rows.

    Args:
        weights_dir: Where pulled files lie.
        accepted: Licences without commercial use that the configuration accepts.
    """

    models: Mapping[str, ModelSpec]
    weights_dir: Path
    accepted: Collection[str] = ()

    def list_models(self) -> Sequence[Row]:
        """One short row per model, by name."""
        return [self._short(self.models[name]) for name in sorted(self.models)]

    def get_model(self, name: str, /) -> Row | None:
        """One model with its inputs, its segments, its files and its card."""
        model = self.models.get(name)
        if model is None:
            return None
        missing = missing_assets(model, self.weights_dir)
        segments = [
            {
                "label_value": segment.label_value,
                "name": segment.name,
                "category": segment.category.meaning,
                "type": segment.type.meaning,
                "modifier": segment.modifier.meaning if segment.modifier else "",
                "rgb": list(segment.rgb),
            }
            for segment in model.segments
        ]
        return {
            **self._short(model),
            "inputs": _inputs(model),
            "parameters": dict(model.runner.parameters),
            "variants": sorted(model.runner.variant_names),
            "memory_gb": model.resources.memory_gb,
            "deadline_s": model.resources.deadline_s,
            "files": [_file(asset, missing) for asset in model.files],
            "weights": [_file(asset, missing) for asset in model.weights],
            "segments": segments,
            "card": (model.folder / "README.md").read_text(encoding="utf-8"),
        }

    def _short(self, model: ModelSpec) -> dict[str, Any]:
        needed = len(model.files) + len(model.weights)
        return {
            "name": model.name,
            "version": model.version,
            "title": model.title,
            "roles": list(model.inputs),
            "accepts": {role: dict(given.accepts) for role, given in model.inputs.items()},
            "runner": model.runner.kind,
            "device": model.resources.device,
            "segments": len(model.segments),
            "research_use": model.research_use,
            "licences": sorted({asset.licence for asset in learned(model)} - {""}),
            "commercial_use": all(asset.commercial_use for asset in learned(model)),
            "locked_licences": locked_licences(model, self.accepted),
            "files_needed": needed,
            "files_missing": len(missing_assets(model, self.weights_dir)),
            "digest": model.digest,
        }


def _inputs(model: ModelSpec) -> dict[str, dict[str, Any]]:
    return {
        role: {
            "accepts": dict(given.accepts),
            "quantities": [quantity.value for quantity in given.quantities],
            "refuses": dict(given.refuses),
            "min_slices": given.min_slices,
            "min_rows": given.min_rows,
            "min_columns": given.min_columns,
            "min_extent_mm": given.min_extent_mm,
        }
        for role, given in model.inputs.items()
    }


def _file(asset: Asset, missing: Collection[Asset]) -> dict[str, Any]:
    keys = ("path", "url", "sha256", "licence", "commercial_use")
    return {key: getattr(asset, key) for key in keys} | {"is_present": asset not in missing}
