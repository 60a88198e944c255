"""The command line: one module per group of commands, imported when one of its commands is called.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 wrong use or an
unusable configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pkgutil import resolve_name

import typer

from node.cli.printing import speak_in_any_locale
from node.domain.errors import ConfigInvalid, CursorInvalid, NodeError, SeriesUnusable

# command, or group of commands -> where it stands, in the order of --help
COMMANDS = {
    "serve": "serving:serve",
    "check-config": "serving:check_config",
    "demo": "demo:demo",
    "run": "running:run",
    "send": "sending:send",
    "explain": "explain:explain",
    "models": "models:models",
    "series": "arrivals:series",
    "quarantine": "arrivals:quarantine",
    "jobs": "jobs:jobs",
    "deliveries": "jobs:deliveries",
    "status": "status:status",
    "doctor": "doctor:doctor",
    "conformance": "conformance:conformance",
}
# pydicom takes a good part of a second to import: who reads no DICOM need not wait for it
_READ_NO_HEADER = frozenset({"models"})


def app_of(commands: Iterable[str] = COMMANDS) -> typer.Typer:
    """The application with these commands."""
    app = typer.Typer(
        name="segnode", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback(
        help="An AI node for DICOM networks: series in, DICOM SEG back in the same study."
    )(lambda: None)
    for name in commands:
        command = resolve_name(f"node.cli.{COMMANDS[name]}")
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Run a command; a failure is one sentence, not a traceback."""
    speak_in_any_locale()
    called = sys.argv[1] if len(sys.argv) > 1 else ""
    if called not in _READ_NO_HEADER:
        import_module("node.observe.log").keep_values_out()
    try:
        app_of([called] if called in COMMANDS else COMMANDS)(prog_name="segnode")
    except (ConfigInvalid, CursorInvalid) as invalid:
        sys.exit(_say(invalid, 2))
    except SeriesUnusable as unusable:
        tell_all = import_module("node.words").tell_all
        sys.exit(_say(NodeError(tell_all(unusable.reasons)), 1))
    except NodeError as error:
        sys.exit(_say(error, 1))


def _say(error: NodeError, code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return code
