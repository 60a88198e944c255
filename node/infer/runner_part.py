"""What every runner kind says of itself: one class per kind, read from the key ``runner`` of a model.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict

from node.infer.assets import Asset

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile

Mistake: TypeAlias = tuple[str, str]
"""(place or key, sentence)"""


class Part(BaseModel):
    """A part of a model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class VariantByPart(Part):
    """One line of ``variant_by``: a condition in the rule language, and what follows where it is true.

    Either the ``variant`` that runs, or a sentence that ``ask``s a person for one.
    """

    when: dict[str, Any]
    variant: str = ""
    ask: str = ""


class RunnerPart(Part):
    """A runner kind; importing its class costs the node neither torch nor monai.

    A kind gives ``kind`` as a ``Literal`` of its name, adds what model.yaml may say to it alone, and
    overrides the methods where it has an answer.

    Attributes:
        REVISION: Raised when the runner may give other labels for the same input and model.
        WORKER: "module:function", imported in the worker alone; see ``node.infer.run_context``.
    """

    REVISION: ClassVar[int]
    WORKER: ClassVar[str]

    kind: str
    entry: str
    parameters: dict[str, Any] = {}

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The ways to run the model; the first is the default."""
        return ()

    @property
    def variant_choices(self) -> Sequence[VariantByPart]:
        """What chooses a variant by the header of the first input, where a job names none."""
        return ()

    @property
    def image(self) -> Asset | None:
        """A container image, with the licence of the weights in it; engines pull it."""
        return None

    @property
    def why_no_phantom(self) -> str:
        """Why a phantom would say nothing of the model; empty where it may be tried on one."""
        return ""

    def mistakes(self, file: ModelFile, folder: Path) -> Iterator[Mistake]:
        """What is wrong beyond its form, as (key of model.yaml, sentence).

        Args:
            file: The whole model.yaml.
            folder: Of the model.
        """
        del file, folder
        yield from ()

    def shortcomings(self) -> Iterator[str]:
        """What this machine lacks before a model of this kind can run, files of the model apart."""
        yield from ()

    def modules(self) -> Iterator[str]:
        """Modules of this package that help to make the labels; each declares a REVISION."""
        yield from ()
