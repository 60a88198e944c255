"""``segnode models check`` and ``optimize``: a model tried in a child, where it may crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from node.cli.options import ConfigOption, ModelName, ModelsDirOption, known_model
from node.cli.printing import JsonOption, plain, print_facts, print_json, say, told_stages
from node.config import NodeConfig, load
from node.domain.errors import ConfigInvalid, NodeError
from node.domain.quantity import Quantity
from node.domain.segment import PRIVATE_SCHEME
from node.infer.assets import locked_licences
from node.infer.registry import ModelSpec, load_model
from node.modelstore.catalog import models_here, shortcomings
from node.words import tell_all

# what runs is imported where it is used: a list of models must not wait for it

_TRIAL = "node.modelstore.trial:run"
_OPTIMIZE = "node.pipeline.optimize_job:run"
_OPTIMIZE_DEADLINE_S = 4 * 3600.0  # TensorRT tries many kernels
# what its phantom is, by the quantity that a model takes; nothing: a CT
_MODALITIES = {Quantity.HU: "CT", Quantity.MR_SIGNAL: "MR"}

Precision = Literal["fp16", "fp32"]  # of the numbers inside the network


def check_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a model, or its folder.")],
    only_loads: Annotated[
        bool, typer.Option("--no-run", help="Load it, and leave the phantom out.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model whole, its conditions, code and weights too, try it, and say what is wrong with it."""
    if (Path(name) / "model.yaml").is_file():
        settings, model = load(config, os.environ), load_model(Path(name))
    else:
        here = models_here(config)
        settings, model = here.config, known_model(name, here)
    acceptance = import_module("node.pipeline.judge")
    acceptance.accepted_inputs(model)
    acceptance.refused_inputs(model)
    acceptance.variant_conditions(model)
    not_run = ["--no-run"] if only_loads else _why_not_run(model, settings)
    found = _try(model, settings, on_phantom=not not_run)
    private = [segment.name for segment in model.segments if segment.is_private]
    if as_json:
        print_json(
            {
                "model": model.name,
                "version": model.version,
                "digest": model.digest,
                "segments": len(model.segments),
                "private_codes": private,
                "is_good": True,
                "found": found,
                "not_run": not_run,
            }
        )
        return
    typer.echo(f"good: {model.name} {model.version}, {len(model.segments)} segments")
    if private:
        count = f"{len(private)} of {len(model.segments)} labels"
        typer.echo(f"{count} carry a private code ({PRIVATE_SCHEME}): {', '.join(private)}")
    if not_run:
        say(f"not tried on a phantom: {'; '.join(not_run)}")
    else:
        typer.echo(f"tried on a phantom: {', '.join(found) or 'it found nothing, as it may'}")


def optimize_model(
    name: ModelName,
    sample: Annotated[
        Path,
        typer.Option(
            "--sample",
            help="A folder with a series that shows what the model segments; with one folder per"
            " role where the model takes several.",
        ),
    ],
    variant: Annotated[str, typer.Option(help="Which way to run it; its default.")] = "",
    precision: Annotated[Precision, typer.Option(help="Of the network.")] = "fp16",
    device: Annotated[str, typer.Option(help="A GPU: cuda, or cuda:1.")] = "cuda",
    models_dir: ModelsDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a TensorRT network of a bundle, and keep it where its labels agree with the original's."""
    here = models_here(config, models_dir)
    model = known_model(name, here)
    if not sample.is_dir():
        raise ConfigInvalid([("--sample", f"{sample} is not a folder")])
    for licence in locked_licences(model, here.config.accept_licences):
        raise NodeError(f"its weights forbid commercial use: name {licence} in accept_licences")
    request = {
        "model_folder": str(model.folder.absolute()),
        "weights_dir": str(here.config.weights_dir),
        "variant": variant,
        "precision": precision,
        "sample": str(sample.absolute()),
    }
    made = _run_in_child(
        _OPTIMIZE, request, device=device, deadline_s=_OPTIMIZE_DEADLINE_S, tell=say
    )
    compared = made["compared"]
    print_facts(
        {
            "optimized": f"{name} {made['variant']} for {made['made_with']['device']}",
            "engine": made["engine"],
            "labels compared": compared["labels"],
            "lowest Dice": f"{compared['lowest_dice']:.4f} ({compared['lowest_label']})",
            "equal voxels": f"{100 * compared['equal_voxels']:.3f} %",
            "network": told_stages(compared["network_s"]),
        }
    )


def _why_not_run(model: ModelSpec, settings: NodeConfig) -> list[str]:
    """What keeps it from being tried; nothing where it can be."""
    lacking = list(shortcomings(model, settings.weights_dir, settings.accept_licences))
    if untold := model.runner.why_no_phantom:
        lacking.append(untold)
    return lacking + [
        f"no phantom shows {' or '.join(given.quantities)}"
        for given in model.inputs.values()
        if given.quantities and not _MODALITIES.keys() & set(given.quantities)
    ]


def _try(model: ModelSpec, settings: NodeConfig, *, on_phantom: bool) -> list[str]:
    """The names of what it found; nothing of what this machine lacks the libraries for.

    Raises:
        NodeError: What is wrong with its code, its weights or its answer.
    """
    if any(model.runner.shortcomings()):
        return []
    with tempfile.TemporaryDirectory(prefix="segnode-check-") as folder:
        if on_phantom:
            _write_sample(model, Path(folder))
        request = {
            "model_folder": str(model.folder.absolute()),
            "weights_dir": str(settings.weights_dir),
            "device": "cpu",
            "sample": folder if on_phantom else "",
        }
        deadline_s = model.resources.deadline_s
        answer = _run_in_child(_TRIAL, request, deadline_s=deadline_s, tell=lambda _: None)
    return list(answer["found"])


def _write_sample(model: ModelSpec, folder: Path) -> None:
    from node.demo.phantom import write_phantom

    for role, given in model.inputs.items():
        shown = [_MODALITIES[each] for each in given.quantities if each in _MODALITIES]
        target = folder if len(model.inputs) == 1 else folder / role
        write_phantom(target, modality=shown[0] if shown else "CT", series=role)


def _run_in_child(
    target: str,
    request: Mapping[str, Any],
    *,
    deadline_s: float,
    tell: Callable[[str], None],
    device: str = "cpu",
) -> dict[str, Any]:
    """What a target of the runner's child answers.

    Args:
        tell: Gets one sentence per stage and remark.
    Raises:
        NodeError: It failed, with its sentence.
    """
    # imported where it is used: a list of models must not wait for it
    from node.infer.runner import Failed, Finished, Noted, Runner, StageFinished

    with Runner(device=device) as runner:
        runner.start(target, request, deadline_s=deadline_s)
        while True:
            for event in runner.poll(1.0):
                match event:
                    case StageFinished(name=name, seconds=seconds):
                        tell(f"{name}: {seconds:.2f} s")
                    case Noted(sentence=sentence):
                        tell(sentence)
                    case Finished(result=result):
                        return dict(result)
                    case Failed(sentence=sentence, reasons=reasons):
                        raise NodeError(plain(tell_all(reasons) or sentence))
