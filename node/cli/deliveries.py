"""``segnode deliveries``: what waits for which destination, since when and why."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.opening import OpenNode, open_node
from node.cli.options import ConfigOption
from node.cli.printing import Column, JsonOption, print_page, say, shown, when
from node.cli.series import LimitOption
from node.domain.job import DeliveryState
from node.jobs.catalog import JobCatalog
from node.jobs.outbox import Outbox
from node.pipeline.forms.form import forms_taken
from node.words import show_delivery

_COLUMNS = (
    Column("ID", "id"),
    Column("DESTINATION", "destination", lambda name: str(name) or "(sender unknown)"),
    Column("STATE", "state"),
    Column("ATTEMPTS", "attempts"),
    Column("SINCE", "created_at", when),
    Column("NEXT", "next_at", lambda at: when(at) if at else ""),
    Column("SENT", "sent_at", when),
    Column("RESULT", "result_id"),
    Column("MODEL", "model"),
    Column("STUDY", "study_instance_uid"),
    Column("WHY", "sentence"),
)

commands = typer.Typer(no_args_is_help=True, help="Results on their way to destinations.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(commands, name="deliveries")


@commands.command("list")
def list_deliveries(
    state: Annotated[
        DeliveryState | None, typer.Option(help="Only deliveries in this state.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option(help="Only deliveries to this destination.")
    ] = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliveries, the newest first."""
    with open_node(config) as node:
        page = JobCatalog(node.engine).list_deliveries(
            state=state.value if state else None, destination=destination, limit=limit
        )
    print_page(_COLUMNS, shown(page, show_delivery), as_json=as_json)


@commands.command()
def retry(
    number: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="Number in the list.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option(help="All that waits for, or is blocked at, this destination.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send again, now: one delivery, or all that waits for a destination."""
    if (number is None) == (destination is None):
        raise typer.BadParameter("give either the ID of a delivery or --destination NAME")
    with open_node(config) as node:
        outbox = _outbox(node)
        if number is not None:
            outbox.retry(number)
            say(f"delivery {number} is due now")
        elif destination is not None:
            _require_destination(node, destination, "--destination")
            count = outbox.retry_destination(destination)
            say(f"{count} deliveries to {destination} are due now")


@commands.command()
def send(
    result: Annotated[int, typer.Argument(metavar="RESULT", help="Number of the result.")],
    to: Annotated[str, typer.Option(help="Name of a destination.")],
    config: ConfigOption = None,
) -> None:
    """Send a result to one more destination, or once more to one that has it."""
    with open_node(config) as node:
        _require_destination(node, to, "--to")
        _outbox(node).send(result, to)
    say(f"result {result} goes to {to}")


def _outbox(node: OpenNode) -> Outbox:
    return Outbox(node.engine, node.plan.config.digest, taken=forms_taken(node.plan.destinations))


def _require_destination(node: OpenNode, name: str, option: str) -> None:
    known = sorted(node.plan.destinations)
    if name not in known:
        there_are = ", ".join(known) or "none is configured"
        raise typer.BadParameter(
            f"no destination {name!r}; there are: {there_are}", param_hint=option
        )
