"""``--json`` is UTF-8 JSON under every locale, whatever files are called; talk never ends a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import FLAT
from tests.support.peers import free_port

LOCALES = {
    "C": {"LANG": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
}
NO_TEXT = b"scan-\xff\xe9.dcm"  # bytes of no encoding that a file system is told to be in
FOREIGN = "\u00e9tude.dcm".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inbox = tmp_path / "in"
    first, second, *_ = FLAT.write(inbox)
    os.rename(os.fsencode(first), os.fsencode(inbox) + b"/" + NO_TEXT)  # noqa: PTH104 - bytes
    os.rename(os.fsencode(second), os.fsencode(inbox) + b"/" + FOREIGN)  # noqa: PTH104
    for name in (b"text-" + NO_TEXT, b"text-" + FOREIGN):
        with open(os.fsencode(inbox) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(b"no DICOM")
    return inbox


def call(folder: Path, locale: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    cleared = {k: v for k, v in os.environ.items() if k != "LANG" and not k.startswith("LC_")}
    return subprocess.run(
        [sys.executable, "-c", "from node.cli import main; main()", *map(str, arguments)],
        cwd=folder.parent,
        env={**cleared, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **LOCALES[locale]},
        capture_output=True,
        check=False,
        timeout=120,
    )


def body_of(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert b"Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.decode("utf-8"))


def names(paths: list[str]) -> set[bytes]:
    return {os.path.basename(path.encode("utf-8", "surrogateescape")) for path in paths}  # noqa: PTH119


@pytest.mark.parametrize("locale", LOCALES)
def test_explain_names_every_file(folder: Path, locale: str) -> None:
    explained = body_of(call(folder, locale, "explain", "in", "--json"))

    assert names(list(explained["not_read"])) == {b"text-" + NO_TEXT, b"text-" + FOREIGN}


def test_send_names_every_file(folder: Path) -> None:
    target = f"127.0.0.1:{free_port()}"

    sent = body_of(call(folder, "C", "send", "in", target, "--json"))

    assert {NO_TEXT, FOREIGN} < names([each["path"] for each in sent])


def test_run_names_every_file_that_it_left_out(folder: Path) -> None:
    done = call(folder, "POSIX", "run", "in", "out", "--json")
    again = call(folder, "POSIX", "run", "in", "out")

    refused = [each["path"] for each in body_of(done)["refused"]]
    assert names(refused) == {b"text-" + NO_TEXT, b"text-" + FOREIGN}
    assert b"Traceback" not in again.stderr
    assert b"FILE LEFT OUT" in again.stdout
