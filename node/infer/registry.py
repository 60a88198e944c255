"""The models that there are: folders of data, loaded whole, every mistake with its path.

::

    <folder>/<name>/model.yaml    inputs, runner, weights, resources, outputs
                    labels.csv    label value -> name, codes, colour (see node.infer.labels_table)
                    README.md     the model card, with its four sections

A folder given to ``load_models`` is a model itself or holds models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from node.domain.errors import ConfigInvalid
from node.domain.quantity import Quantity
from node.domain.segment import Segment
from node.infer.assets import Asset
from node.infer.container.templates import layout_mistakes
from node.infer.labels_table import read_labels_table
from node.infer.model_file import (
    BundleRunnerPart,
    ContainerRunnerPart,
    ModelFile,
    PythonRunnerPart,
    RunnerPart,
    read_model_file,
)
from node.infer.plausible import Plausible
from node.infer.plausible_file import read_plausible

RUNNERS: Mapping[str, str] = {
    "python": "node.infer.python:run",
    "monai_bundle": "node.infer.bundle.runner:run",
    "container": "node.infer.container.runner:run",
}

CARD_SECTIONS = ("Intended use", "How it works", "Where it fails", "Licence")

_REGION_LIMIT = 16  # as many as a label array has bits
_PREPARING = "node.infer.brain:"  # the steps that a bundle's ``prepare`` may name
_PYTHON_ENTRY = re.compile(r"node\.infer\.[a-z0-9_.]+:[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One series that a model takes.

    Args:
        accepts: Conditions in the rule language, as written; compiled by whoever routes.
        quantities: What its numbers may measure; empty: anything.
        padding: What padding becomes; None: see ``node.infer.padding``.
        labels_on_padding: Whether labels may lie on padding.
        refuses: The same, of series that the model must not be given.
        min_extent_mm: Of the body along the stack.
    """

    accepts: Mapping[str, object]
    refuses: Mapping[str, object] = field(default_factory=dict)
    min_slices: int
    min_rows: int
    min_columns: int
    quantities: tuple[Quantity, ...] = ()
    padding: float | None = None
    labels_on_padding: bool = False
    min_extent_mm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSpec:
    """Who runs the model: a kind of ``RUNNERS``, what it calls, and with what.

    Args:
        settings: What model.yaml says to this kind alone.
    """

    kind: str
    entry: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    settings: RunnerPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one run may take."""

    deadline_s: float
    memory_gb: float
    device: str


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model folder.

    Args:
        folder: Where it lies; relative paths in it start there.
        inputs: Role -> series; the labels lie on the grid of the first.
        files: Configuration and code of a bundle, outside the folder.
        weights: Learned parameters, outside the folder.
        plausible: What a result may be.
        digest: Changes when the model may give other results: model.yaml, labels.csv, files, weights,
            and the code of this package that runs it.
    """

    folder: Path
    name: str
    version: str
    title: str
    series_description: str
    research_use: bool
    inputs: Mapping[str, InputSpec]
    runner: RunnerSpec
    files: tuple[Asset, ...]
    weights: tuple[Asset, ...]
    resources: Resources
    outputs: tuple[str, ...]
    segments: tuple[Segment, ...]
    plausible: Plausible = field(default_factory=Plausible)
    digest: str

    @property
    def grid_role(self) -> str:
        """The input whose grid the labels lie on."""
        return next(iter(self.inputs))

    @property
    def image_id(self) -> str:
        """What the image of a container must be; empty: whatever its name stands for."""
        part = self.runner.settings
        return part.image_id if isinstance(part, ContainerRunnerPart) else ""

    @property
    def image(self) -> Asset | None:
        """The image of a container, with the licence of the weights in it; engines pull it."""
        part = self.runner.settings
        if not isinstance(part, ContainerRunnerPart):
            return None
        return Asset(
            path="image",
            url=part.entry,
            sha256=self.image_id.removeprefix("sha256:"),
            licence=part.licence,
            commercial_use=part.commercial_use,
        )

    @property
    def weights_digest(self) -> str:
        """The hash of the weights, or one over those of several; empty for a model without any."""
        if len(self.weights) == 1:
            return self.weights[0].identity
        digest = hashlib.sha256("\n".join(each.identity for each in self.weights).encode())
        return digest.hexdigest() if self.weights else ""

    @property
    def has_regions(self) -> bool:
        """Whether the output may overlap: bit n-1 of a voxel is label value n."""
        return self.outputs == ("regions",)

    @cached_property
    def segment_of(self) -> Mapping[int, Segment]:
        """Label value -> segment."""
        return MappingProxyType({segment.label_value: segment for segment in self.segments})


