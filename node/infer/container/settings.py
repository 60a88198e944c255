"""What a ``model.yaml`` says of a container, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node.infer.model_file import ContainerRunnerPart
from node.infer.registry import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """An image and the contract that it keeps.

    Args:
        image: Reference, as for ``docker run``.
        image_id: ``sha256:...`` of the image or of its manifest; empty: whatever the reference is.
        arguments: Behind the image on the command line.
        layout: Role -> folder of its files below the input folder, with ``{SeriesInstanceUID}``,
            ``{StudyInstanceUID}`` and ``{role}``.
        outputs: Patterns below the output folder, each of exactly one result file; none: one file
            by its usual names.
        input_folder: Where the image reads, inside the container.
        output_folder: Where it writes, inside the container.
        shm_gb: Size of its shared memory.
    """

    image: str
    image_id: str
    arguments: tuple[str, ...]
    layout: Mapping[str, str]
    outputs: tuple[str, ...]
    input_folder: str
    output_folder: str
    shm_gb: float


def settings_of(spec: ModelSpec) -> ContainerSettings:
    """What the model's own file says, with the parameters of the job behind the arguments.

    A parameter becomes ``key=value``, which is how MHub's images take changes to their workflow:
    ``--config:modules.NAME.KEY=VALUE``.
    """
    part = spec.runner.settings
    if not isinstance(part, ContainerRunnerPart):
        raise TypeError(f"{spec.name} is no container model")
    changes = (f"{key}={value}" for key, value in spec.runner.parameters.items())
    return ContainerSettings(
        image=part.entry,
        image_id=part.image_id,
        arguments=(*part.arguments, *changes),
        layout=part.layout,
        outputs=tuple(part.outputs),
        input_folder=part.input_folder,
        output_folder=part.output_folder,
        shm_gb=part.shm_gb,
    )
