"""``segnode jobs`` and ``segnode deliveries``: what runs, ran or could not, and where its results are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from node import words
from node.cli.opening import OpenNode, look_at_node, open_node
from node.cli.options import AfterOption, ConfigOption, LimitOption, Number, require_known
from node.cli.printing import (
    JsonOption,
    columns_of,
    print_below,
    print_json,
    print_page,
    print_row,
    say,
    told_stages,
    when,
)
from node.domain.errors import NodeError
from node.domain.job import DeliveryState, JobState, MatchState, Priority
from node.jobs.catalog import JobCatalog
from node.jobs.outbox import Outbox
from node.jobs.store import JobStore
from node.pipeline.forms.form import forms_taken


def _priority(value: object) -> str:
    return Priority(value).name.lower() if isinstance(value, int) else ""


def _inputs(inputs: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{role}: {given['series_instance_uid']} ({len(given['instances'])} instances)"
        for role, given in inputs.items()
    )


_JOBS = columns_of(
    "id state model priority attempts CREATED=created_at STUDY=study_instance_uid WHY=sentence",
    priority=_priority,
)
_JOB = columns_of(
    "job=id state why=sentence reasons model inputs study=study_instance_uid revision replaces"
    " priority attempts created=created_at started=started_at finished=finished_at stages",
    reasons=", ".join,
    inputs=_inputs,
    priority=_priority,
    stages=told_stages,
)
_MATCHES = columns_of("rule state revision JOB=job_id SERIES=series_key WHY=sentence")
_RESULTS = columns_of(
    "RESULT=id form state SIZE=size_bytes INSTANCE=sop_instance_uid FILE=file_name"
)
_DELIVERIES_OF_JOB = columns_of("DELIVERY=id destination state attempts SENT=sent_at WHY=sentence")
_DELIVERIES = columns_of(
    "id destination state attempts SINCE=created_at NEXT=next_at SENT=sent_at RESULT=result_id"
    " model STUDY=study_instance_uid WHY=sentence",
    destination=lambda name: str(name) or "(sender unknown)",
    next_at=lambda at: when(at) if at else "",
)

jobs = typer.Typer(no_args_is_help=True, help="What runs, what ran, and what could not.")
deliveries = typer.Typer(no_args_is_help=True, help="Results on their way to destinations.")


@jobs.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="Only those in this state; of --matches: a match state.")
    ] = None,
    matches: Annotated[
        bool, typer.Option("--matches", help="What each rule decided, also without a job.")
    ] = False,
    study: Annotated[str | None, typer.Option(help="Only jobs of this study.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Jobs, the newest first; with --matches also what is held, parked or unmatched."""
    known = [one.value for one in (MatchState if matches else JobState)]
    if state is not None and state not in known:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(known)}", param_hint="--state")
    if matches and study is not None:
        raise typer.BadParameter("goes with jobs, not with --matches", param_hint="--study")
    with look_at_node(config) as node:
        catalog = JobCatalog(node.engine)
        if matches:
            page = catalog.list_matches(state=state, limit=limit, after=after)
            print_page(_MATCHES, page, words.show_match, as_json=as_json)
        else:
            page = catalog.list_jobs(
                state=state, study_instance_uid=study, limit=limit, after=after
            )
            print_page(_JOBS, page, words.show_job, as_json=as_json)


@jobs.command("show")
def show_job(number: Number, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One job: what it reads, how long each stage took, what it made and where that went."""
    with look_at_node(config) as node:
        found = JobCatalog(node.engine).get_job(number)
    if found is None:
        raise NodeError(f"there is no job {number}")
    row = words.show_job(found)
    if as_json:
        print_json(row)
        return
    print_row(_JOB, row)
    print_below(_MATCHES, row["matches"])
    print_below(_RESULTS, row["results"])
    print_below(_DELIVERIES_OF_JOB, row["deliveries"])


@jobs.command("retry")
def retry_job(number: Number, config: ConfigOption = None) -> None:
    """Queue a parked, failed or cancelled job again."""
    with look_at_node(config) as node:
        JobStore(node.engine).retry(number)
    say(f"job {number} is queued")


@jobs.command()
def accept(number: Number, config: ConfigOption = None) -> None:
    """Take a result that is implausible all the same: it is delivered, with its mark."""
    with look_at_node(config) as node:
        JobStore(node.engine).accept(number)
    say(f"job {number} is done, its result is delivered")


@jobs.command()
def cancel(number: Number, config: ConfigOption = None) -> None:
    """End a job that is not done."""
    with look_at_node(config) as node:
        JobStore(node.engine).cancel(number)
    say(f"job {number} is cancelled")


@deliveries.command("list")
def list_deliveries(
    state: Annotated[
        DeliveryState | None, typer.Option(help="Only deliveries in this state.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option(help="Only deliveries to this destination.")
    ] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliveries, the newest first."""
    with look_at_node(config) as node:
        page = JobCatalog(node.engine).list_deliveries(
            state=state.value if state else None, destination=destination, limit=limit, after=after
        )
    print_page(_DELIVERIES, page, words.show_delivery, as_json=as_json)


@deliveries.command("retry")
def retry_deliveries(
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
            require_known(
                "destination", destination, sorted(node.plan.destinations), "--destination"
            )
            count = outbox.retry_destination(destination)
            say(f"{count} deliveries to {destination} are due now")


@deliveries.command()
def send(
    result: Annotated[int, typer.Argument(metavar="RESULT", help="Number of the result.")],
    to: Annotated[str, typer.Option(help="Name of a destination.")],
    config: ConfigOption = None,
) -> None:
    """Send a result to one more destination, or once more to one that has it."""
    with open_node(config) as node:
        require_known("destination", to, sorted(node.plan.destinations), "--to")
        _outbox(node).send(result, to)
    say(f"result {result} goes to {to}")


def _outbox(node: OpenNode) -> Outbox:
    return Outbox(node.engine, node.plan.config.digest, taken=forms_taken(node.plan.destinations))
