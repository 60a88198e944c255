"""A destination kind is one class and one line in ``KINDS``: here is one, and all that follows from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import ClassVar, Literal

import pytest
from pydicom import dcmread

from node.deliver import KINDS, all_kinds, kind_of
from node.deliver.destination import Destination, Probe
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.domain.settings import Mistake, Secret, Timeout
from node.pipeline.deliver import Deliverer, delivery_deps
from node.pipeline.signals import Signals
from tests.cli.conftest import CHEST, Segnode
from tests.cli.conftest import segnode as segnode  # a fixture
from tests.support.memory_node import eventually
from tests.support.node_in_process import SharedWorker, node_in_process

DOCS = Path(__file__).resolve().parents[2] / "docs"
RULES = "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue, send: [echo]}]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoFile(Destination):
    """A text file that gets a line per object."""

    needs: ClassVar[str] = "`file`, a name that ends in .txt"
    does: ClassVar[str] = "writes a line per object"
    service: ClassVar[str] = "one text file"
    carries_any_file: ClassVar[bool] = True

    kind: Literal["echo-file"] = "echo-file"
    file: Path
    signature: Secret | None = None
    write_timeout_s: Timeout = 7.5

    def mistakes(self) -> Iterator[Mistake]:
        if self.file.suffix != ".txt":
            yield "file", "takes a name that ends in .txt"

    def send(self, deliverable: DeliverableObject) -> Outcome:
        signature = self.signature.value if self.signature else ""
        with self.file.open("a") as file:
            file.write(f"{deliverable.sop_instance_uid} {signature}\n")
        return Outcome(kind=DeliveryClass.SENT, sentence="echoed")

    def probe(self) -> Probe:
        if os.access(self.file.parent, os.W_OK):
            return Probe.good(f"{self.file} can be written")
        return Probe.bad(f"{self.file} has no folder")

    @classmethod
    def answers(cls) -> dict[str, dict[str, Outcome]]:
        return {"line": {"written": Outcome(kind=DeliveryClass.SENT, sentence="echoed")}}


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "echo-file", f"{__name__}:EchoFile")


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    shared = SharedWorker()
    yield shared
    shared.close()


def test_it_is_configured_with_paths_and_secrets_like_any_other(
    segnode: Segnode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNATURE", "hidden")
    config = tmp_path / "node.yaml"
    config.write_text(
        f"{RULES}destinations:\n"
        "  echo: {kind: echo-file, file: echo.txt, signature_env: SIGNATURE}\n"
    )

    checked = segnode("check-config", config)
    doctor = segnode("doctor", "--config", config, "--json")

    assert checked.code == 0, checked.err
    assert "1 destinations" in checked.out
    (check,) = (each for each in doctor.json if each["name"] == "destination echo")
    assert check["health"] == "good"
    assert check["sentence"] == f"{tmp_path / 'echo.txt'} can be written"


@pytest.mark.parametrize(
    ("keys", "path", "sentence"),
    [
        ("", "file", "required, and not given"),
        ("file: 5", "file", "takes text: put it in quotes"),
        ("file: echo.md", "file", "takes a name that ends in .txt"),
        ("file: e.txt, flie: e.txt", "flie", "unknown key; did you mean file?"),
        ("file: e.txt, write_timeout_s: 0", "write_timeout_s", "takes more than 0"),
        ("file: e.txt, signature_env: NOT_SET", "signature_env", "NOT_SET is not set"),
        ("file: e.txt, signature: x", "signature", "use signature_env or signature_file"),
        ("file: e.txt, forms: [nix]", "forms.0", "no form nix; known: "),
        ("file: e.txt, forms: []", "forms", "must not be empty"),
        ("file: e.txt, name: other", "name", "unknown key"),
    ],
)
def test_its_mistakes_are_told_with_their_path(
    segnode: Segnode, tmp_path: Path, keys: str, path: str, sentence: str
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(f"{RULES}destinations: {{echo: {{kind: echo-file, {keys}}}}}\n")

    answer = segnode("check-config", config, "--json")

    ((where, mistake),) = ((each["path"], each["mistake"]) for each in answer.json["mistakes"])
    assert (answer.code, where) == (2, f"destinations.echo.{path}")
    assert sentence in mistake


def test_a_kind_that_is_unknown_is_told_which_there_are(segnode: Segnode, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(f"{RULES}destinations: {{echo: {{kind: echo}}}}\n")

    answer = segnode("check-config", config)

    assert "destinations.echo.kind: takes one of dimse, dicomweb, folder, echo-file" in answer.err


def test_it_stands_in_the_conformance_statement(segnode: Segnode) -> None:
    printed = segnode("conformance").out
    kinds = segnode("conformance", "--json").json["scu"]["kinds"]

    assert "| echo-file | one text file | any file | write 7.5 s |" in printed
    assert "| written | sent | echoed |" in printed
    assert kinds["echo-file"]["timeouts_s"] == {"write": 7.5}


def test_it_stands_in_the_table_of_the_manual(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "| `echo-file` | `file`, a name that ends in .txt | writes a line per object |"
    with_it = _table_of_kinds()
    monkeypatch.delitem(KINDS, "echo-file")

    assert row in with_it
    assert _table_of_kinds() in (DOCS / "configuration.md").read_text(encoding="utf-8")


def _table_of_kinds() -> str:
    rows = [f"| `{name}` | {kind.needs} | {kind.does} |" for name, kind in all_kinds().items()]
    return "\n".join(["| kind | needs | does |", "| --- | --- | --- |", *rows, ""])


def test_every_kind_is_called_in_the_file_as_in_the_table() -> None:
    assert {
        name: kind.__dataclass_fields__["kind"].default for name, kind in all_kinds().items()
    } == {name: name for name in KINDS}
    assert kind_of("echo-file") is EchoFile


def test_results_are_delivered_to_it(tmp_path: Path, worker: SharedWorker) -> None:
    CHEST.write(tmp_path / "in")
    echo = tmp_path / "echo.txt"
    config = {
        "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["echo"]}],
        "destinations": {"echo": {"kind": "echo-file", "file": "echo.txt"}},
    }
    with node_in_process(tmp_path, config, worker) as node:
        node.scan(tmp_path / "in")
        node.settle()
        node.work()
        (result,) = node.segmentations()

        sop_instance_uid = dcmread(result, stop_before_pixels=True).SOPInstanceUID

        signals = Signals()
        deliverer = Deliverer(delivery_deps(node.plan, node.engine), owner="deliver")
        loop = Thread(target=deliverer.run, args=(signals, lambda: None))
        loop.start()
        is_sent = eventually(
            lambda: [row["state"] for row in node.api("/deliveries")["items"]] == ["sent"], 20
        )
        signals.stop.set()
        loop.join()

    assert is_sent
    assert echo.read_text().split() == [sop_instance_uid]
