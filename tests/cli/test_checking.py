"""``segnode models check``: what is good runs, and what would fail a job is told beforehand."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Segnode
from tests.support.node_in_process import MODELS_PROBE


def test_a_good_model_is_tried_on_a_phantom(segnode: Segnode) -> None:
    answer = segnode("models", "check", "ct_tissue")

    assert answer.code == 0
    assert answer.out.splitlines()[0].startswith("good: ct_tissue 1.0.0, 8 segments")
    assert "tried on a phantom: Left lung, Right lung" in answer.out


def test_what_cannot_be_tried_says_why(segnode: Segnode) -> None:
    answer = segnode("models", "check", "brain_t1_meshnet", "--json")

    assert answer.code == 0
    assert answer.json["found"] == []
    assert "segnode models pull brain_t1_meshnet" in answer.json["not_run"][0]


@pytest.mark.parametrize("name", ["probe", "pair", "bounded", "boxes"])
def test_every_kind_of_input_has_a_phantom(segnode: Segnode, name: str) -> None:
    answer = segnode("models", "check", MODELS_PROBE / name, "--json")

    assert (answer.code, answer.json["found"]) == (0, ["Bright"])


def own_model(folder: Path, source: str) -> Path:
    shutil.copytree(MODELS_PROBE / "boxes", folder)
    (folder / "run.py").write_text(source)
    content = yaml.safe_load((folder / "model.yaml").read_text())
    content["name"] = folder.name
    content["runner"]["code"][0]["sha256"] = hashlib.sha256(source.encode()).hexdigest()
    (folder / "model.yaml").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def walk(): ...\n", "run.py has no function run"),
        ("import nothing_of_this_name\n", "run.py cannot be imported: ModuleNotFoundError"),
        ("def run(*given): return given[9]\n", "IndexError in run.py line 1"),
        ("def run(*given): return given[1]['image'].array\n", "not labels on the grid"),
        (
            "def run(*given): return (given[1]['image'].array > 0).astype('u1') * 9\n",
            "returned labels that labels.csv does not describe: [9]",
        ),
    ],
)
def test_code_that_would_fail_a_job_is_told(
    segnode: Segnode, tmp_path: Path, source: str, sentence: str
) -> None:
    answer = segnode("models", "check", own_model(tmp_path / "mine", source))

    assert (answer.code, answer.out) == (1, "")
    assert sentence in answer.err


def test_code_that_crashes_its_process_is_one_sentence(segnode: Segnode, tmp_path: Path) -> None:
    crash = "import ctypes\n\ndef run(*given): ctypes.string_at(0)\n"

    answer = segnode("models", "check", own_model(tmp_path / "mine", crash))

    assert answer.code == 1
    assert "the runner process was killed by SIGSEGV in stage infer" in answer.err


def test_without_a_run_the_code_is_imported_all_the_same(segnode: Segnode, tmp_path: Path) -> None:
    model = own_model(tmp_path / "mine", "def walk(): ...\n")

    assert "has no function run" in segnode("models", "check", model, "--no-run").err


def test_weights_that_do_not_fit_the_network_are_told(segnode: Segnode, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    from tests.support.bundles import threshold, write_bundle_model

    made = write_bundle_model(tmp_path, "mine", threshold(0.0))
    weights = made.root / "models" / "model.pt"
    torch.save({"other": torch.zeros(3)}, weights)
    path = made.folder / "model.yaml"
    content = json.loads(path.read_text())
    content["weights"][0]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(json.dumps(content))
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}
    config = {"weights_dir": str(made.weights_dir), "rules": [rule]}
    (tmp_path / "node.yaml").write_text(json.dumps(config))

    answer = segnode("models", "check", made.folder, "--config", "node.yaml", "--no-run")

    assert (answer.code, answer.out) == (1, "")
    assert (
        "the weights in model.pt are not those of the bundle's network: of 1 tensors 1 missing"
        " (above), 1 not of this network (other)"
    ) in answer.err
