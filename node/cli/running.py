"""``segnode run``: a folder in, results out, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.printing import Column, JsonOption, plain, print_json, print_table, say
from node.cli.serving import ConfigOption
from node.pipeline.run_folder import run_folder
from node.pipeline.run_outcome import RunOutcome, RunReport

_COLUMNS = (
    Column("SERIES", "series_instance_uid"),
    Column("MODALITY", "modality"),
    Column("INSTANCES", "instances"),
    Column("RULE", "rule", lambda rule: plain(rule) or "(none)"),
    Column("STATE", "state"),
    Column("RESULT OR REASON", "what"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(run)


def run(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of DICOM files.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="Where results go, and .segnode with the state."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Run this model on what it accepts; repeat for more. Default ct_tissue."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run models over a folder: OUTPUT/{SeriesInstanceUID}/{model}.seg.dcm. Starts again where it was."""
    report = run_folder(source, output, models=model or [], config=config, say=say)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    if not report.series:
        say(f"no DICOM instance was found in {source}")
    if not report.is_good:
        raise typer.Exit(1)


def _print(report: RunReport) -> None:
    facts = {row["series_instance_uid"]: row for row in report.series}
    print_table(
        _COLUMNS,
        [
            {
                "modality": facts.get(one.series_instance_uid, {}).get("modality"),
                "instances": facts.get(one.series_instance_uid, {}).get("instances"),
                "series_instance_uid": one.series_instance_uid,
                "rule": one.rule,
                "state": one.state,
                "what": _what(one),
            }
            for one in report.outcomes
        ],
    )
    for refused in report.refused:
        typer.echo(plain(f"refused: {refused.path}: {refused.reason}"))


def _what(outcome: RunOutcome) -> str:
    if outcome.file is None:
        return outcome.sentence
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items())
    return f"{outcome.file}: {found}"


def _as_json(report: RunReport) -> dict[str, Any]:
    return {
        "series": [dict(row) for row in report.series],
        "outcomes": [
            {
                "series_instance_uid": one.series_instance_uid,
                "rule": one.rule,
                "model": one.model,
                "state": one.state,
                "sentence": one.sentence,
                "file": str(one.file) if one.file else None,
                "volumes_ml": dict(one.volumes_ml),
                "stages": dict(one.stages),
                "is_failure": one.is_failure,
            }
            for one in report.outcomes
        ],
        "refused": [
            {"path": str(one.path), "reason": one.reason, "dimse_status": one.dimse_status}
            for one in report.refused
        ],
    }
