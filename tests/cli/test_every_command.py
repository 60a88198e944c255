"""Every command of the tree, called in ways that cannot work: an exit code and a sentence, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answer, Segnode
from tests.cli.test_documentation import COMMANDS
from tests.support.peers import free_port

# of arguments that a command needs: something of the right kind that is not there
STAND_IN = {
    "UID": "1.2.3",
    "ID": "7",
    "RESULT": "7",
    "NAME": "no_model",
    "FOLDER": "no_folder",
    "PATH": "no_folder",
    "HOST:PORT": "nobody.invalid:104",
    "OUT": "out",
    "[ID]": "7",
    "INPUT": "no_folder",
    "OUTPUT": "out",
    "META.json": "no_meta.json",
}
OPTIONS = {
    "deliveries send": ["--to", "nowhere"],
    "models optimize": ["--sample", "no_folder"],
}
# what they need is not a node
WITHOUT_CONFIG = {"demo"}
RUNS_FOR_EVER = {"serve", "demo"}
RULES = "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue, send: []}]\n"


def arguments(name: str) -> list[str]:
    """A call of a command with all that it must be given."""
    command: Any = COMMANDS[name]
    given = name.split()
    for parameter in command.params:
        if parameter.param_type_name == "argument" and (
            parameter.required or name == "deliveries retry"
        ):
            given.append(STAND_IN[(parameter.metavar or parameter.name.upper()).rstrip(".")])
        elif parameter.required and name not in OPTIONS:
            raise AssertionError(f"{name} needs {parameter.opts}: put it into OPTIONS")
    return [*given, *OPTIONS.get(name, [])]


def is_told(answer: Answer) -> bool:
    """Whether what went wrong is said in a few lines."""
    text = answer.err + answer.out
    assert "Traceback" not in text
    return answer.code in (1, 2) and bool(answer.err.strip())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does(segnode: Segnode, name: str) -> None:
    answer = segnode(*name.split(), "--help")

    assert answer.code == 0
    assert f"Usage: segnode {name}" in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_there_is_not_is_wrong_use(segnode: Segnode, name: str) -> None:
    answer = segnode(*arguments(name), "--no-such-option")

    assert (answer.code, is_told(answer)) == (2, True)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_CONFIG))
def test_a_configuration_that_is_not_there_is_one_sentence(segnode: Segnode, name: str) -> None:
    answer = segnode(*arguments(name), "--config", "nowhere.yaml")

    assert is_told(answer)
    if "no_folder" not in arguments(name) and name != "send":
        assert "nowhere.yaml" in answer.err


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - RUNS_FOR_EVER))
@pytest.mark.parametrize("database", ["", "postgresql+psycopg://nobody@127.0.0.1:{port}/segnode"])
def test_without_a_node_or_its_database_nothing_breaks(
    segnode: Segnode, tmp_path: Path, name: str, database: str
) -> None:
    text = RULES + f"data_dir: {tmp_path / 'data'}\n"
    if database:
        text += f"database: {database.format(port=free_port())}\n"
    (tmp_path / "node.yaml").write_text(text)

    answer = segnode(*arguments(name), "--config", tmp_path / "node.yaml")

    assert "Traceback" not in answer.err + answer.out
    assert answer.code in (0, 1, 2)
    assert answer.code == 0 or answer.err.strip() or answer.out.strip()
    assert len(answer.err.splitlines()) < 20


def test_a_host_without_an_address_is_told(segnode: Segnode, tmp_path: Path) -> None:
    from tests.support.phantoms import Phantom

    Phantom(shape=(2, 8, 8)).write(tmp_path / "ct")

    answer = segnode("send", tmp_path / "ct", "nobody.invalid:104")

    assert answer.code == 1
    assert "no address" in answer.out
