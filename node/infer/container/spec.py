"""What ``model.yaml`` says to the runner kind ``container``; the defaults are MHub's contract.

The files of a role go to a folder whose name comes from UIDs, roles and fixed words, so that no name,
ID or date of a patient can reach a log through a path.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from node.domain.errors import JobFailed
from node.domain.quantity import Quantity
from node.infer.assets import Asset
from node.infer.container.engine import find_image
from node.infer.runner_part import Mistake, RunnerPart

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile

_FIELDS = ("StudyInstanceUID", "SeriesInstanceUID", "role")


class ContainerPart(RunnerPart):
    """A container image; ``entry`` is its reference, as for ``docker run``.

    ``image_id`` pins the image by its own digest or that of its manifest. ``arguments`` stand behind
    the image on the command line. ``layout`` is where the files of a role go below the input folder,
    with ``{SeriesInstanceUID}``, ``{StudyInstanceUID}`` and ``{role}``. ``outputs`` are the patterns
    of result files below the output folder, each of exactly one; none: one file by its usual names.
    ``licence`` is that of the weights in the image.
    """

    REVISION: ClassVar[int] = 1
    WORKER: ClassVar[str] = "node.infer.container.runner:run"

    kind: Literal["container"]
    entry: str = Field(min_length=1)
    image_id: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    arguments: list[str] = ["--workflow", "default", "--print", "--non-interactive"]
    layout: dict[str, str] = {}
    outputs: list[str] = []
    input_folder: str = Field(default="/app/data/input_data", pattern=r"^(/[\w.-]+)+$")
    output_folder: str = Field(default="/app/data/output_data", pattern=r"^(/[\w.-]+)+$")
    shm_gb: float = Field(default=1.0, gt=0)
    licence: str = ""
    commercial_use: bool = True

    @property
    def image(self) -> Asset:
        """The image, with the licence of the weights in it."""
        return Asset(
            path="image",
            url=self.entry,
            sha256=self.image_id.removeprefix("sha256:"),
            licence=self.licence,
            commercial_use=self.commercial_use,
        )

    def mistakes(self, file: ModelFile, folder: Path) -> Iterator[Mistake]:
        """A layout that cannot be; what only readers of voxels can give."""
        del folder
        for role, sentence in layout_mistakes(self.layout, file.inputs):
            yield f"runner.layout.{role}", sentence
        given = "a container is given files as they are"
        for role, item in file.inputs.items():
            if Quantity.SUVBW in item.quantities:
                yield f"inputs.{role}.quantity", f"{given}: no SUV is computed for it"
            if item.padding is not None:
                yield f"inputs.{role}.padding", f"{given}: no padding is filled for it"

    def shortcomings(self) -> Iterator[str]:
        """An engine, and the image on this machine."""
        try:
            find_image(self.entry, self.image_id)
        except JobFailed as error:
            yield error.reason


def layout_mistakes(layout: Mapping[str, str], roles: Collection[str]) -> list[tuple[str, str]]:
    """What is wrong with layout templates, as (role, sentence)."""
    mistakes = [(role, "is no input of this model") for role in layout if role not in roles]
    for role, template in layout.items():
        try:
            fields = {
                name for _, name, _, _ in string.Formatter().parse(template) if name is not None
            }
        except ValueError:
            mistakes.append((role, f"{template!r} has a brace without its partner"))
            continue
        unknown = sorted(fields - set(_FIELDS))
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in _FIELDS)
            named = ", ".join(f"{{{name}}}" for name in unknown)
            mistakes.append((role, f"{named} is not one of {known}; a fixed word serves as well"))
        path = PurePosixPath(template)
        if path.is_absolute() or ".." in path.parts:
            mistakes.append((role, f"{template!r} leaves the input folder"))
    if not mistakes:
        mistakes += _shared_folders(layout, roles)
    return mistakes


def default_template(role: str, roles: Collection[str]) -> str:
    """A flat folder for the only input, a folder per role for several."""
    return "." if set(roles) == {role} else "{role}"


def _shared_folders(layout: Mapping[str, str], roles: Collection[str]) -> list[tuple[str, str]]:
    """Roles whose counted names would meet in one folder."""
    taken: dict[str, str] = {}
    mistakes = []
    for role in roles:
        template = layout.get(role, default_template(role, roles))
        place = str(PurePosixPath(template.replace("{role}", role)))
        if place in taken and "{SeriesInstanceUID}" not in place:
            mistakes.append((role, f"shares its folder with {taken[place]}"))
        taken[place] = role
    return mistakes
