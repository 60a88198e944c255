"""One run of a container: from the files of its inputs to labels on the grid of the first."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from node.domain.errors import JobFailed, JobRefused
from node.infer.container.container_process import (
    begins_for_good,
    held_container,
    owner_labels,
    remove_leftovers,
)
from node.infer.container.engine import ContainerOrder, Engine, extra_flags, find_image
from node.infer.container.outputs import OutputFile, choose, read_outputs
from node.infer.container.spec import ContainerPart, default_template
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput, padding_of

_NO_USE = (0, 126, 127)  # it ended well; its program cannot be run, or is not there
_READ_BY_ALL = 0o444
_KILLED = 128 + 9  # some engines do not tell whose kill it was


def run(
    spec: ModelSpec, inputs: Mapping[str, SeriesInput], context: RunContext, report: Report
) -> ModelOutput:
    """Run the model's image on its inputs.

    Raises:
        JobFailed: No engine, no image, no output, or an output that is not a result of these inputs.
    """
    settings = spec.runner
    if not isinstance(settings, ContainerPart):
        raise TypeError(f"{spec.name} is no container model")
    with report.stage("prepare"):
        engine, image_id = find_image(settings.entry, settings.image_id)
        if removed := remove_leftovers(engine):
            report.note(f"containers that a dead runner had left, now removed: {removed}")
        lay_out(inputs, settings.layout, context.scratch / "in")
    files = _run(engine, _order(spec, settings, image_id, context), context, report)
    with report.stage("read outputs"):
        labels = read_outputs(
            choose(files, settings.outputs),
            inputs,
            spec.segments,
            overlapping=spec.has_regions,
        )
        padding = padding_of(inputs[spec.grid_role])
    ran = {"image": settings.entry, "image_id": image_id}
    return ModelOutput(labels=labels, ran=ran, padding=padding)


def _run(
    engine: Engine, order: ContainerOrder, context: RunContext, report: Report
) -> list[OutputFile]:
    """What the container wrote; it is gone when this returns.

    Raises:
        JobFailed: It wrote nothing; permanent where it ended well, could not be run, or ended before
            it can have worked. Any other failure may be of the moment, memory for instance.
    """
    with held_container(engine, order) as container:
        with report.stage("infer"):
            container.run(context.log, context.scratch)
        files = container.output(context.scratch / "out")
        code = container.exit_code
        if not files:
            if container.ran_out_of_memory or code == _KILLED:
                raise JobFailed(
                    "the container was killed, most likely for passing its memory of"
                    f" {context.memory_gb:g} GB: resources.memory_gb of model.yaml sets it",
                    permanent=container.ran_out_of_memory,
                )
            raise JobFailed(
                f"the container ended with exit code {code} and wrote no file; its log says why:"
                f" {context.log}",
                permanent=code in _NO_USE
                or container.ended_at_once
                or begins_for_good(context.log),
            )
        if code != 0:
            report.note(
                f"the container ended with exit code {code}; its output was judged by itself"
            )
        return files


def _order(
    spec: ModelSpec, settings: ContainerPart, image_id: str, context: RunContext
) -> ContainerOrder:
    # a parameter becomes ``key=value``, which is how MHub's images take changes to their workflow:
    # ``--config:modules.NAME.KEY=VALUE``
    changes = (f"{key}={value}" for key, value in spec.runner.parameters.items())
    return ContainerOrder(
        name=f"segnode-{spec.name}-{uuid.uuid4().hex[:12]}",
        labels={**owner_labels(), "segnode.model": spec.name},
        image_id=image_id,
        arguments=(*settings.arguments, *changes),
        input_folder=(Path(context.scratch / "in").absolute(), settings.input_folder),
        output_folder=settings.output_folder,
        device=context.device,
        memory_gb=context.memory_gb,
        shm_gb=settings.shm_gb,
        flags=extra_flags(),
    )


def lay_out(inputs: Mapping[str, SeriesInput], layout: Mapping[str, str], folder: Path) -> None:
    """Fill a new folder with the files of all inputs, readable by whoever the image runs as.

    Raises:
        JobFailed: A file is gone, or an input does not say which series it is.
    """
    folder.mkdir(mode=0o755)
    for role, given in inputs.items():
        template = layout.get(role, default_template(role, inputs.keys()))
        place = folder / template.format(**_names(role, given))
        place.mkdir(parents=True, exist_ok=True)
        for number, (sop_instance_uid, source) in enumerate(given.files.items(), 1):
            try:
                _provide(source, place / f"{number:06d}.dcm")
            except FileNotFoundError as error:
                raise JobFailed(f"the file of instance {sop_instance_uid} is gone") from error


def _names(role: str, given: SeriesInput) -> dict[str, str]:
    names = {"role": role}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        value = given.header.text(keyword)
        if not value or set(value) - set("0123456789."):
            raise JobRefused(f"input {role} has no {keyword}")
        names[keyword] = value
    return names


def _provide(source: Path, target: Path) -> None:
    """A second name of the file where that is enough, else a copy: its mode is not ours to change."""
    if source.stat().st_mode & _READ_BY_ALL == _READ_BY_ALL:
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system, or one without hard links
        else:
            return
    shutil.copyfile(source, target)
    target.chmod(_READ_BY_ALL)
