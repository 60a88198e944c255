"""``segnode run``: a folder in, results out, no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from node.batch.output_folder import DEFAULT_LAYOUT, LAYOUT_FIELDS
from node.batch.report import RunOutcome, RunReport
from node.batch.request import DEFAULT_MODEL, Parameter, RunRequest
from node.batch.run import run_folder
from node.batch.take_in import NO_DICOM, LeftOut
from node.cli.options import ConfigOption, ModelsDirOption
from node.cli.printing import JsonOption, columns_of, print_below, print_json, print_table, say
from node.domain.delivery import DEFAULT_FORMS
from node.domain.errors import ConfigInvalid
from node.pipeline.forms import FORMS

_COLUMNS = columns_of(
    "SERIES=series_instance_uid modality instances rule state TIME=seconds RESULT_OR_REASON=what"
)
_FILES = columns_of("FILE_LEFT_OUT=path reason")
_FIELDS = ", ".join(f"{{{name}}}" for name in LAYOUT_FIELDS)


def run(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of DICOM files.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="Where results go, and .segnode with the state."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Run this model on what it accepts; repeat for more. Default {DEFAULT_MODEL}."
        ),
    ] = None,
    models_dir: ModelsDirOption = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL.]NAME=VALUE",
            help="Hand this parameter to the models, such as variant=3mm; repeat for more.",
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option(help=f"Where below OUTPUT a result lies, of {_FIELDS}.")
    ] = DEFAULT_LAYOUT,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            "--format",
            help=f"What results are written as, of {', '.join(FORMS)}; repeat for more. Default seg.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Run models here: cpu, cuda, cuda:1; repeat to spread jobs."),
    ] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(help="A licence without commercial use that you have read and accept."),
    ] = None,
    proceed: Annotated[
        bool,
        typer.Option(
            "--proceed",
            help="Run on series of which images were refused, too; their results say so.",
        ),
    ] = False,
    accept_implausible: Annotated[
        bool,
        typer.Option(
            "--accept-implausible",
            help="Write results too that no patient can have; they are marked.",
        ),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run models over a folder: OUTPUT/{SeriesInstanceUID}/{model}.seg.dcm. Starts again where it was."""
    report = run_folder(
        RunRequest(
            source=source,
            output=output,
            models=[name for names in model or [] for name in names.split(",") if name],
            models_dirs=models_dir or [],
            accept_licences=accept_licence or [],
            config=config,
            parameters=_parameters(parameter or []),
            layout=layout,
            forms=tuple(dict.fromkeys(form or DEFAULT_FORMS)),
            devices=device or [],
            proceed=proceed,
            accepts_implausible=accept_implausible,
        ),
        say,
    )
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    if not report.series:
        say(_nothing_taken(report, source))
    if not report.is_good:
        raise typer.Exit(1)


def _nothing_taken(report: RunReport, source: Path) -> str:
    refused = [one for one in report.files.refused if not one.reason.startswith(NO_DICOM)]
    if refused:
        return f"no series in {source}: all {len(refused)} DICOM files were refused"
    return f"no DICOM instance was found in {source}"


def _parameters(given: Sequence[str]) -> Mapping[str, Parameter]:
    """``NAME=VALUE`` by name; a value is read as YAML reads it: 3, 0.5, true, [liver, spleen], 3mm."""
    found: dict[str, Parameter] = {}
    for each in given:
        name, equals, text = each.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = None
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (name and equals and (is_list or isinstance(value, str | int | float))):
            raise ConfigInvalid(
                [("--set", f"{each!r} is not NAME=VALUE, with a text, a number, true or false")]
            )
        found[name] = value
    return found


def _print(report: RunReport) -> None:
    facts = {row["series_instance_uid"]: row for row in report.series}
    rows = [
        {**facts.get(one.series_instance_uid, {}), **asdict(one), "what": _what(one)}
        for one in report.outcomes
    ]
    print_table(_COLUMNS, rows)
    left_out = [*report.files.refused, *report.files.duplicates, *report.files.ignored]
    print_below(_FILES, [_left_out(one) for one in left_out])
    made = [one for one in report.outcomes if one.files]
    say(f"{len(report.series)} series, {len(made)} with a result; {report.seconds:.1f} s in all")


def _what(outcome: RunOutcome) -> str:
    files = ", ".join(str(path) for _, path in outcome.files)
    if not files:
        return outcome.sentence
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items())
    return "; ".join(filter(None, [f"{files}: {found}" if found else files, outcome.sentence]))


def _as_json(report: RunReport) -> dict[str, Any]:
    return {
        "series": [dict(row) for row in report.series],
        "outcomes": [
            {
                "series_instance_uid": one.series_instance_uid,
                "rule": one.rule,
                "model": one.model,
                "parameters": dict(one.parameters),
                "state": one.state,
                "sentence": one.sentence,
                "reasons": list(one.reasons),
                "file": next((path for path in _paths(one, "seg")), None),
                "nifti": _paths(one, "nifti"),
                "files": [{"form": form, "path": str(path)} for form, path in one.files],
                "volumes_ml": dict(one.volumes_ml),
                "seconds": one.seconds,
                "stages": dict(one.stages),
                "is_failure": one.is_failure,
            }
            for one in report.outcomes
        ],
        "refused": [
            {**_left_out(one), "dimse_status": one.dimse_status} for one in report.files.refused
        ],
        "duplicates": [_left_out(one) for one in report.files.duplicates],
        "ignored": [_left_out(one) for one in report.files.ignored],
        "seconds": round(report.seconds, 3),
    }


def _paths(outcome: RunOutcome, wanted: str) -> list[str]:
    return [str(path) for form, path in outcome.files if form == wanted]


def _left_out(one: LeftOut) -> dict[str, Any]:
    return {"path": str(one.path), "reason": one.reason}
