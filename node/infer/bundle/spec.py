"""A MONAI bundle before anything of it is loaded.

What ``model.yaml`` says to the runner kind ``monai_bundle``, which variant and labels a job wants, the
files that a variant is run from, each held to its hash, and which of its optimized networks counts
(``weights_dir/NAME/optimized.json``). Nothing heavy is imported.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from node.domain.errors import JobRefused
from node.domain.segment import segments_named
from node.infer.assets import FileHashes, check_assets, write_json
from node.infer.runner_part import Mistake, Part, RunnerPart, VariantByPart

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile
    from node.infer.registry import ModelSpec

PREPARE: Mapping[str, str] = {
    "brain_tumour": "node.infer.brain.brats:prepare",
    "brain_template": "node.infer.brain.template:prepare",
}
"""Name in model.yaml -> function that makes the image of several series, or in a common space."""

LOCK = "optimized.json"
WISHES = ("auto", "off", "candidate")  # candidate: for the comparison itself
_LIBRARIES = ("torch", "monai")
_ASKED_BY_CLASS = "VistaPostTransformd"


class BundleVariantPart(Part):
    """One way to run a bundle: what it changes in its configuration, and its weights.

    ``weights`` is the path of one of the model's weights, the one that the bundle loads then.
    ``next`` is the variant that takes over where memory does not suffice. ``prepare`` and
    ``prepare_files`` stand in place of the runner's.
    """

    overrides: dict[str, Any] = {}
    weights: str
    next: str = ""
    prepare: str = ""
    prepare_files: list[str] = []


class BundlePart(RunnerPart):
    """A MONAI bundle; ``entry`` is its inference configuration.

    ``overrides`` are config ids as on MONAI's command line (``inferer#overlap``). ``channels`` are
    the roles in the order of the network's input channels. ``prepare`` names a step of ``PREPARE``.
    With the output ``regions`` label value n is output channel ``region_channels[n-1]``, above the
    threshold of the bundle. ``variant_by`` chooses the variant by what the header of the first input
    says, where the job names none: the first line that is true counts. ``trt_export`` are the arguments of MONAI's command of that name; without them nothing is
    optimized.
    """

    REVISION: ClassVar[int] = 2
    WORKER: ClassVar[str] = "node.infer.bundle.runner:run"

    kind: Literal["monai_bundle"]
    entry: str = "configs/inference.json"
    overrides: dict[str, Any] = {}
    variants: dict[str, BundleVariantPart] = Field(min_length=1)
    variant_by: list[VariantByPart] = []
    channels: list[str] = []
    region_channels: list[int] = []
    prepare: str = ""
    prepare_files: list[str] = []
    trt_export: dict[str, Any] | None = None

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The ways to run the bundle."""
        return tuple(self.variants)

    @property
    def variant_choices(self) -> Sequence[VariantByPart]:
        """The lines of ``variant_by``."""
        return self.variant_by

    @property
    def why_no_phantom(self) -> str:
        """Steps that prepare an image look for a head."""
        steps = sorted({self.prepare, *(each.prepare for each in self.variants.values())} - {""})
        return f"its step {steps[0]} needs a real head" if steps else ""

    def mistakes(self, file: ModelFile, folder: Path) -> Iterator[Mistake]:
        """Names that stand for nothing: of files, weights, variants, roles and steps."""
        del folder
        weights = {each.path for each in file.weights}
        if self.entry not in {each.path for each in file.files}:
            yield "runner.entry", f"{self.entry} is not among the files of the model"
        for name, variant in self.variants.items():
            key = f"runner.variants.{name}"
            if variant.weights not in weights:
                yield f"{key}.weights", f"{variant.weights} is not among the weights of the model"
            if variant.next and variant.next not in self.variants:
                yield f"{key}.next", f"there is no variant {variant.next!r}"
            yield from _unknown_step(f"{key}.prepare", variant.prepare)
        yield from _unknown_step("runner.prepare", self.prepare)
        chosen: dict[str, object] = {}
        for index, line in enumerate(self.variant_by):
            if bool(line.variant) == bool(line.ask):
                yield f"runner.variant_by.{index}", "needs either variant or ask"
            elif line.variant:
                chosen[f"variant_by.{index}.variant"] = line.variant
        if "variant" in self.parameters:
            chosen["parameters.variant"] = self.parameters["variant"]
        for key, named in chosen.items():
            if named not in self.variants:
                yield f"runner.{key}", f"there is no variant {named!r}"
        for role in self.channels:
            if role not in file.inputs:
                yield "runner.channels", f"{role!r} is no input of this model"

    def shortcomings(self) -> Iterator[str]:
        """Its libraries; looked for without importing them."""
        absent = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
        if absent:
            yield f"{' and '.join(absent)} are not installed: pip install 'segnode[monai]'"

    def modules(self) -> Iterator[str]:
        """The steps that prepare its image."""
        named = {self.prepare, *(variant.prepare for variant in self.variants.values())} - {""}
        for step in sorted(named):
            yield PREPARE[step].partition(":")[0]


