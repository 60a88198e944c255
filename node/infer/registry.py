"""The models that there are: folders of data, loaded whole, every mistake with its path.

::

    <folder>/<name>/model.yaml    inputs, runner, weights, resources, outputs
                    labels.csv    label value -> name, codes, colour (see node.infer.labels_table)
                    README.md     the model card, with its four sections

A folder given to ``find_models`` is a model itself or holds models. A model with mistakes is set aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from node.domain.errors import ConfigInvalid
from node.domain.segment import Segment
from node.infer.assets import Asset
from node.infer.labels_table import read_labels_table
from node.infer.model_file import InputPart, ModelFile, ResourcesPart, read_model_file
from node.infer.plausible import Plausible, read_plausible
from node.infer.revision import revision_of
from node.infer.runner_part import Mistake, RunnerPart

CARD_SECTIONS = ("Intended use", "How it works", "Where it fails", "Licence")

_REGION_LIMIT = 16  # as many as a label array has bits
_VOXELS = "node.infer.volume"  # what reads the voxels of every model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model folder.

    Args:
        folder: Where it lies; relative paths in it start there.
        inputs: Role -> series.
        grid_role: The first input: on its grid the labels lie.
        files: Configuration and code of a bundle, outside the folder.
        weights: Learned parameters, outside the folder.
        weights_digest: The hash of the weights, or one over those of several; empty where there are none.
        image: Of a container, with the licence of the weights in it.
        has_regions: Whether the output may overlap: bit n-1 of a voxel is label value n.
        segment_of: Label value -> segment.
        runner: What runs it, a kind of ``KINDS``.
        plausible: What a result may be.
        digest: Changes when the model may give other results: model.yaml, labels.csv, files, weights,
            and the revisions of the code that runs it.
    """

    folder: Path
    name: str
    version: str
    title: str
    series_description: str
    research_use: bool
    inputs: Mapping[str, InputPart]
    grid_role: str
    runner: RunnerPart
    files: tuple[Asset, ...]
    weights: tuple[Asset, ...]
    weights_digest: str
    image: Asset | None
    resources: ResourcesPart
    has_regions: bool
    segments: tuple[Segment, ...]
    segment_of: Mapping[int, Segment]
    plausible: Plausible
    digest: str


