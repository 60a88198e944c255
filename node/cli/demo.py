"""``segnode demo``: a node at work, from C-STORE and STOW-RS to SEG, in one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.cli.printing import Column, JsonOption, print_json, print_table, say
from node.demo.run import DEFAULT_FOLDER, DemoReport, TransportReport, run_demo

_NAMES = {"dimse": "C-STORE", "stow": "STOW-RS"}


def demo(
    source: Annotated[
        Path | None, typer.Option("--input", help="Send this folder in place of a phantom.")
    ] = None,
    keep: Annotated[
        Path, typer.Option("--keep", help="Where everything that the demo makes stays.")
    ] = DEFAULT_FOLDER,
    limit_s: Annotated[float, typer.Option(help="Longest wait for the results.")] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Start a node, send a series by C-STORE and a copy by STOW-RS, show where the SEGs are."""
    report = run_demo(source, keep, limit_s=limit_s, say=say)
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)
    if not report.is_good:
        say(f"not every transport ended with a SEG: read {report.folder / 'node.log'}")
        raise typer.Exit(1)


def _print(report: DemoReport) -> None:
    shown = [transport for transport in report.transports if transport.stages_s]
    _print_side_by_side("STAGE", "s", [(_name(each), each.stages_s) for each in shown])
    typer.echo("")
    _print_side_by_side("SEGMENT", "ml", [(_name(each), each.volumes_ml) for each in shown])
    typer.echo("")
    for transport in report.transports:
        series = f"series {transport.series_instance_uid}, {transport.instances} instances"
        typer.echo(f"{_name(transport)}: {series}")
        typer.echo(f"  {transport.state} {transport.sentence}".rstrip())
        for path in transport.files:
            typer.echo(f"  {path}")
    typer.echo("")
    typer.echo(f"configuration: {report.config}")
    typer.echo(f"look around:   segnode status --config {report.config}")
    typer.echo(f"it took {report.wall_s:.1f} s, start and stop of the node included")


def _print_side_by_side(
    title: str, unit: str, transports: Sequence[tuple[str, Mapping[str, float]]]
) -> None:
    """One line per name, one column per transport."""
    columns = [Column(title, "name")]
    rows: dict[str, dict[str, str]] = {}
    for number, (transport, values) in enumerate(transports):
        columns.append(Column(f"{transport} [{unit}]", str(number)))
        for name, value in values.items():
            rows.setdefault(name, {"name": name})[str(number)] = f"{value:.2f}"
    print_table(columns, list(rows.values()))


def _name(transport: TransportReport) -> str:
    return _NAMES.get(transport.transport, transport.transport)
