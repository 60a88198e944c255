"""A promise of CONTRIBUTING: a result form is one file and one line.

A copy of the package gets both, and the copy is what runs: configuration, the road into a folder,
``segnode run``.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CHEST

REPOSITORY = Path(__file__).parents[2]

FILE = '''
"""Volumes of what was found, as a table for a spreadsheet."""

import numpy as np

from node.domain.errors import ResultRefused
from node.domain.result import EncodedFile, mask_of
from node.pipeline.forms.form import Form, Reader

FORM = Form(
    name="volumes",
    encode=f"{__name__}:encode",
    verify=f"{__name__}:verify",
    modality="OT",
    extension="csv",
    is_dicom=False,
    output="volumes",
    named_in_uids="volumes",
    read_by=Reader.PERSON,
)


def encode(result):
    volume = result.volume
    counts = np.bincount(volume.labels.ravel(), minlength=256)
    rows = [
        f"{segment.name},{counts[segment.label_value] * volume.stack.grid.voxel_ml:.3f}"
        for segment in result.segments
    ]
    table = "\\n".join(["name,ml", *rows, ""]).encode()
    return [
        EncodedFile(
            sop_instance_uid=result.identity.uid("sop"),
            series_instance_uid=result.identity.uid("series"),
            chunks=lambda: iter([table]),
        )
    ]


def verify(files, result):
    volume = result.volume
    told = [line.rpartition(",") for line in bytes(files[""]).decode().splitlines()[1:]]
    for segment, (name, _, ml) in zip(result.segments, told, strict=True):
        held = mask_of(volume.labels, segment.label_value, overlapping=volume.overlapping)
        if name != segment.name or abs(held.sum() * volume.stack.grid.voxel_ml - float(ml)) > 0.001:
            raise ResultRefused([f"the volume of {segment.name} is wrong"])
'''
LINE = 'FORMS["volumes"] = __import__("node.pipeline.forms.volumes", fromlist=["FORM"]).FORM\n'

ROAD = '''
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cli.conftest import CHEST
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import simulated_node


@dataclass
class Taking:
    """A destination that takes the new form and the old one."""

    inner: object
    forms: tuple = ("seg", "volumes")

    def send(self, deliverable):
        return self.inner.send(deliverable)


if __name__ == "__main__":
    folder, worker = Path(sys.argv[1]), SharedWorker()
    shelf = {"kind": "folder", "path": str(folder / "shelf"), "layout": "{model}.{ext}"}
    rule = {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["shelf"]}
    with simulated_node(folder, worker, destinations={"shelf": shelf}, rules=[rule]) as node:
        inner = node.node.plan.destinations["shelf"]
        node.node.plan = replace(node.node.plan, destinations={"shelf": Taking(inner)})
        node.receive(CHEST.datasets())
        node.settle()
        node.node.work()
        node.deliver()
        print([(row["state"], row["sentence"]) for row in node.table("job")])
    worker.close()
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that knows one more form."""
    root = tmp_path_factory.mktemp("package")
    for name in ("node", "models"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, root / name)
    forms = root / "node" / "pipeline" / "forms"
    (forms / "volumes.py").write_text(FILE)
    with (forms / "__init__.py").open("a") as file:
        file.write(LINE)
    return root


def python(package: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The copied package, from a folder where no other one is."""
    return subprocess.run(
        [sys.executable, "-P", *(str(each) for each in arguments)],
        cwd=package,
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def table(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        return {row["name"]: float(row["ml"]) for row in csv.DictReader(file)}


def test_segnode_run_writes_the_new_form(package: Path, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")

    done = python(
        package, "-m", "node", "run", tmp_path / "in", tmp_path / "out", "--form", "volumes",
        "--json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["outcomes"]
    path = tmp_path / "out" / CHEST.uid("series") / "ct_tissue.volumes.csv"
    assert one["files"] == [{"form": "volumes", "path": str(path)}]
    assert table(path)["Left lung"] == pytest.approx(one["volumes_ml"]["Left lung"], abs=0.01)


def test_the_road_brings_the_new_form_into_a_folder(package: Path, tmp_path: Path) -> None:
    (tmp_path / "road.py").write_text(ROAD)

    done = python(package, tmp_path / "road.py", tmp_path)

    assert done.returncode == 0, done.stderr
    assert "'done'" in done.stdout
    assert {path.name for path in (tmp_path / "shelf").iterdir()} == {
        "ct_tissue.dcm",
        "ct_tissue.csv",
    }
    assert table(tmp_path / "shelf" / "ct_tissue.csv")["Left lung"] > 100


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        ("kind: folder, path: shelf, forms: [seg, volumes]", 0, ""),
        ("kind: folder, path: shelf, forms: [volume]", 2, "destinations.there.forms.0"),
        ("kind: dicomweb, url: 'http://pacs/', forms: [volumes]", 2, "destinations.there.forms.0"),
    ],
)
def test_a_configuration_may_ask_for_the_new_form(
    package: Path, tmp_path: Path, kind: str, code: int, word: str
) -> None:
    (tmp_path / "shelf").mkdir()
    config = tmp_path / "node.yaml"
    rule = "{name: ct, when: {Modality: CT}, run: ct_tissue, send: [there]}"
    config.write_text(f"rules: [{rule}]\ndestinations:\n  there: {{{kind}}}\n")

    done = python(package, "-m", "node", "check-config", config)

    assert (done.returncode, word in done.stderr + done.stdout) == (code, True)
