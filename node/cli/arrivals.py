"""``segnode series`` and ``segnode quarantine``: what arrived, what was refused, and what a person decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from node import words
from node.cli.opening import look_at_node, open_node
from node.cli.options import AfterOption, ConfigOption, LimitOption, Number
from node.cli.printing import (
    JsonOption,
    columns_of,
    print_below,
    print_json,
    print_page,
    print_row,
    print_table,
    say,
    when,
    yes_or_no,
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


_SERIES = columns_of(
    "SERIES=series_instance_uid modality instances LAST=last_received_at state evidence"
    " WHY=sentence"
)
_ONE_SERIES = columns_of(
    "series=series_instance_uid study=study_instance_uid modality description=series_description"
    " instances missing frames received state revision evidence why=sentence asked_for=forced"
    " findings notes"
)
_EVENTS = columns_of("at EVENT=kind INSTANCE=sop_instance_uid WHAT=sentence", at=when)
_LOSSES = columns_of("IMAGE_LOST=image STATUS=dimse_status reason")
_MATCHES = columns_of("rule revision state JOB=job_id WHY=sentence")
_QUARANTINE = columns_of(
    "id RECEIVED=received_at transport FROM=calling_ae_title STATUS=dimse_status state"
    " ACCEPT=obstacle SERIES=series_instance_uid WHY=reason FILE=source",
    obstacle=lambda obstacle: yes_or_no(not obstacle),
)
_REFUSED = columns_of(
    "id why=reason status=dimse_status state received=received_at transport from"
    " instance=sop_instance_uid series=series_instance_uid came_as=source file accept"
)

series = typer.Typer(no_args_is_help=True, help="What arrived, and what becomes of it.")
quarantine = typer.Typer(no_args_is_help=True, help="Instances that were refused and kept aside.")


@series.command("list")
def list_series(
    state: Annotated[SeriesState | None, typer.Option(help="Only series in this state.")] = None,
    study: Annotated[str | None, typer.Option(help="Only series of this study.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Series, the last received first."""
    with look_at_node(config) as node:
        page = SpoolCatalog(node.engine).list_series(
            state=state.value if state else None, study_instance_uid=study, limit=limit, after=after
        )
    print_page(_SERIES, page, words.show_series, as_json=as_json)


@series.command("show")
def show_series(uid: Uid, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One series: what is known of it, and what each rule made of it."""
    with look_at_node(config) as node:
        found = SpoolCatalog(node.engine).get_series(uid)
        if found is None:
            raise NodeError(f"there is no series {uid}")
        catalog = JobCatalog(node.engine)
        of_series = catalog.matches_of_series(uid, found["study_instance_uid"])
    matches = [words.show_match(each) for each in of_series]
    row = words.show_series(found)
    if as_json:
        print_json({**row, "matches": matches})
        return
    gate = row["gate"] or {}
    kept = sum(one["file_deleted_at"] is None for one in row["instance_list"])
    told = {
        "instances": f"{row['instances']}, files kept: {kept}",
        "missing": row["missing"] or "",
        "received": f"{when(row['first_received_at'])} to {when(row['last_received_at'])}",
        "findings": "; ".join(gate.get("findings", ())),
        "notes": "; ".join(gate.get("notes", ())),
    }
    print_row(_ONE_SERIES, {**row, **told})
    typer.echo("")
    print_table(_MATCHES, matches)
    print_below(_LOSSES, row["losses"])
    print_below(_EVENTS, row["events"])


@series.command()
def proceed(uid: Uid, config: ConfigOption = None) -> None:
    """Take a series as complete with what is there."""
    _force(uid, Forced.PROCEED, config, "goes on with what is there")


@series.command()
def rerun(uid: Uid, config: ConfigOption = None) -> None:
    """Judge a series again, as a new revision, by the rules in force."""
    _force(uid, Forced.RERUN, config, "judges it again")


@series.command("discard")
def discard_series(uid: Uid, config: ConfigOption = None) -> None:
    """Leave a series alone from now on."""
    _force(uid, Forced.DISCARD, config, "leaves it alone from now on")


def _force(uid: str, what: Forced, config: Path | None, does: str) -> None:
    with look_at_node(config) as node:
        Arrivals(node.engine).force(uid, what)
    say(f"the running node {does}")


@quarantine.command("list")
def list_quarantine(
    state: Annotated[Kept, typer.Option(help="Only instances in this state.")] = "kept",
    series: Annotated[str | None, typer.Option(help="Only instances of this series.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refused instances, the newest first, and whether accept can free them."""
    with look_at_node(config) as node:
        page = SpoolCatalog(node.engine).list_quarantine(
            state=state, series_instance_uid=series, limit=limit, after=after
        )
    obstacle = quarantine_obstacle(node.config)
    print_page(_QUARANTINE, page, lambda row: {**row, "obstacle": obstacle(row)}, as_json=as_json)


@quarantine.command("show")
def show_quarantine(
    number: Number, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """One refused instance, where its file lies, and whether accept can free it."""
    with look_at_node(config) as node:
        row = SpoolCatalog(node.engine).get_quarantine(number)
    if row is None:
        raise NodeError(f"{number} is not in quarantine")
    obstacle = quarantine_obstacle(node.config)(row)
    file = SpoolFolders.of(node.config.data_dir).quarantine / row["file_name"]
    if as_json:
        print_json({**row, "obstacle": obstacle, "path": str(file)})
        return
    told = {
        "from": f"{row['calling_ae_title']} {row['address']}".strip(),
        "file": file if file.exists() else "gone",
        "accept": f"cannot take it: {obstacle}" if obstacle else "takes it in",
    }
    print_row(_REFUSED, {**row, **told})


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