def default_models_folder() -> Path:
    """The models that come with segnode: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableModel:
    """A model folder with mistakes: it is told and set aside, and a rule that names it is refused."""

    name: str
    folder: Path
    mistakes: tuple[Mistake, ...]

    def __str__(self) -> str:
        return "; ".join(f"{where}: {what}" for where, what in self.mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModels:
    """What some folders hold, by name."""

    usable: Mapping[str, ModelSpec]
    unusable: Mapping[str, UnusableModel]

    def why_not(self, name: str) -> str:
        """Why no model of this name can be had; empty where it can."""
        if name in self.usable:
            return ""
        if name in self.unusable:
            return f"model {name} cannot be used: {self.unusable[name]}"
        return f"there is no model {name!r}; there are: {', '.join(sorted(self.usable))}"


def find_models(folders: Sequence[Path]) -> FoundModels:
    """Every model of these folders.

    Of two models with one name neither can be used: which of them is meant, nobody knows.

    Raises:
        ConfigInvalid: A folder is no model folder and holds none.
    """
    usable: dict[str, ModelSpec] = {}
    unusable: dict[str, UnusableModel] = {}
    empty = [folder for folder in folders if not _model_folders(folder)]
    if empty:
        what = "is neither a model folder nor does it hold one"
        raise ConfigInvalid([(str(folder), what) for folder in empty])
    for model_folder in (each for folder in folders for each in _model_folders(folder)):
        name = model_folder.name
        try:
            model = load_model(model_folder)
            other = usable.pop(name, None) or unusable.get(name)
            if other is not None:
                where = f"is also the name of the model in {other.folder}"
                raise ConfigInvalid([(_place(model_folder), where)])
            usable[name] = model
        except ConfigInvalid as invalid:
            mistakes = tuple(invalid.mistakes)
            unusable[name] = UnusableModel(name=name, folder=model_folder, mistakes=mistakes)
            usable.pop(name, None)
    return FoundModels(usable=MappingProxyType(usable), unusable=MappingProxyType(unusable))


def load_model(folder: Path) -> ModelSpec:
    """One model folder.

    Raises:
        ConfigInvalid: All its mistakes.
    """
    place = _place(folder)
    file, mistakes = read_model_file(folder / "model.yaml", f"{place}/model.yaml")
    segments, label_mistakes = read_labels_table(folder / "labels.csv", f"{place}/labels.csv")
    mistakes = [*mistakes, *label_mistakes, *_card_mistakes(folder, place)]
    plausible = Plausible()
    if file is not None:
        mistakes += _file_mistakes(file, folder, segments)
        plausible, implausible = read_plausible(file.plausible, segments, f"{place}/model.yaml")
        mistakes += implausible
    if mistakes or file is None:
        raise ConfigInvalid(mistakes)
    return _spec(folder, file, segments, plausible)


def _spec(
    folder: Path, file: ModelFile, segments: Sequence[Segment], plausible: Plausible
) -> ModelSpec:
    weights = tuple(Asset(**each.model_dump()) for each in file.weights)
    return ModelSpec(
        folder=folder,
        name=file.name,
        version=file.version,
        title=file.title,
        series_description=file.series_description or f"{file.title} ({file.name} {file.version})",
        research_use=file.research_use,
        inputs=file.inputs,
        grid_role=next(iter(file.inputs)),
        runner=file.runner,
        files=tuple(Asset(**each.model_dump()) for each in file.files),
        weights=weights,
        weights_digest=_weights_digest(weights),
        image=file.runner.image,
        resources=file.resources,
        has_regions=file.outputs == ["regions"],
        segments=tuple(segments),
        segment_of=MappingProxyType({segment.label_value: segment for segment in segments}),
        plausible=plausible,
        digest=_digest(folder, file),
    )


def _weights_digest(weights: Sequence[Asset]) -> str:
    if len(weights) == 1:
        return weights[0].identity
    digest = hashlib.sha256("\n".join(each.identity for each in weights).encode())
    return digest.hexdigest() if weights else ""


def _file_mistakes(file: ModelFile, folder: Path, segments: Sequence[Segment]) -> Iterator[Mistake]:
    """What is wrong with a model.yaml of the right form."""
    place = _place(folder)
    for key, sentence in file.runner.mistakes(file, folder):
        yield f"{place}/model.yaml: {key}", sentence
    paths = [each.path for each in (*file.files, *file.weights)]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield f"{place}/model.yaml: files", f"{path} stands twice"
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            yield f"{place}/model.yaml: files", f"{path} does not lie below the model's folder"
    if file.outputs == ["regions"] and any(s.label_value > _REGION_LIMIT for s in segments):
        yield f"{place}/labels.csv", f"regions have label values 1 to {_REGION_LIMIT}"
    if file.name != folder.name:
        yield f"{place}/model.yaml: name", f"is {file.name!r}, the folder is not"


def _model_folders(folder: Path) -> list[Path]:
    if (folder / "model.yaml").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/model.yaml"))


def _place(folder: Path) -> str:
    return f"{folder.resolve().parent.name}/{folder.name}"


def _card_mistakes(folder: Path, place: str) -> Iterator[Mistake]:
    card = folder / "README.md"
    if not card.is_file():
        yield f"{place}/README.md", "is missing: every model has a card"
        return
    lines = {line.strip() for line in card.read_text(encoding="utf-8").splitlines()}
    for section in CARD_SECTIONS:
        if f"## {section}" not in lines:
            yield f"{place}/README.md", f"has no section '## {section}'"


def _digest(folder: Path, file: ModelFile) -> str:
    """One digest over everything that decides what the model gives."""
    runner = file.runner
    modules = [_VOXELS, *runner.modules()]
    revisions = [f"{runner.kind} {type(runner).REVISION}"]
    revisions += [f"{module} {revision_of(module)}" for module in modules]
    files = [(folder / name).read_bytes() for name in ("model.yaml", "labels.csv")]
    parts = [*files, "\n".join(revisions).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
