"""``segnode series`` and ``segnode quarantine``: what arrived, what was refused, and what a person decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from node import words
from node.cli.opening import open_node
from node.cli.options import ConfigOption, LimitOption, Number
from node.cli.printing import (
    Column,
    JsonOption,
    plain,
    print_below,
    print_facts,
    print_json,
    print_page,
    print_table,
    say,
    status_code,
    when,
)
from node.domain.errors import NodeError
from node.domain.instance import Forced, SeriesState
from node.jobs.catalog import JobCatalog
from node.pipeline.accept import open_ingest, quarantine_obstacle
from node.process.admin import Admin
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpoolFolders

Kept = Literal["kept", "accepted", "discarded"]
Uid = Annotated[str, typer.Argument(metavar="UID", help="Series Instance UID.")]


_SERIES = (
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
_QUARANTINE = (
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

series = typer.Typer(no_args_is_help=True, help="What arrived, and what becomes of it.")
quarantine = typer.Typer(no_args_is_help=True, help="Instances that were refused and kept aside.")


@series.command("list")
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
    print_page(_SERIES, page, words.show_series, as_json=as_json)


@series.command("show")
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
    print_below(_LOSSES, row["losses"])
    print_below(_EVENTS, row["events"])


@series.command()
def proceed(uid: Uid, config: ConfigOption = None) -> None:
    """Take a series as complete with what is there."""
    _force(uid, Forced.PROCEED, config)
    say("the running node goes on with what is there")


@series.command()
def rerun(uid: Uid, config: ConfigOption = None) -> None:
    """Judge a series again, as a new revision, by the rules in force."""
    _force(uid, Forced.RERUN, config)
    say("the running node judges it again")


@series.command("discard")
def discard_series(uid: Uid, config: ConfigOption = None) -> None:
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


@quarantine.command("list")
def list_quarantine(
    state: Annotated[Kept, typer.Option(help="Only instances in this state.")] = "kept",
    series: Annotated[str | None, typer.Option(help="Only instances of this series.")] = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refused instances, the newest first, and whether accept can free them."""
    with open_node(config) as node:
        page = SpoolCatalog(node.engine).list_quarantine(
            state=state, series_instance_uid=series, limit=limit
        )
    obstacle = quarantine_obstacle(node.plan.config)
    print_page(_QUARANTINE, page, lambda row: {**row, "obstacle": obstacle(row)}, as_json=as_json)


@quarantine.command("show")
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


@quarantine.command()
def accept(number: Number, config: ConfigOption = None) -> None:
    """Take an instance in after all; what is still malformed stays refused."""
    with open_node(config) as node, open_ingest(node.plan) as door:
        Admin(node.plan, node.engine, door).accept_quarantine(number)
    say("accepted")


@quarantine.command("discard")
def discard_quarantined(number: Number, config: ConfigOption = None) -> None:
    """Delete an instance from quarantine."""
    with open_node(config) as node, open_ingest(node.plan) as door:
        Admin(node.plan, node.engine, door).discard_quarantine(number)
    say("discarded")
