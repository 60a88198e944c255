"""The form of a ``model.yaml``, and every mistake in one with its path."""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError
from yaml.nodes import MappingNode

from node.domain.quantity import Quantity
from node.infer.kinds import KINDS
from node.infer.runner_part import Mistake, Part, RunnerPart


def _known_quantity(name: str) -> str:
    names = [each.value for each in Quantity if each is not Quantity.UNSPECIFIED]
    if name not in names:
        near = difflib.get_close_matches(name.upper(), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
        raise ValueError(f"no quantity {name!r}{hint}")
    return name


QuantityName = Annotated[str, AfterValidator(_known_quantity)]


class InputPart(Part):
    """One series that a model takes.

    ``accepts`` must be true of it, ``refuses`` must not; what is unknown is not refused.
    ``min_extent_mm`` is of the body, along the stack: slices x their distance. ``quantity`` is what
    its numbers must measure, one or a list; none: anything. ``padding`` is the number that voxels
    outside of the image become; none: air in HU, else the least number of the volume.
    ``labels_on_padding``: labels may lie there.
    """

    accepts: dict[str, Any] = {}
    refuses: dict[str, Any] = {}
    min_slices: int = Field(default=3, ge=1)
    min_rows: int = Field(default=20, ge=1)
    min_columns: int = Field(default=20, ge=1)
    min_extent_mm: float = Field(default=0.0, ge=0)
    quantity: QuantityName | list[QuantityName] = []
    padding: float | None = Field(default=None, allow_inf_nan=False)
    labels_on_padding: bool = False

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """As values, in the order written."""
        names = [self.quantity] if isinstance(self.quantity, str) else self.quantity
        return tuple(map(Quantity, names))


if TYPE_CHECKING:
    AnyRunner = RunnerPart
else:  # the part of its kind; mypy knows no union that is made of a table
    AnyRunner = Annotated[Union[tuple(KINDS.values())], Field(discriminator="kind")]  # noqa: UP007


class FilePart(Part):
    """A file of a bundle: configuration or code."""

    path: str = Field(min_length=1)
    url: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class WeightsPart(FilePart):
    """Learned parameters; without any hash the first pull records what it saw."""

    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    md5: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    licence: str = Field(min_length=1)
    commercial_use: bool


class ResourcesPart(Part):
    """What one run may take."""

    deadline_s: float = Field(default=600.0, gt=0)
    memory_gb: float = Field(default=4.0, gt=0)
    device: Literal["cpu", "cuda", "auto"] = "cpu"


class BoundsPart(Part):
    """What one label may be; ``min_ml`` counts where it lies wholly inside of the volume.

    ``min_cut_ml`` counts where the border cuts it. ``max_mm`` is its longest edge. ``max_cut`` is the
    share of its largest section that lies in a side of the volume.
    """

    min_ml: float | None = Field(default=None, gt=0)
    min_cut_ml: float | None = Field(default=None, gt=0)
    max_ml: float | None = Field(default=None, gt=0)
    max_mm: float | None = Field(default=None, gt=0)
    max_cut: float | None = Field(default=None, ge=0, le=1)
    border: Literal["never", "always"] | None = None


class TogetherPart(BoundsPart):
    """What several labels may be as one thing, such as all parts of a brain."""

    name: str = Field(min_length=1)
    of: Literal["all"] | Annotated[list[str], Field(min_length=2)]


class RatioPart(Part):
    """The volume of some labels over that of others; of labels that are not there it is 0.

    It counts where there are ``from_ml`` of the others, and no border cuts any of them; with
    ``even_cut`` also where one does.
    """

    name: str = ""
    of: list[str] = Field(min_length=1)
    to: list[str] = Field(min_length=1)
    min: float | None = Field(default=None, gt=0)
    max: float | None = Field(default=None, gt=0)
    from_ml: float = Field(default=1.0, gt=0)
    even_cut: bool = False


class SharePart(Part):
    """How much of the volume all labels together may fill, of 1."""

    min: float = Field(default=0.0, ge=0, le=1)
    max: float = Field(default=1.0, ge=0, le=1)


class PlausiblePart(Part):
    """What a result may be; outside of it nobody's anatomy is.

    ``sides`` are names without a side: the label of the left must not lie right of the right one.
    """

    labels: dict[str, BoundsPart] = {}
    together: list[TogetherPart] = []
    ratios: list[RatioPart] = []
    sides: list[str] = []
    share: SharePart = SharePart()


class ModelFile(Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    version: str = Field(min_length=1, max_length=64)
    title: str = Field(min_length=1)
    series_description: str = Field(default="", max_length=64)
    research_use: bool = True
    inputs: dict[str, InputPart] = Field(min_length=1)
    runner: AnyRunner
    files: list[FilePart] = []
    weights: list[WeightsPart] = []
    resources: ResourcesPart = ResourcesPart()
    outputs: list[Literal["labels", "regions"]] = Field(
        default=["labels"], min_length=1, max_length=1
    )
    plausible: PlausiblePart = PlausiblePart()


# libyaml's parser, where PyYAML was built with it, is ten times as fast
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Refuses a key that is written twice, which YAML loaders otherwise take the last of."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=node.start_mark
                )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


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
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["runner"] and len(parts) > 1:  # the kind stands in the path, not in the file
        holder = _part_at(KINDS[parts.pop(1)], parts[1:-1])
    else:
        holder = _part_at(ModelFile, parts[:-1])
    if error["type"].startswith("union_tag"):
        parts.append("kind")
    path = ".".join(parts)
    where = f"{place}: {path}" if path else place
    if error["type"] == "union_tag_invalid":
        kinds = ", ".join(KINDS)
        return where, f"no runner {error['ctx']['tag']!r} in this version; use {kinds}"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], holder.model_fields, n=1)
        return where, f"unknown key; did you mean {near[0]}?" if near else "unknown key"
    if error["type"] in ("missing", "union_tag_not_found"):
        return where, "is required"
    return where, str(error["msg"])


def _part_at(part: type[Part], path: list[str]) -> type[Part]:
    """The part that holds a key, by the keys that lead to it: names of fields, of entries, indices."""
    for name in path:
        field = part.model_fields.get(name)
        if field is None:
            continue
        inner = (field.annotation, *get_args(field.annotation))
        part = next((t for t in inner if isinstance(t, type) and issubclass(t, Part)), part)
    return part
