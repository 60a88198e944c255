"""What there is to see of models, for people and programs that ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.infer.registry import ModelSpec

Row = Mapping[str, Any]


class ModelCatalog:
    """The models of this node as JSON-ready rows."""

    def __init__(self, models: Mapping[str, ModelSpec]) -> None:
        self._models = models

    def list_models(self) -> Sequence[Row]:
        """One short row per model."""
        return [_short(model) for model in self._models.values()]

    def get_model(self, name: str, /) -> Row | None:
        """One model with its segments and its card."""
        model = self._models.get(name)
        if model is None:
            return None
        card = (model.folder / "README.md").read_text(encoding="utf-8")
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
        inputs = {
            role: {
                "accepts": dict(given.accepts),
                "min_slices": given.min_slices,
                "min_rows": given.min_rows,
                "min_columns": given.min_columns,
            }
            for role, given in model.inputs.items()
        }
        return {**_short(model), "inputs": inputs, "segments": segments, "card": card}


def _short(model: ModelSpec) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "title": model.title,
        "roles": list(model.inputs),
        "runner": model.runner.kind,
        "segments": len(model.segments),
        "research_use": model.research_use,
        "digest": model.digest,
    }
