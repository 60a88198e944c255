"""Promise: a runner kind is one file in ``node/infer`` and one line in its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY, Command, copy_of_package
from tests.support.phantoms import Phantom

CHEST = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5))
KIND = '''
"""Runner kind ``edges``: where neighbours differ."""

from __future__ import annotations

import os
from typing import ClassVar, Literal

from node.infer.runner_part import RunnerPart


class EdgesPart(RunnerPart):
    """``above``: the least difference."""

    REVISION: ClassVar[int] = 1
    WORKER: ClassVar[str] = "node.infer.edges:run"

    kind: Literal["edges"]
    entry: str = "rows"
    above: float = 100.0

    def mistakes(self, file, folder):
        if self.entry != "rows":
            yield "runner.entry", f"there are no edges along {self.entry}"

    def shortcomings(self):
        if "NO_EDGES" in os.environ:
            yield "this machine has no edges"


def run(spec, inputs, context, report):
    import numpy as np

    from node.infer.run_context import ModelOutput, read_volumes

    volume = read_volumes(spec, inputs, report).volumes[spec.grid_role]
    difference = np.abs(np.diff(volume.array.astype(np.int32), axis=1, prepend=0))
    difference[:, 0] = 0
    labels = (difference > spec.runner.above).astype(np.uint8)
    return ModelOutput(labels=labels, ran={"edges": spec.runner.entry})
'''


@pytest.fixture
def segnode(tmp_path: Path) -> Command:
    """A copy of the package with one file and one line more, and a rule on a model of the new kind."""
    package = copy_of_package(tmp_path / "package")
    (package / "node" / "infer" / "edges.py").write_text(KIND)
    table = package / "node" / "infer" / "kinds.py"
    line = '    "container": ContainerPart,\n'
    text = table.read_text().replace(line, f'{line}    "edges": EdgesPart,\n')
    own = "from node.infer.edges import EdgesPart\n"
    table.write_text(text.replace("from node.infer.python", f"{own}from node.infer.python", 1))
    probe = REPOSITORY / "tests" / "support" / "models_probe" / "probe"
    folder = tmp_path / "models" / "edgy"
    folder.mkdir(parents=True)
    for name in ("labels.csv", "README.md"):
        (folder / name).write_bytes((probe / name).read_bytes())
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": "edgy", "send": []}
    content = {"data_dir": "data", "models_dirs": ["models"], "rules": [rule]}
    (tmp_path / "node.yaml").write_text(json.dumps(content))
    write_model(tmp_path, above=200.0)
    return Command(folder=tmp_path, package=package)


def write_model(tmp_path: Path, **runner: object) -> None:
    content = {
        "name": "edgy",
        "version": "1",
        "title": "Edges",
        "inputs": {"image": {"accepts": {"Modality": "CT"}}},
        "runner": {"kind": "edges", **runner},
    }
    (tmp_path / "models" / "edgy" / "model.yaml").write_text(json.dumps(content))


def test_its_mistakes_are_told_with_their_path(segnode: Command, tmp_path: Path) -> None:
    write_model(tmp_path, abov=3, entry="columns")
    unknown = segnode("models", "check", "models/edgy")
    write_model(tmp_path, entry="columns")
    wrong = segnode("check-config", "node.yaml")

    assert (unknown.code, unknown.err) == (
        2,
        "models/edgy/model.yaml: runner.abov: unknown key; did you mean above?\n",
    )
    assert wrong.code == 2
    assert (
        "rules.0.run: model edgy cannot be used: models/edgy/model.yaml: runner.entry: there are no"
        " edges along columns"
    ) in wrong.err


def test_what_it_lacks_is_told_before_a_job_fails(segnode: Command) -> None:
    checked = segnode("check-config", "node.yaml", NO_EDGES="1")
    checks = segnode("doctor", "--config", "node.yaml", "--json", NO_EDGES="1").json

    assert checked.err == "its jobs would fail: edgy: this machine has no edges\n"
    assert {row["name"]: row["sentence"] for row in checks}["model edgy"] == (
        "this machine has no edges"
    )


def test_the_worker_runs_it(segnode: Command, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")

    tried = segnode("models", "check", "edgy", "--config", "node.yaml")
    ran = segnode("run", "in", "out", "--config", "node.yaml", "--json")

    assert tried.out.endswith("tried on a phantom: Bright\n")
    assert ran.code == 0, ran.err
    (one,) = ran.json["outcomes"]
    assert (tmp_path / "out" / CHEST.uid("series") / "edgy.seg.dcm").is_file()
    assert one["volumes_ml"]["Bright"] > 0
