"""The models of this node, as the command line and the API show them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.infer.assets import Asset, learned, locked_licences, missing_assets
from node.infer.registry import ModelSpec

Row = Mapping[str, Any]


class ModelCatalog:
    """The models of this node as JSON-ready rows.

    Args:
        weights_dir: Where pulled files lie.
        accepted: Licences without commercial use that the configuration accepts.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        *,
        weights_dir: Path,
        accepted: Collection[str] = (),
    ) -> None:
        self._models = models
        self._weights_dir = weights_dir
        self._accepted = accepted

    def list_models(self) -> Sequence[Row]:
        """One short row per model, by name."""
        return [self._short(self._models[name]) for name in sorted(self._models)]

    def get_model(self, name: str, /) -> Row | None:
        """One model with its inputs, its segments, its files and its card."""
        model = self._models.get(name)
        if model is None:
            return None
        missing = missing_assets(model, self._weights_dir)
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
            "variants": sorted(model.runner.settings.variant_names),
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
            "locked_licences": locked_licences(model, self._accepted),
            "files_needed": needed,
            "files_missing": len(missing_assets(model, self._weights_dir)),
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
    return {
        "path": asset.path,
        "url": asset.url,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "commercial_use": asset.commercial_use,
        "is_present": asset not in missing,
    }
