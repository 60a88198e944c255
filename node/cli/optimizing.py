"""``segnode models optimize``: a faster network, used only where its labels are the original's."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.models import commands
from node.cli.options import ConfigOption, ModelsDirOption
from node.cli.printing import plain, print_facts, say
from node.domain.errors import ConfigInvalid, NodeError
from node.modelstore.models_here import models_here
from node.words import tell_all

# the runner is imported where it is used: a list of models must not wait for it

TARGET = "node.pipeline.optimize_job:run"
DEADLINE_S = 4 * 3600.0  # TensorRT tries many kernels


class Precision(StrEnum):
    """Of the numbers inside the network."""

    FP16 = "fp16"
    FP32 = "fp32"


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to those of ``segnode models``."""
    del app
    commands.command("optimize")(optimize_model)


def optimize_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a model.")],
    sample: Annotated[
        Path,
        typer.Option(
            "--sample",
            help="A folder with a series that shows what the model segments; with one folder per"
            " role where the model takes several.",
        ),
    ],
    variant: Annotated[str, typer.Option(help="Which way to run it; its default.")] = "",
    precision: Annotated[Precision, typer.Option(help="Of the network.")] = Precision.FP16,
    device: Annotated[str, typer.Option(help="A GPU: cuda, or cuda:1.")] = "cuda",
    models_dir: ModelsDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a TensorRT network of a bundle, and keep it where its labels agree with the original's."""
    here = models_here(config, models_dir or [])
    model = here.models.get(name)
    if model is None:
        there_are = ", ".join(sorted(here.models))
        raise typer.BadParameter(f"no model {name!r}; there are: {there_are}", param_hint="NAME")
    if not sample.is_dir():
        raise ConfigInvalid([("--sample", f"{sample} is not a folder")])
    from node.infer.assets import locked_licences

    for licence in locked_licences(model, here.config.accept_licences):
        raise NodeError(f"its weights forbid commercial use: name {licence} in accept_licences")
    request = {
        "model_folder": str(model.folder.absolute()),
        "weights_dir": str(here.config.weights_dir),
        "variant": variant,
        "precision": precision.value,
        "sample": str(sample.absolute()),
    }
    made = _in_child(request, device)
    compared = made["compared"]
    print_facts(
        {
            "optimized": f"{name} {made['variant']} for {made['made_with']['device']}",
            "engine": made["engine"],
            "labels compared": compared["labels"],
            "lowest Dice": f"{compared['lowest_dice']:.4f} ({compared['lowest_label']})",
            "equal voxels": f"{100 * compared['equal_voxels']:.3f} %",
            "network": ", ".join(f"{k} {v:.2f} s" for k, v in compared["network_s"].items()),
        }
    )


def _in_child(request: dict[str, str], device: str) -> dict[str, Any]:
    """Do it where it may crash, and tell how it goes."""
    from node.infer.runner import Failed, Finished, Noted, Runner, StageFinished

    with Runner(device=device) as runner:
        runner.start(TARGET, request, deadline_s=DEADLINE_S)
        while True:
            for event in runner.poll(1.0):
                match event:
                    case StageFinished(name=name, seconds=seconds):
                        say(f"{name}: {seconds:.2f} s")
                    case Noted(sentence=sentence):
                        say(sentence)
                    case Finished(result=result):
                        return dict(result)
                    case Failed(sentence=sentence, reasons=reasons):
                        raise NodeError(plain(tell_all(reasons) or sentence))
