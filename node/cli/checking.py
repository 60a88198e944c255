"""``segnode models check``: a model is loaded whole, and tried on a phantom where that says something."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.in_child import run_in_child
from node.cli.models import commands, known_model
from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, print_json, say
from node.config import NodeConfig, load
from node.domain.quantity import Quantity
from node.domain.segment import PRIVATE_SCHEME
from node.infer.registry import ModelSpec, load_model
from node.modelstore.models_here import models_here
from node.modelstore.readiness import shortcomings

# what runs is imported where it is used: a list of models must not wait for it

TARGET = "node.modelstore.trial:run"
# what its phantom is, by the quantity that a model takes; nothing: a CT
_MODALITIES = {Quantity.HU: "CT", Quantity.MR_SIGNAL: "MR"}


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to those of ``segnode models``."""
    del app
    commands.command("check")(check_model)


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


def _why_not_run(model: ModelSpec, settings: NodeConfig) -> list[str]:
    """What keeps it from being tried; nothing where it can be."""
    lacking = list(shortcomings(model, settings.weights_dir, settings.accept_licences))
    if untold := model.runner.settings.why_no_phantom:
        lacking.append(untold)
    lacking += [
        f"no phantom shows {' or '.join(given.quantities)}"
        for given in model.inputs.values()
        if given.quantities and not _MODALITIES.keys() & set(given.quantities)
    ]
    return lacking


def _try(model: ModelSpec, settings: NodeConfig, *, on_phantom: bool) -> list[str]:
    """The names of what it found; nothing of what this machine lacks the libraries for.

    Raises:
        NodeError: What is wrong with its code, its weights or its answer.
    """
    if any(model.runner.settings.shortcomings()):
        return []
    with tempfile.TemporaryDirectory(prefix="segnode-check-") as folder:
        request: dict[str, Any] = {
            "model_folder": str(model.folder.absolute()),
            "weights_dir": str(settings.weights_dir),
            "device": "cpu",
            "sample": folder if on_phantom else "",
        }
        if on_phantom:
            _write_sample(model, Path(folder))
        answer = run_in_child(
            TARGET,
            request,
            device="cpu",
            deadline_s=model.resources.deadline_s,
            tell=lambda _: None,
        )
    return list(answer["found"])


def _write_sample(model: ModelSpec, folder: Path) -> None:
    from node.demo.phantom import write_phantom

    for role, given in model.inputs.items():
        shown = [_MODALITIES[each] for each in given.quantities if each in _MODALITIES]
        target = folder if len(model.inputs) == 1 else folder / role
        write_phantom(target, modality=shown[0] if shown else "CT", series=role)