def settings_of(spec: ModelSpec) -> BundlePart:
    """What model.yaml says to this runner kind."""
    settings = spec.runner
    if not isinstance(settings, BundlePart):
        raise JobRefused(f"{spec.name} is no bundle")
    return settings


def variant_of(spec: ModelSpec) -> str:
    """The variant of the job's parameters, else the first.

    Raises:
        JobFailed: There is no such variant, or the header was to choose one and nobody asked it;
            permanent.
    """
    settings = settings_of(spec)
    wanted = spec.runner.parameters.get("variant")
    if wanted is None and not settings.variant_by:
        return next(iter(settings.variants))
    if wanted not in settings.variants:
        what = "names no variant" if wanted is None else f"has no variant {wanted!r}"
        there_are = ", ".join(settings.variants)
        raise JobRefused(f"{spec.name} {what}; there are: {there_are}")
    return str(wanted)


def labels_wanted(spec: ModelSpec) -> list[int]:
    """The label values that the job's ``labels`` name; none: all.

    Raises:
        JobRefused: A name is unknown.
    """
    wanted = spec.runner.parameters.get("labels")
    if not wanted:
        return []
    if not isinstance(wanted, str | list | tuple):
        raise JobRefused("labels: give a list of names")
    names = wanted.split(",") if isinstance(wanted, str) else [str(name) for name in wanted]
    try:
        kept = segments_named(spec.segments, [name.strip() for name in names])
    except ValueError as error:
        raise JobRefused(f"labels: {error}") from error
    return [segment.label_value for segment in kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A checked bundle with one way to run it.

    Args:
        root: Its folder: configs/, scripts/, models/.
        config: The inference configuration in it.
        overrides: Config id -> value, as on MONAI's command line.
        weights: What the bundle loads with these overrides.
    """

    root: Path
    config: Path
    overrides: Mapping[str, Any]
    weights: Path


def bundle_of(
    spec: ModelSpec, variant: str, weights_dir: Path, hashes: FileHashes | None = None
) -> Bundle:
    """The bundle of a model, every file held to its hash.

    Args:
        hashes: Of files that were read before.

    Raises:
        JobRefused: A file is missing or is not the one that was declared.
    """
    settings = settings_of(spec)
    chosen = settings.variants[variant]
    paths = [each.path for each in spec.files]
    checked = check_assets(spec, weights_dir, [*paths, chosen.weights], hashes=hashes)
    return Bundle(
        root=weights_dir / spec.name,
        config=checked[settings.entry],
        overrides={**settings.overrides, **chosen.overrides},
        weights=checked[chosen.weights],
    )


def is_asked_by_class(bundle: Bundle) -> bool:
    """Whether its network answers only for the classes that it is asked for, by label value."""
    return _ASKED_BY_CLASS in bundle.config.read_text(encoding="utf-8")


def asking_for(bundle: Bundle, labels: Sequence[int]) -> Bundle:
    """The bundle with its own data set asking for some classes, as its publisher would."""
    case = {"label_prompt": list(labels)}
    return replace(bundle, overrides={**bundle.overrides, "dataset#data": [case]})


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


def chosen_optimized(spec: ModelSpec, variant: str, weights_dir: Path) -> Optimized | None:
    """The optimized network that a job would have.

    Raises:
        JobRefused: The parameter ``optimized`` has no such value.
    """
    given = spec.runner.parameters.get("optimized", "auto")
    wish = {True: "auto", False: "off"}[given] if isinstance(given, bool) else str(given)
    if wish not in WISHES:
        raise JobRefused(f"optimized: there is no {wish!r}; use auto or off")
    entry = None if wish == "off" else read_lock(weights_dir / spec.name).get(variant)
    return entry if entry is not None and (entry.accepted or wish == "candidate") else None


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


def _unknown_step(key: str, step: str) -> Iterator[Mistake]:
    if step and step not in PREPARE:
        yield key, f"there is no step {step!r}; there are: {', '.join(PREPARE)}"
