"""``segnode quarantine``: what was refused and kept aside for a person."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from node.cli.opening import OpenNode, open_node
from node.cli.options import ConfigOption
from node.cli.printing import (
    Column,
    JsonOption,
    print_facts,
    print_json,
    print_page,
    say,
    status_code,
    when,
)
from node.cli.series import LimitOption
from node.domain.errors import NodeError
from node.pipeline.accept import open_ingest, quarantine_obstacle
from node.process.admin import Admin
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpoolFolders

Number = Annotated[int, typer.Argument(metavar="ID", help="Number in the list.")]


class Kept(StrEnum):
    """What became of a refused instance."""

    KEPT = "kept"
    ACCEPTED = "accepted"
    DISCARDED = "discarded"


_COLUMNS = (
    Column("ID", "id"),
    Column("RECEIVED", "received_at", when),
    Column("TRANSPORT", "transport"),
    Column("FROM", "calling_ae_title"),
    Column("STATUS", "dimse_status", status_code),
    Column("STATE", "state"),
    Column("ACCEPT", "obstacle", lambda obstacle: "no" if obstacle else "yes"),
    Column("SERIES", "series_instance_uid"),
    Column("WHY", "reason"),
    Column("FILE", "source"),
)

commands = typer.Typer(no_args_is_help=True, help="Instances that were refused and kept aside.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(commands, name="quarantine")


@commands.command("list")
def list_quarantine(
    state: Annotated[Kept, typer.Option(help="Only instances in this state.")] = Kept.KEPT,
    series: Annotated[str | None, typer.Option(help="Only instances of this series.")] = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refused instances, the newest first, and whether accept can free them."""
    with open_node(config) as node:
        rows, total = SpoolCatalog(node.engine).list_quarantine(
            state=state.value, series_instance_uid=series, limit=limit
        )
        obstacle = quarantine_obstacle(node.plan.config)
        page = [{**row, "obstacle": obstacle(row)} for row in rows], total
    print_page(_COLUMNS, page, as_json=as_json)


@commands.command("show")
def show_quarantine(
    number: Number, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """One refused instance, where its file lies, and whether accept can free it."""
    with open_node(config) as node:
        row = SpoolCatalog(node.engine).get_quarantine(number)
    if row is None:
        raise NodeError(f"{number} is not in quarantine")
    obstacle = quarantine_obstacle(node.plan.config)(row)
    file = SpoolFolders.of(node.plan.config.data_dir).quarantine / row["file_name"]
    if as_json:
        print_json({**row, "obstacle": obstacle, "path": str(file)})
        return
    print_facts(
        {
            "id": row["id"],
            "why": row["reason"],
            "status": status_code(row["dimse_status"]),
            "state": row["state"],
            "received": when(row["received_at"]),
            "transport": row["transport"],
            "from": f"{row['calling_ae_title']} {row['address']}".strip(),
            "instance": row["sop_instance_uid"],
            "series": row["series_instance_uid"],
            "came as": row["source"],
            "file": file if file.exists() else "gone",
            "accept": f"cannot take it: {obstacle}" if obstacle else "takes it in",
        }
    )


@commands.command()
def accept(number: Number, config: ConfigOption = None) -> None:
    """Take an instance in after all; what is still malformed stays refused."""
    with open_node(config) as node:
        _decide(node, number, is_accepted=True)
    say("accepted")


@commands.command()
def discard(number: Number, config: ConfigOption = None) -> None:
    """Delete an instance from quarantine."""
    with open_node(config) as node:
        _decide(node, number, is_accepted=False)
    say("discarded")


def _decide(node: OpenNode, number: int, *, is_accepted: bool) -> None:
    with open_ingest(node.plan) as door:
        admin = Admin(node.plan, node.engine, door)
        decide = admin.accept_quarantine if is_accepted else admin.discard_quarantine
        decide(number)
