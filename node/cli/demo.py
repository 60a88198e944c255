"""``segnode demo``: a node at work, from C-STORE and STOW-RS to SEG, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.printing import Column, print_json, print_table, say
from node.demo.report import TransportReport
from node.demo.run import DEFAULT_FOLDER, DemoReport, run_demo

_NAMES = {"dimse": "C-STORE", "stow": "STOW-RS"}


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
    transports = [transport for transport in report.transports if transport.stages_s]
    _print_side_by_side("STAGE", "s", [transport.stages_s for transport in transports], transports)
    typer.echo("")
    _print_side_by_side(
        "SEGMENT", "ml", [transport.volumes_ml for transport in transports], transports
    )
    typer.echo("")
    for transport in report.transports:
        name = _NAMES.get(transport.transport, transport.transport)
        typer.echo(
            f"{name}: series {transport.series_instance_uid}, {transport.instances} instances"
        )
        typer.echo(f"  {transport.state} {transport.sentence}".rstrip())
        for path in transport.files:
            typer.echo(f"  {path}")
    typer.echo("")
    typer.echo(f"configuration: {report.config}")
    typer.echo(f"look around:   segnode status --config {report.config}")
    typer.echo(f"it took {report.wall_s:.1f} s, start and stop of the node included")


def _print_side_by_side(
    title: str, unit: str, values: list[Any], transports: list[TransportReport]
) -> None:
    """One line per name, one column per road."""
    names = list(dict.fromkeys(name for each in values for name in each))
    columns = [Column(title, "name")]
    columns += [
        Column(f"{_NAMES.get(transport.transport, transport.transport)} [{unit}]", str(number))
        for number, transport in enumerate(transports)
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
        "transports": [
            {
                "transport": transport.transport,
                "series_instance_uid": transport.series_instance_uid,
                "instances": transport.instances,
                "state": transport.state,
                "sentence": transport.sentence,
                "stages_s": dict(transport.stages_s),
                "volumes_ml": dict(transport.volumes_ml),
                "files": [str(path) for path in transport.files],
            }
            for transport in report.transports
        ],
    }
