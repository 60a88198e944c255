"""``segnode demo``: a node at work, from C-STORE and STOW-RS to SEG, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.printing import Column, print_json, print_table, say
from node.demo.report import RoadReport
from node.demo.run import DEFAULT_FOLDER, DemoReport, run_demo

_NAMES = {"dimse": "C-STORE", "stow": "STOW-RS"}


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(demo)


def demo(
    source: Annotated[
        Path | None, typer.Option("--input", help="Send this folder in place of a phantom.")
    ] = None,
    keep: Annotated[
        Path, typer.Option("--keep", help="Where everything that the demo makes stays.")
    ] = DEFAULT_FOLDER,
    limit_s: Annotated[float, typer.Option(help="Longest wait for the results.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Start a node, send a series by C-STORE and a copy by STOW-RS, show where the SEGs are."""
    report = run_demo(source, keep, limit_s=limit_s, say=say)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    if not report.is_good:
        say(f"not every road ended with a SEG: read {report.folder / 'node.log'}")
        raise typer.Exit(1)


def _print(report: DemoReport) -> None:
    roads = [road for road in report.roads if road.stages_s]
    _print_side_by_side("STAGE", "s", [road.stages_s for road in roads], roads)
    typer.echo("")
    _print_side_by_side("SEGMENT", "ml", [road.volumes_ml for road in roads], roads)
    typer.echo("")
    for road in report.roads:
        name = _NAMES.get(road.road, road.road)
        typer.echo(f"{name}: series {road.series_instance_uid}, {road.instances} instances")
        typer.echo(f"  {road.state} {road.sentence}".rstrip())
        for path in road.files:
            typer.echo(f"  {path}")
    typer.echo("")
    typer.echo(f"configuration: {report.config}")
    typer.echo(f"look around:   segnode status --config {report.config}")
    typer.echo(f"it took {report.wall_s:.1f} s, start and stop of the node included")


def _print_side_by_side(title: str, unit: str, values: list[Any], roads: list[RoadReport]) -> None:
    """One line per name, one column per road."""
    names = list(dict.fromkeys(name for each in values for name in each))
    columns = [Column(title, "name")]
    columns += [
        Column(f"{_NAMES.get(road.road, road.road)} [{unit}]", str(number))
        for number, road in enumerate(roads)
    ]
    rows = [
        {"name": name}
        | {str(n): f"{each[name]:.2f}" if name in each else "" for n, each in enumerate(values)}
        for name in names
    ]
    print_table(columns, rows)


def _as_json(report: DemoReport) -> dict[str, Any]:
    return {
        "folder": str(report.folder),
        "config": str(report.config),
        "wall_s": report.wall_s,
        "roads": [
            {
                "road": road.road,
                "series_instance_uid": road.series_instance_uid,
                "instances": road.instances,
                "state": road.state,
                "sentence": road.sentence,
                "stages_s": dict(road.stages_s),
                "volumes_ml": dict(road.volumes_ml),
                "files": [str(path) for path in road.files],
            }
            for road in report.roads
        ],
    }
