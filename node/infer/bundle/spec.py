"""What ``model.yaml`` says to the runner kind ``monai_bundle``."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from node.infer.runner_part import Mistake, Part, RunnerPart, VariantByPart

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile

PREPARE: Mapping[str, str] = {
    "brain_tumour": "node.infer.brain.brats:prepare",
    "brain_template": "node.infer.brain.template:prepare",
}
"""Name in model.yaml -> function that makes the image of several series, or in a common space."""

_LIBRARIES = ("torch", "monai")


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

    REVISION: ClassVar[int] = 1
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


def _unknown_step(key: str, step: str) -> Iterator[Mistake]:
    if step and step not in PREPARE:
        yield key, f"there is no step {step!r}; there are: {', '.join(PREPARE)}"
