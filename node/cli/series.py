"""``segnode series``: what arrived, and what a person decides about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from node import words
from node.cli.opening import open_node
from node.cli.options import ConfigOption
from node.cli.printing import (
    Column,
    JsonOption,
    plain,
    print_facts,
    print_json,
    print_page,
    print_table,
    say,
    shown,
    status_code,
    when,
)
from node.domain.errors import NodeError
from node.domain.series import Forced, SeriesState
from node.jobs.catalog import JobCatalog
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog

LimitOption = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
Uid = Annotated[str, typer.Argument(metavar="UID", help="Series Instance UID.")]

_COLUMNS = (
    Column("SERIES", "series_instance_uid"),
    Column("MODALITY", "modality"),
    Column("INSTANCES", "instances"),
    Column("LAST", "last_received_at", when),
    Column("STATE", "state"),
    Column("EVIDENCE", "evidence"),
    Column("WHY", "sentence"),
)
_EVENTS = (
    Column("AT", "at", when),
    Column("EVENT", "kind"),
    Column("INSTANCE", "sop_instance_uid"),
    Column("WHAT", "sentence"),
)
_LOSSES = (
    Column("IMAGE LOST", "image"),
    Column("STATUS", "dimse_status", status_code),
    Column("REASON", "reason"),
)
_MATCHES = (
    Column("RULE", "rule", lambda rule: plain(rule) or "(none)"),
    Column("REVISION", "revision"),
    Column("STATE", "state"),
    Column("JOB", "job_id"),
    Column("WHY", "sentence"),
)

commands = typer.Typer(no_args_is_help=True, help="What arrived, and what becomes of it.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(commands, name="series")


@commands.command("list")
def list_series(
    state: Annotated[SeriesState | None, typer.Option(help="Only series in this state.")] = None,
    study: Annotated[str | None, typer.Option(help="Only series of this study.")] = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Series, the last received first."""
    with open_node(config) as node:
        page = SpoolCatalog(node.engine).list_series(
            state=state.value if state else None, study_instance_uid=study, limit=limit
        )
    print_page(_COLUMNS, shown(page, words.show_series), as_json=as_json)


@commands.command("show")
def show_series(uid: Uid, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One series: what is known of it, and what each rule made of it."""
    with open_node(config) as node:
        found = SpoolCatalog(node.engine).get_series(uid)
        matches = [words.show_match(row) for row in JobCatalog(node.engine).matches_of_series(uid)]
    if found is None:
        raise NodeError(f"there is no series {uid}")
    row = words.show_series(found)
    if as_json:
        print_json({**row, "matches": matches})
        return
    _print_series(row)
    typer.echo("")
    print_table(_MATCHES, matches)
    if row["losses"]:
        typer.echo("")
        print_table(_LOSSES, row["losses"])
    if row["events"]:
        typer.echo("")
        print_table(_EVENTS, row["events"])


@commands.command()
def proceed(uid: Uid, config: ConfigOption = None) -> None:
    """Take a series as complete with what is there."""
    _force(uid, Forced.PROCEED, config)
    say("the running node goes on with what is there")


@commands.command()
def rerun(uid: Uid, config: ConfigOption = None) -> None:
    """Judge a series again, as a new revision, by the rules in force."""
    _force(uid, Forced.RERUN, config)
    say("the running node judges it again")


@commands.command()
def discard(uid: Uid, config: ConfigOption = None) -> None:
    """Leave a series alone from now on."""
    _force(uid, Forced.DISCARD, config)
    say("the running node leaves it alone from now on")


def _force(uid: str, what: Forced, config: Path | None) -> None:
    with open_node(config) as node:
        Arrivals(node.engine).force(uid, what)


def _print_series(row: dict[str, Any]) -> None:
    gate = row["gate"] or {}
    there = sum(1 for one in row["instance_list"] if one["file_deleted_at"] is None)
    print_facts(
        {
            "series": row["series_instance_uid"],
            "study": row["study_instance_uid"],
            "modality": row["modality"],
            "description": row["series_description"],
            "instances": f"{row['instances']}, files kept: {there}",
            "missing": row["missing"] or "",
            "frames": row["frames"],
            "received": f"{when(row['first_received_at'])} to {when(row['last_received_at'])}",
            "state": row["state"],
            "revision": row["revision"],
            "evidence": row["evidence"],
            "why": row["sentence"],
            "asked for": row["forced"],
            "findings": "; ".join(gate.get("findings", ())),
            "notes": "; ".join(gate.get("notes", ())),
        }
    )
