"""``segnode models``: what can be run, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.printing import (
    Column,
    JsonOption,
    print_facts,
    print_json,
    print_page,
    print_table,
    say,
)
from node.cli.serving import ConfigOption
from node.domain.errors import ConfigInvalid
from node.infer.registry import ModelSpec, load_model
from node.pipeline.build import Plan, accepted_inputs, plan
from node.pipeline.catalog import ModelCatalog

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model.")]

_COLUMNS = (
    Column("NAME", "name"),
    Column("VERSION", "version"),
    Column("RUNNER", "runner"),
    Column("INPUTS", "roles", ", ".join),
    Column("SEGMENTS", "segments"),
    Column("TITLE", "title"),
)
_SEGMENTS = (
    Column("VALUE", "label_value"),
    Column("SEGMENT", "name"),
    Column("CATEGORY", "category"),
    Column("TYPE", "type"),
    Column("MODIFIER", "modifier"),
)

commands = typer.Typer(no_args_is_help=True, help="Models of this node.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(commands, name="models")


@commands.command("list")
def list_models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Models, by name."""
    rows = ModelCatalog(plan(config).models).list_models()
    print_page(_COLUMNS, (rows, len(rows)), as_json=as_json)


@commands.command("show")
def show_model(name: Name, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One model: its inputs, its segments, and its card."""
    current = plan(config)
    row = ModelCatalog(current.models).get_model(name)
    if row is None:
        raise _unknown(name, current)
    if as_json:
        print_json(row)
        return
    print_facts(
        {
            "model": f"{row['name']} {row['version']}: {row['title']}",
            "runner": row["runner"],
            "digest": row["digest"],
            "use": "research only" if row["research_use"] else "",
            **{f"takes {role}": _input(given) for role, given in row["inputs"].items()},
        }
    )
    typer.echo("")
    segments: list[Mapping[str, Any]] = row["segments"]
    print_table(_SEGMENTS, segments)
    typer.echo("")
    typer.echo(row["card"])


@commands.command("check")
def check_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a model, or its folder.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model whole, its conditions and its code too, and say what is wrong with it."""
    folder = Path(name)
    is_folder = (folder / "model.yaml").is_file()
    model = load_model(folder) if is_folder else _known(name, plan(config))
    accepted_inputs(model)
    _require_entry(model)
    facts = {
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "segments": len(model.segments),
        "is_good": True,
    }
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"good: {model.name} {model.version}, {len(model.segments)} segments")


@commands.command("pull")
def pull_model(
    name: Name,
    source: Annotated[str | None, typer.Option("--from", help="Path or URL.")] = None,
    config: ConfigOption = None,
) -> None:
    """Fetch a model: not in this version."""
    del source, config
    say(f"pull is not in this version: put the folder of {name} where models_dirs names it")
    raise typer.Exit(2)


def _known(name: str, current: Plan) -> ModelSpec:
    model = current.models.get(name)
    if model is None:
        raise _unknown(name, current)
    return model


def _unknown(name: str, current: Plan) -> typer.BadParameter:
    there_are = ", ".join(sorted(current.models))
    return typer.BadParameter(f"no model {name!r}; there are: {there_are}", param_hint="NAME")


def _input(given: Mapping[str, Any]) -> str:
    accepts = ", ".join(f"{key}: {value}" for key, value in given["accepts"].items()) or "any"
    least = f"{given['min_slices']} slices of {given['min_rows']} x {given['min_columns']}"
    return f"{accepts}; at least {least}"


def _require_entry(model: ModelSpec) -> None:
    """The function that the model names is there and can be imported.

    Raises:
        ConfigInvalid: It is not.
    """
    if model.runner.kind != "python":
        return
    module, _, function = model.runner.entry.partition(":")
    where = f"models/{model.name}/model.yaml: runner.entry"
    try:
        found = getattr(import_module(module), function, None)
    except ImportError as error:
        raise ConfigInvalid([(where, f"{module} cannot be imported: {error.msg}")]) from None
    if not callable(found):
        raise ConfigInvalid([(where, f"{module} has no function {function}")])
