"""config/node.yaml and the values that it is read into say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from node.config import load, parse
from node.config.reading import Reader, is_settings, keys_of, members
from node.config.values import FileKeys
from node.config.yaml_text import read_yaml
from node.deliver import all_kinds
from node.deliver.destination import Destination
from node.domain.peers import Peer
from node.notify import KINDS, kind_of
from node.notify.notifier import Notifier
from node.route.compiling import mistakes_in

REPOSITORY = Path(__file__).resolve().parents[2]
NODE_YAML = REPOSITORY / "config" / "node.yaml"
EXAMPLES = sorted((REPOSITORY / "config" / "rules").glob("*.yaml"))
RULE_LANGUAGE = re.compile(r"rules\.\*\.(when|study)\.")


def schema_keys(settings: type, at: str = "") -> set[str]:
    found: set[str] = set()
    for name, annotation in keys_of(settings).items():
        found |= {f"{at}{name}"} | keys_below(annotation, f"{at}{name}.", entry=not at)
    return found


def keys_below(annotation: Any, at: str, *, entry: bool) -> set[str]:
    found: set[str] = set()
    for member in members(annotation):
        if get_origin(member) is not None:
            below = [each for each in get_args(member) if is_settings(each)]
            found |= {key for each in below for key in keys_below(each, f"{at}*.", entry=entry)}
        elif member is Destination:
            found |= {key for kind in all_kinds().values() for key in schema_keys(kind, at)}
        elif member is Notifier:
            found |= {key for kind in KINDS for key in schema_keys(kind_of(kind), at)}
        elif is_settings(member) and (entry or member is not Peer):
            found |= schema_keys(member, at)
    return found


def file_keys(value: Any, at: tuple[str, ...] = ()) -> set[str]:
    found: set[str] = set()
    if isinstance(value, dict):
        named = (len(at) == 1 and at[0] in ("peers", "destinations", "notify")) or at[-2:] == (
            "auth",
            "users",
        )
        for key, each in value.items():
            here = (*at, "*" if named else key)
            found |= ({".".join(here)} if not named else set()) | file_keys(each, here)
    if isinstance(value, list):
        for each in value:
            found |= file_keys(each, (*at, "*")) if isinstance(each, dict) else set()
    return {key for key in found if not RULE_LANGUAGE.match(key)}


def all_examples() -> str:
    """The file with its example lines in use; the defaults that they replace are taken out."""
    text = NODE_YAML.read_text()
    text = re.sub(
        r"^ *(users|peers|destinations|notify|folders): (\{\}|\[\]).*\n", "", text, flags=re.M
    )
    return re.sub(r"^#(?! |$)|^#(?=  )", "", text, flags=re.M)


def test_node_yaml_as_it_stands_is_the_default() -> None:
    in_file = load(NODE_YAML, {})

    assert (
        in_file.digest
        == parse(
            "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue}]", {}, base=NODE_YAML.parent
        ).digest
    )


def test_no_file_differs_from_node_yaml_in_the_data_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    without_file = load(None, {}, check_rules=mistakes_in)

    assert without_file == parse(NODE_YAML.read_text(), {}, base=tmp_path)


def test_node_yaml_names_every_key_of_the_schema_and_no_other() -> None:
    content = read_yaml(all_examples())

    assert file_keys(content) == schema_keys(FileKeys)


def test_every_example_of_node_yaml_can_be_used(tmp_path: Path) -> None:
    text = re.sub(
        r"^( *)(password_file|passcode_file|token_file|secret_file|database_file):.*\n",
        "",
        all_examples(),
        flags=re.M,
    )
    reader = Reader(
        {
            **{"PACS_PASSWORD": "a", "PACS_TOKEN": "b", "PACS_PASSCODE": "e"},
            **{"ORTHANC_PASSWORD": "c", "ORTHANC_TOKEN": "d", "SEGNODE_PASSCODE": "f"},
            **{"SEGNODE_WEBHOOK": "whsec_c2VjcmV0", "MAIL_PASSWORD": "g"},
        },
        tmp_path,
    )

    reader.read(read_yaml(text))

    kinds_of_secret = {
        "web.auth.users": "has users but kind is none: say kind: basic or token",
        "destinations.orthanc.auth.token_env": (
            "kind asks for a password: use password_env or password_file"
        ),
    }
    assert dict(reader.mistakes) == kinds_of_secret


def test_every_key_states_its_default_or_that_it_is_required() -> None:
    last_names = {key.rpartition(".")[2] for key in schema_keys(FileKeys)}

    silent = [
        line
        for line in NODE_YAML.read_text().splitlines()
        if (key := re.match(r"#? *(?:- )?(\w+):", line))
        and not line.startswith("# ")
        and key[1] in last_names
        and not re.search(r"# (default|required)", line)
    ]

    assert silent == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_rule_examples_load(path: Path) -> None:
    config = load(path, {}, check_rules=mistakes_in)

    assert config.rules
