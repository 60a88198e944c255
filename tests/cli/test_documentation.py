"""The documents that speak of the command line say what the code does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from node.cli import app_of
from tests.cli.conftest import Segnode

DOCS = Path(__file__).resolve().parents[2] / "docs"
# serve answers with log lines, check-config with a sentence or mistakes, the others act
NOT_READING = {
    "serve", "series proceed", "series rerun", "series discard",
    "quarantine accept", "quarantine discard", "jobs retry", "jobs cancel", "jobs accept",
    "deliveries retry", "deliveries send", "models pull", "models optimize",
}  # fmt: skip


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in (group or typer.main.get_command(app_of())).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands())


def options(command: Any) -> set[str]:
    named = (option for parameter in command.params for option in parameter.opts)
    return {option for option in named if option.startswith("--")} - {"--help"}


def test_conformance_document_is_what_the_command_prints(segnode: Segnode) -> None:
    printed = segnode("conformance")

    assert (DOCS / "conformance.md").read_text(encoding="utf-8") == printed.out


def test_conformance_as_json_names_the_same_syntaxes_as_the_scp(segnode: Segnode) -> None:
    from node.receive.syntaxes import decodable_syntaxes

    statement = segnode("conformance", "--json").json

    listed = [syntax["uid"] for syntax in statement["scp"]["transfer_syntaxes"]]
    assert listed == list(decodable_syntaxes())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_its_options_stand_in_the_manual(name: str) -> None:
    manual = (DOCS / "command-line.md").read_text(encoding="utf-8")

    entries = [line for line in manual.splitlines() if line.startswith(f"### segnode {name}")]

    assert len(entries) == 1
    section = manual.split(entries[0] + "\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
    missing = {option for option in options(COMMANDS[name]) if f"`{option}`" not in section}
    assert missing - {"--config", "--json"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_takes_config_and_each_reading_one_json(name: str) -> None:
    given = options(COMMANDS[name])

    # the demo writes a configuration of its own
    assert "--config" in given or name == "demo"
    assert ("--json" in given) == (name not in NOT_READING)
