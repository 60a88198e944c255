"""The command line: one module per group of commands.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 wrong use or an
unusable configuration.
"""

from __future__ import annotations

import sys

import typer

from node.cli import (
    deliveries,
    demo,
    explain,
    jobs,
    models,
    network,
    quarantine,
    running,
    sending,
    series,
    serving,
    status,
)
from node.domain.errors import ConfigInvalid, NodeError
from node.observe.log import keep_values_out

app = typer.Typer(
    name="segnode",
    help="An AI node for DICOM networks: series in, DICOM SEG back in the same study.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    serving,
    demo,
    running,
    sending,
    explain,
    models,
    series,
    quarantine,
    jobs,
    deliveries,
    status,
    network,
):
    module.add_to(app)


def main() -> None:
    """Run a command; a failure is one sentence, not a traceback."""
    keep_values_out()
    try:
        app(prog_name="segnode")
    except ConfigInvalid as invalid:
        sys.exit(_say(invalid, 2))
    except NodeError as error:
        sys.exit(_say(error, 1))


def _say(error: NodeError, code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return code
