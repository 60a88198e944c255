"""What ``model.yaml`` says to the runner kind ``container``; the defaults are MHub's contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from node.domain.errors import JobFailed
from node.domain.quantity import Quantity
from node.infer.assets import Asset
from node.infer.container.engine import find_image
from node.infer.container.templates import layout_mistakes
from node.infer.runner_part import Mistake, RunnerPart

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile


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
