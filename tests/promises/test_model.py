"""Promise: a model, with code of its own, is added by one folder."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY, Command
from tests.support.phantoms import Phantom

CHEST = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5))


def fenced(kind: str, title: str) -> str:
    """The example of the manual that begins with this line."""
    manual = (REPOSITORY / "docs" / "models.md").read_text()
    (found,) = re.findall(rf"```{kind}\n# {re.escape(title)}\n(.*?)```", manual, re.DOTALL)
    return str(found)


@pytest.fixture
def segnode(tmp_path: Path) -> Command:
    """The folder ``models/bright`` of the manual, and a rule that runs it."""
    folder = tmp_path / "models" / "bright"
    folder.mkdir(parents=True)
    code = fenced("python", "models/bright/run.py")
    (folder / "run.py").write_text(code)
    sha256 = hashlib.sha256(code.encode()).hexdigest()
    model = fenced("yaml", "models/bright/model.yaml")
    (folder / "model.yaml").write_text(re.sub(r"<the output of .*?>", sha256, model))
    probe = REPOSITORY / "tests" / "support" / "models_probe" / "probe"
    for name in ("labels.csv", "README.md"):
        (folder / name).write_bytes((probe / name).read_bytes())
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": "bright", "send": []}
    content = {"data_dir": "data", "models_dirs": ["models"], "rules": [rule]}
    (tmp_path / "node.yaml").write_text(json.dumps(content))
    CHEST.write(tmp_path / "in")
    return Command(folder=tmp_path)


def test_the_model_of_the_manual_is_checked_listed_and_run(
    segnode: Command, tmp_path: Path
) -> None:
    configured = ("--config", "node.yaml")
    checked = segnode("check-config", "node.yaml")
    asked = segnode("doctor", *configured, "--json").json
    listed = segnode("models", "list", *configured, "--json").json["items"]
    tried = segnode("models", "check", "bright", *configured)
    ran = segnode("run", "in", "out", *configured, "--json").json

    assert (checked.code, checked.err) == (0, "")
    assert {row["name"]: row["health"] for row in asked}["model bright"] == "good"
    assert [row["title"] for row in listed if row["name"] == "bright"] == [
        "What is brighter than 400 HU"
    ]
    assert tried.out == "good: bright 1.0.0, 1 segments\ntried on a phantom: Bright\n"
    (one,) = ran["outcomes"]
    assert one["state"] == "done"
    assert (tmp_path / "out" / CHEST.uid("series") / "bright.seg.dcm").is_file()
    voxels = (CHEST.hu_volume > 400).sum()
    assert one["volumes_ml"]["Bright"] == pytest.approx(voxels * CHEST.grid.voxel_ml)
