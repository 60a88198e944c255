"""``segnode models``: what can be run, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from node.cli.drafting import draft
from node.cli.options import ConfigOption, ModelName, ModelsDirOption, known_model
from node.cli.printing import (
    JsonOption,
    columns_of,
    print_below,
    print_facts,
    print_json,
    print_table,
    say,
    told_stages,
    yes_or_no,
)
from node.cli.pulling import pull_models
from node.cli.trying import check_model, optimize_model
from node.domain.errors import ConfigInvalid, NodeError
from node.infer.registry import ModelSpec
from node.modelstore.catalog import ModelCatalog, ModelsHere, models_here

# the rest is imported where it is used: a list of models must not wait for the whole node

Row = Mapping[str, Any]

_RUNS = 5


def _modalities(accepts: Mapping[str, Mapping[str, Any]] | None) -> str:
    """Each role with the modality that it asks for; nothing of a model that cannot be read."""
    if accepts is None:
        return ""
    return ", ".join(
        f"{role} ({_either(given['Modality'])})" if "Modality" in given else role
        for role, given in accepts.items()
    )


def _licences(licences: list[str] | None) -> str:
    return "" if licences is None else ", ".join(licences) or "no weights"


def _either(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


_COLUMNS = columns_of(
    "name version INPUTS=accepts segments LICENCE=licences COMMERCIAL_USE=commercial FILES=present"
    " device title",
    accepts=_modalities,
    licences=_licences,
)
_SEGMENTS = columns_of("VALUE=label_value SEGMENT=name category type modifier")
_FILES = columns_of(
    "FILE=path HERE=is_present licence commercial_use FROM=url", is_present=yes_or_no
)
_LAST_RUNS = columns_of(
    "JOB=id state STARTED=started_at TIME=seconds stages REMARK=sentence",
    stages=told_stages,
)

models = typer.Typer(no_args_is_help=True, help="Models of this node.")


@models.command("list")
def list_models(
    modality: Annotated[
        str | None, typer.Option(help="Only those that could take it, such as CT.")
    ] = None,
    body_part: Annotated[
        str | None, typer.Option(help="Only those that could take it, such as CHEST.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Only those whose weights have it; a part of its name is enough."),
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only those that allow commercial use.")
    ] = False,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Only those made to run there.")
    ] = None,
    models_dir: ModelsDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Models, by name: what they take, what may be done with them, and whether their files are here."""
    here = models_here(config, models_dir)
    asked = {"Modality": modality, "BodyPartExamined": body_part}
    wanted = {key: value for key, value in asked.items() if value is not None}
    rows = [
        row
        for row in _catalog(here).list_models()
        if (licence is None or any(licence.casefold() in x.casefold() for x in row["licences"]))
        and (row["commercial_use"] or not commercial)
        and (device is None or row["device"] in (device, "auto"))
        and (not wanted or _could_take(here.models[row["name"]], wanted))
    ]
    bad = here.found.unusable
    if as_json:
        print_json(
            {
                "items": rows,
                "total": len(rows),
                "bad": [
                    {
                        "name": name,
                        "folder": str(model.folder),
                        "mistakes": [{"path": at, "mistake": what} for at, what in model.mistakes],
                    }
                    for name, model in bad.items()
                ],
            }
        )
        return
    rows = [{**row, "commercial": _commercial(row), "present": _present(row)} for row in rows]
    rows += [{"name": name, "present": "bad", "title": str(model)} for name, model in bad.items()]
    print_table(_COLUMNS, rows)


@models.command("show")
def show_model(
    name: ModelName,
    models_dir: ModelsDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """One model: what it takes, its files and their licences, its segments, its card, its last runs."""
    here = models_here(config, models_dir)
    known_model(name, here)
    row = _catalog(here).get_model(name) or {}
    runs = _last_runs(name, config)
    if as_json:
        print_json({**row, "runs": runs})
        return
    print_facts(
        {
            "model": f"{row['name']} {row['version']}: {row['title']}",
            "runner": row["runner"],
            "device": f"{row['device']}, {row['memory_gb']:g} GB, {row['deadline_s']:g} s at most",
            "digest": row["digest"],
            "use": "research only" if row["research_use"] else "",
            "commercial use": _commercial(row),
            "files": _present(row),
            **{f"takes {role}": _input(given) for role, given in row["inputs"].items()},
            "variants": ", ".join(row["variants"]),
            "parameters": ", ".join(f"{key}={value}" for key, value in row["parameters"].items()),
        }
    )
    files = [*row["files"], *row["weights"]]
    for columns, rows in ((_FILES, files), (_SEGMENTS, row["segments"]), (_LAST_RUNS, runs)):
        print_below(columns, rows)
    typer.echo("")
    typer.echo(row["card"])


def _catalog(here: ModelsHere) -> ModelCatalog:
    return ModelCatalog(
        here.models, weights_dir=here.config.weights_dir, accepted=here.config.accept_licences
    )


def _could_take(model: ModelSpec, wanted: Mapping[str, str]) -> bool:
    """Whether it could; what a model with unusable conditions takes nobody knows, so it is shown."""
    from node.pipeline.judge import could_take

    try:
        return could_take(model, wanted)
    except ConfigInvalid as invalid:
        say(f"{model.name}: {invalid}")
        return True


def _last_runs(name: str, config: Path | None) -> list[Row]:
    """The newest jobs of a model in the node of this configuration; none where no node has run."""
    from node.cli.opening import open_node
    from node.jobs.catalog import JobCatalog

    try:
        with open_node(config) as node:
            rows = JobCatalog(node.engine).list_jobs(model=name, limit=_RUNS).rows
    except NodeError:
        return []
    keys = ("id", "state", "started_at", "finished_at", "stages", "sentence", "parameters")
    return [
        {key: row[key] for key in keys if key in row}
        | {
            "seconds": (row["finished_at"] or 0) - row["started_at"]
            if row["finished_at"] and row["started_at"]
            else None
        }
        for row in rows
    ]


def _commercial(row: Row) -> str:
    if row["commercial_use"]:
        return "yes"
    return "no; accept_licences must name it" if row["locked_licences"] else "no; accepted"


def _present(row: Row) -> str:
    needed, missing = row["files_needed"], row["files_missing"]
    if not missing:
        return "present" if needed else "none needed"
    return f"{missing} of {needed} missing"


def _input(given: Mapping[str, Any]) -> str:
    accepts = ", ".join(f"{key}: {value}" for key, value in given["accepts"].items()) or "any"
    refuses = ", ".join(f"{key}: {value}" for key, value in given["refuses"].items())
    least = f"{given['min_slices']} slices of {given['min_rows']} x {given['min_columns']}"
    measures = " or ".join(given["quantities"]) or "any quantity"
    extent = f" over {given['min_extent_mm']:g} mm" if given["min_extent_mm"] else ""
    told = f"{accepts}; {measures}; at least {least}{extent}"
    return f"{told}; not {refuses}" if refuses else told


# here, so that --help lists them after those above
models.command("draft")(draft)
models.command("check")(check_model)
models.command("pull")(pull_models)
models.command("optimize")(optimize_model)
