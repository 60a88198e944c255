"""The form of a ``model.yaml``, and every mistake in one with its path."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml.nodes import MappingNode

Mistake = tuple[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InputPart(_Part):
    """One input series."""

    accepts: dict[str, Any] = {}
    min_slices: int = Field(default=3, ge=1)
    min_rows: int = Field(default=20, ge=1)
    min_columns: int = Field(default=20, ge=1)


class RunnerPart(_Part):
    """Who runs the model."""

    kind: str
    entry: str
    parameters: dict[str, Any] = {}


class WeightsPart(_Part):
    """Learned parameters."""

    url: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)
    commercial_use: bool


class ResourcesPart(_Part):
    """What one run may take."""

    deadline_s: float = Field(default=600.0, gt=0)
    memory_gb: float = Field(default=4.0, gt=0)
    device: Literal["cpu", "cuda", "auto"] = "cpu"


class ModelFile(_Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    version: str = Field(min_length=1, max_length=64)
    title: str = Field(min_length=1)
    series_description: str = Field(default="", max_length=64)
    research_use: bool = True
    inputs: dict[str, InputPart] = Field(min_length=1)
    runner: RunnerPart
    weights: WeightsPart | None = None
    resources: ResourcesPart = ResourcesPart()
    outputs: list[Literal["labels"]] = Field(default=["labels"], min_length=1)


_FIELDS_OF: dict[str, type[_Part]] = {
    "inputs": InputPart,
    "runner": RunnerPart,
    "weights": WeightsPart,
    "resources": ResourcesPart,
}


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, which YAML loaders otherwise take the last of."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def read_model_file(path: Path, place: str) -> tuple[ModelFile | None, list[Mistake]]:
    """The content of a ``model.yaml``, or its mistakes as (``place: key``, sentence)."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError:
        return None, [(place, "is missing or cannot be read")]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return None, [(place, " ".join(str(error).split()))]
    try:
        return ModelFile.model_validate(content), []
    except ValidationError as error:
        return None, [_mistake(place, dict(item)) for item in error.errors()]


def _mistake(place: str, error: dict[str, Any]) -> Mistake:
    path = ".".join(str(part) for part in error["loc"])
    where = f"{place}: {path}" if path else place
    if error["type"] == "extra_forbidden":
        part = (
            _FIELDS_OF.get(str(error["loc"][0]), ModelFile) if len(error["loc"]) > 1 else ModelFile
        )
        near = difflib.get_close_matches(str(error["loc"][-1]), part.model_fields, n=1)
        return where, f"unknown key; did you mean {near[0]}?" if near else "unknown key"
    if error["type"] == "missing":
        return where, "is required"
    return where, str(error["msg"])
