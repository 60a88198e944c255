"""``segnode doctor`` and ``segnode conformance``: how the node stands in its network."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.conformance import as_markdown
from node.cli.conformance import conformance as make_statement
from node.cli.doctor import examine
from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, plain, print_json
from node.deliver.destination import Health
from node.pipeline.build import plan
from node.web.app import DEFAULT_STOW_PREFIX


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)
    app.command()(conformance)


def doctor(
    sends: Annotated[
        bool, typer.Option("--send", help="Also store one synthetic instance in the node itself.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, the node, and every destination; exits 1 when something is bad."""
    checks = []
    for name, probe in examine(plan(config), sends=sends):
        checks.append({"name": name, "health": probe.health.value, "sentence": probe.sentence})
        if not as_json:
            typer.echo(plain(f"{probe.health.value:8} {name}: {probe.sentence}"))
    if as_json:
        print_json(checks)
    if any(check["health"] == Health.BAD for check in checks):
        raise typer.Exit(1)


def conformance(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the DICOM conformance statement, made from the tables that the node really uses."""
    statement = make_statement(plan(config), DEFAULT_STOW_PREFIX)
    if as_json:
        print_json(statement)
    else:
        typer.echo(as_markdown(statement), nl=False)