def default_models_folder() -> Path:
    """The models that come with segnode: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def load_models(folders: Sequence[Path]) -> Mapping[str, ModelSpec]:
    """Every model of these folders by name.

    Raises:
        ConfigInvalid: All mistakes of all folders, each as ``models/ct_tissue/model.yaml: key``.
    """
    models: dict[str, ModelSpec] = {}
    mistakes: list[tuple[str, str]] = []
    for folder in folders:
        found = _model_folders(folder)
        if not found:
            mistakes.append((str(folder), "is neither a model folder nor does it hold one"))
        for model_folder in found:
            try:
                model = load_model(model_folder)
            except ConfigInvalid as error:
                mistakes.extend(error.mistakes)
                continue
            if model.name in models:
                other = models[model.name].folder
                mistakes.append((_place(model_folder), f"is also the name of the model in {other}"))
            models[model.name] = model
    if mistakes:
        raise ConfigInvalid(mistakes)
    return MappingProxyType(models)


def load_model(folder: Path) -> ModelSpec:
    """One model folder.

    Raises:
        ConfigInvalid: All its mistakes.
    """
    place = _place(folder)
    file, mistakes = read_model_file(folder / "model.yaml", f"{place}/model.yaml")
    segments, label_mistakes = read_labels_table(folder / "labels.csv", f"{place}/labels.csv")
    mistakes = [*mistakes, *label_mistakes, *_card_mistakes(folder, place)]
    if file is not None:
        mistakes += [*_runner_mistakes(file, place), *_asset_mistakes(file, place)]
        if file.outputs == ["regions"] and any(s.label_value > _REGION_LIMIT for s in segments):
            mistakes.append(
                (f"{place}/labels.csv", f"regions have label values 1 to {_REGION_LIMIT}")
            )
        if file.name != folder.name:
            mistakes.append((f"{place}/model.yaml: name", f"is {file.name!r}, the folder is not"))
        plausible, implausible = read_plausible(file.plausible, segments, f"{place}/model.yaml")
        mistakes += implausible
    if mistakes or file is None:
        raise ConfigInvalid(mistakes)
    return ModelSpec(
        folder=folder,
        name=file.name,
        version=file.version,
        title=file.title,
        series_description=file.series_description or f"{file.title} ({file.name} {file.version})",
        research_use=file.research_use,
        inputs={
            role: InputSpec(
                accepts=item.accepts,
                refuses=item.refuses,
                min_slices=item.min_slices,
                min_rows=item.min_rows,
                min_columns=item.min_columns,
                quantities=item.quantities,
                padding=item.padding,
                labels_on_padding=item.labels_on_padding,
                min_extent_mm=item.min_extent_mm,
            )
            for role, item in file.inputs.items()
        },
        runner=RunnerSpec(
            kind=file.runner.kind,
            entry=file.runner.entry,
            parameters=file.runner.parameters,
            settings=file.runner,
        ),
        files=tuple(Asset(**each.model_dump()) for each in file.files),
        weights=tuple(Asset(**each.model_dump()) for each in file.weights),
        resources=Resources(**file.resources.model_dump()),
        outputs=tuple(file.outputs),
        segments=tuple(segments),
        plausible=plausible,
        digest=_digest(folder, file),
    )


def _model_folders(folder: Path) -> list[Path]:
    if (folder / "model.yaml").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/model.yaml"))


def _place(folder: Path) -> str:
    return f"{folder.resolve().parent.name}/{folder.name}"


def _card_mistakes(folder: Path, place: str) -> list[tuple[str, str]]:
    card = folder / "README.md"
    if not card.is_file():
        return [(f"{place}/README.md", "is missing: every model has a card")]
    lines = {line.strip() for line in card.read_text(encoding="utf-8").splitlines()}
    return [
        (f"{place}/README.md", f"has no section '## {section}'")
        for section in CARD_SECTIONS
        if f"## {section}" not in lines
    ]


def _runner_mistakes(file: ModelFile, place: str) -> Iterable[tuple[str, str]]:
    where = f"{place}/model.yaml: runner"
    match file.runner:
        case PythonRunnerPart(entry=entry):
            if not _PYTHON_ENTRY.fullmatch(entry):
                return [(f"{where}.entry", f"{entry!r} is not node.infer.<module>:<function>")]
            if _source_of(entry) is None:
                return [(f"{where}.entry", f"there is no module {entry.partition(':')[0]}")]
        case BundleRunnerPart():
            return _bundle_mistakes(file, file.runner, f"{place}/model.yaml")
        case ContainerRunnerPart(layout=layout):
            return [
                *(
                    (f"{where}.layout.{role}", sentence)
                    for role, sentence in layout_mistakes(layout, file.inputs)
                ),
                *_container_quantity_mistakes(file, place),
            ]
    return []


def _container_quantity_mistakes(file: ModelFile, place: str) -> Iterator[tuple[str, str]]:
    """A container reads the files itself: nothing is computed or filled for it."""
    for role, item in file.inputs.items():
        if Quantity.SUVBW in item.quantities:
            at = f"{place}/model.yaml: inputs.{role}.quantity"
            yield at, "a container is given files as they are: no SUV is computed for it"
        if item.padding is not None:
            at = f"{place}/model.yaml: inputs.{role}.padding"
            yield at, "a container is given files as they are: no padding is filled for it"


def _asset_mistakes(file: ModelFile, place: str) -> Iterator[tuple[str, str]]:
    paths = [*(each.path for each in file.files), *(each.path for each in file.weights)]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield f"{place}/model.yaml: files", f"{path} stands twice"
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            yield f"{place}/model.yaml: files", f"{path} does not lie below the model's folder"


def _bundle_mistakes(
    file: ModelFile, runner: BundleRunnerPart, where: str
) -> Iterator[tuple[str, str]]:
    weights = {each.path for each in file.weights}
    if runner.entry not in {each.path for each in file.files}:
        yield f"{where}: runner.entry", f"{runner.entry} is not among the files of the model"
    for name, variant in runner.variants.items():
        if variant.weights not in weights:
            at = f"{where}: runner.variants.{name}.weights"
            yield at, f"{variant.weights} is not among the weights of the model"
        if variant.next and variant.next not in runner.variants:
            yield f"{where}: runner.variants.{name}.next", f"there is no variant {variant.next!r}"
    chosen = {f"variant_by.{shown}": variant for shown, variant in runner.variant_by.items()}
    if "variant" in runner.parameters:
        chosen["parameters.variant"] = runner.parameters["variant"]
    for key, named in chosen.items():
        if named not in runner.variants:
            yield f"{where}: runner.{key}", f"there is no variant {named!r}"
    for role in runner.channels:
        if role not in file.inputs:
            yield f"{where}: runner.channels", f"{role!r} is no input of this model"


def _source_of(entry: str) -> Path | None:
    """The source file of ``module:function``, found without importing the module."""
    try:
        found = importlib.util.find_spec(entry.partition(":")[0])
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found and found.origin else None


def _is_prepared(file: ModelFile) -> bool:
    runner = file.runner
    return isinstance(runner, BundleRunnerPart) and bool(
        runner.prepare or any(variant.prepare for variant in runner.variants.values())
    )


def _digest(folder: Path, file: ModelFile) -> str:
    """One digest over everything that decides what the model gives."""
    parts = [(folder / "model.yaml").read_bytes(), (folder / "labels.csv").read_bytes()]
    entries = [file.runner.entry if file.runner.kind == "python" else RUNNERS[file.runner.kind]]
    if _is_prepared(file):
        entries.append(_PREPARING)
    for source in filter(None, map(_source_of, entries)):
        # a function may be one module of infer itself; a package is taken whole
        alone = source.parent == Path(__file__).parent
        sources = [source] if alone else sorted(source.parent.glob("*.py"))
        parts.extend(path.read_bytes() for path in sources)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
