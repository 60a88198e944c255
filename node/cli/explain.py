"""``segnode explain``: which rules would fire on some files, clause by clause, and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import ConfigOption, require_known
from node.cli.printing import JsonOption, plain, print_json
from node.domain.peers import Peer
from node.domain.reasons import codes_of
from node.dryrun.inspect_folder import (
    FolderFinding,
    RuleFinding,
    SeriesFinding,
    SetFinding,
    inspect_folder,
)
from node.pipeline.build import Plan, plan
from node.route.conditions import Truth
from node.words import tell, tell_all


def explain(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, or one file.")],
    sender: Annotated[
        str | None, typer.Option("--from", help="Judge as if this peer had sent it.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """For each series and rule, say of every clause whether it is true, false or unknown, and why."""
    current = plan(config)
    with warnings.catch_warnings():
        # what a malformed value is worth is said clause by clause
        warnings.simplefilter("ignore", UserWarning)
        finding = inspect_folder(current, path, _peer(current, sender))
    if as_json:
        print_json(_as_json(finding))
        return
    for line in _lines(finding):
        typer.echo(plain(line))


def _peer(current: Plan, name: str | None) -> Peer | None:
    if name is None:
        return None
    require_known("peer", name, current.config.peers, "--from")
    return current.config.peers[name]


def _lines(finding: FolderFinding) -> Iterator[str]:
    for series in finding.series:
        yield from _series_lines(series)
        yield ""
    for each in finding.sets:
        yield from _set_lines(each)
    for path, reason in finding.not_read.items():
        yield f"not read: {path}: {reason}"
    if not finding.series and not finding.not_read:
        yield "no DICOM instance was found"
    elif not finding.series:
        yield f"no instance would be taken: all {len(finding.not_read)} files are refused"


def _series_lines(series: SeriesFinding) -> Iterator[str]:
    yield f"series {series.series_instance_uid}"
    yield f"  study {series.study_instance_uid}"
    others = f", {series.others} that are no input" if series.others else ""
    yield f"  {series.modality or 'no Modality'}, {series.inputs} images{others}"
    if not series.inputs:
        yield "  not an input: no grayscale images of a patient, nothing for a model"
        return
    for name, value in series.derived.items():
        yield f"  {name}: {value}"
    for finding in series.findings:
        yield f"  geometry: {tell(finding)}"
    for note in series.notes:
        yield f"  noted: {tell(note)}"
    for reason in series.held:
        yield f"  held: {tell(reason)}"
    for rule in series.rules:
        yield from (f"  {line}" for line in rule.explanation.lines())
        yield f"    {_verdict(rule)}"
    for explanation in series.roles.values():
        yield from (f"  {line}" for line in explanation.lines())


def _verdict(rule: RuleFinding) -> str:
    if rule.would_run:
        return f"=> runs {rule.model}, result to {_names(rule.destinations)}"
    if rule.explanation.truth is Truth.TRUE and rule.held:
        return "=> held: waits for a person; segnode series proceed takes what is there"
    if rule.explanation.truth is Truth.TRUE:
        return f"=> parked: {tell_all(rule.reasons)}"
    return "=> does not fire"


def _set_lines(each: SetFinding) -> Iterator[str]:
    yield f"study {each.study_instance_uid}, rule {each.rule}"
    for role, uid in each.roles.items():
        yield f"  role {role}: {uid}"
    if each.would_run:
        yield f"  => runs {each.model}, result to {_names(each.destinations)}"
    else:
        yield f"  => does not run: {_why_not(each)}"


def _why_not(each: SetFinding) -> str:
    held = [f"series {uid} is held: {tell_all(reasons)}" for uid, reasons in each.held.items()]
    return "; ".join(filter(None, [*held, tell_all(each.reasons)]))


def _names(destinations: Sequence[str]) -> str:
    if not destinations:
        return "nobody: it is kept in the node"
    return ", ".join(name or "the sender, who is unknown here" for name in destinations)


def _as_json(finding: FolderFinding) -> dict[str, Any]:
    return {
        "series": [_series_json(series) for series in finding.series],
        "studies": [
            {
                "study_instance_uid": each.study_instance_uid,
                "rule": each.rule,
                "model": each.model,
                "roles": dict(each.roles),
                "would_run": each.would_run,
                "sentence": _why_not(each),
                "destinations": list(each.destinations),
            }
            for each in finding.sets
        ],
        "not_read": dict(finding.not_read),
    }


def _series_json(series: SeriesFinding) -> dict[str, Any]:
    return {
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": series.study_instance_uid,
        "modality": series.modality,
        "inputs": series.inputs,
        "others": series.others,
        "derived": dict(series.derived),
        "held": {
            "reasons": codes_of(series.held),
            "sentence": tell_all(series.held),
        },
        "gate": {
            "findings": [tell(each) for each in series.findings],
            "notes": [tell(each) for each in series.notes],
        },
        "rules": [
            {
                **rule.explanation.as_json(values=True),
                "model": rule.model,
                "would_run": rule.would_run,
                "refusals": [tell(each) for each in rule.reasons],
                "reasons": codes_of(rule.reasons),
                "destinations": list(rule.destinations),
            }
            for rule in series.rules
        ],
        "roles": [each.as_json(values=True) for each in series.roles.values()],
    }
