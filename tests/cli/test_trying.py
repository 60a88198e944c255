"""``segnode models check`` tells what would fail a job, ``optimize`` where it cannot work."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml

from node.domain.errors import JobFailed, SeriesUnusable
from node.infer.registry import default_models_folder, load_model
from node.pipeline.optimize_job import read_sample
from tests.cli.conftest import Segnode
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom

PHANTOM = Phantom(shape=(5, 24, 24))


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


def has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence_says_what_is_missing(segnode: Segnode, tmp_path: Path) -> None:
    PHANTOM.write(tmp_path / "sample")

    answer = segnode("models", "optimize", "spleen_ct", "--sample", "sample")

    assert (answer.code, answer.out) == (1, "")
    (sentence,) = answer.err.splitlines()
    assert sentence.startswith("TensorRT needs more than there is: ")
    assert sentence.endswith("no CUDA GPU can be used")
    if importlib.util.find_spec("torch_tensorrt") is None:
        assert "torch_tensorrt is not installed" in sentence


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("ct_tissue", "is no MONAI bundle"), ("ctmr", "has no runner.trt_export")],
)
def test_what_cannot_be_optimized_is_told(
    segnode: Segnode, tmp_path: Path, model: str, sentence: str
) -> None:
    (tmp_path / "sample").mkdir()
    weights = load_model(default_models_folder() / model).weights
    rule = {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}
    config = {"rules": [rule], "accept_licences": [asset.licence for asset in weights]}
    (tmp_path / "node.yaml").write_text(json.dumps(config))

    answer = segnode("models", "optimize", model, "--sample", "sample", "--config", "node.yaml")

    assert answer.code == 1
    assert sentence in answer.err


def test_a_licence_that_nobody_accepted_is_told_first(segnode: Segnode, tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()

    answer = segnode("models", "optimize", "ctmr", "--sample", "sample")

    assert answer.code == 1
    assert "forbid commercial use" in answer.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("spleen_ct", "--sample", "nowhere"), "nowhere is not a folder"),
        (("splen", "--sample", "."), "no model 'splen'; there are:"),
    ],
)
def test_wrong_use_is_told(segnode: Segnode, arguments: tuple[str, ...], sentence: str) -> None:
    answer = segnode("models", "optimize", *arguments)

    assert answer.code == 2
    assert sentence in " ".join(answer.err.replace("│", "").split())


def test_a_sample_is_one_series_among_other_files(tmp_path: Path) -> None:
    PHANTOM.write(tmp_path / "sample" / "deep")
    (tmp_path / "sample" / "notes.txt").write_text("nothing here")

    given = read_sample(load_model(MODELS_PROBE / "probe"), tmp_path / "sample")["image"]

    assert given.stack.grid.shape == (5, 24, 24)
    assert len(given.files) == 5
    assert given.header.text("Modality") == "CT"


def test_a_model_of_several_series_takes_a_folder_for_each(tmp_path: Path) -> None:
    model = load_model(MODELS_PROBE / "pair")
    for role in model.inputs:
        Phantom(shape=(5, 24, 24), series=role).write(tmp_path / role)

    given = read_sample(model, tmp_path)

    series = {role: each.header.text("SeriesInstanceUID") for role, each in given.items()}
    assert list(series) == list(model.inputs)
    assert len(set(series.values())) == 2


def test_a_sample_that_is_none_is_refused(tmp_path: Path) -> None:
    model = load_model(MODELS_PROBE / "probe")
    with pytest.raises(JobFailed, match="holds 0 series for role image"):
        read_sample(model, tmp_path)
    with pytest.raises(JobFailed, match="has no folder"):
        read_sample(load_model(MODELS_PROBE / "pair"), tmp_path)

    for series in ("one", "two"):
        Phantom(shape=(5, 24, 24), series=series).write(tmp_path / series)
    with pytest.raises(JobFailed, match="holds 2 series for role image"):
        read_sample(model, tmp_path)

    Phantom(shape=(2, 24, 24), series="thin").write(tmp_path / "thin")
    with pytest.raises(SeriesUnusable):
        read_sample(model, tmp_path / "thin")
