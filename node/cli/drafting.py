"""``segnode models draft``: a model folder and a rule from an MHub model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, print_json, say
from node.domain.errors import ConfigInvalid
from node.infer.registry import load_model
from node.modelstore.catalog import models_here


def draft(
    card: Annotated[Path, typer.Argument(metavar="META.json", help="MHub's card of the model.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the model's own folder is made.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a draft of a container model from MHub's card: model.yaml, labels.csv, README.md.

    Prints a rule for the configuration, and says what a person must still look at.
    """
    from node.infer.mhub.draft import draft_model  # imports pydicom, which no listing waits for

    meta = _read(card)
    known = models_here(config).models.values()
    made = draft_model(meta, [segment for model in known for segment in model.segments])
    target = folder / made.name
    if target.exists():
        raise ConfigInvalid([(str(target), "is there already: a draft replaces nothing")])
    target.mkdir(parents=True)
    for name, text in made.files.items():
        (target / name).write_text(text, encoding="utf-8")
    model = load_model(target)
    if as_json:
        print_json(
            {
                "model": model.name,
                "folder": str(target),
                "segments": len(model.segments),
                "rule": made.rule,
                "open_points": list(made.open_points),
            }
        )
        return
    say(f"draft of {model.name} with {len(model.segments)} segments: {target}")
    for point in made.open_points:
        say(f"- {point}")
    typer.echo(made.rule)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid([(str(path), "cannot be read")]) from error
    except ValueError as error:
        raise ConfigInvalid([(str(path), f"is not JSON: {error}")]) from error
    if not isinstance(content, dict):
        raise ConfigInvalid([(str(path), "is no model card")])
    return content
