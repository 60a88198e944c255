"""``segnode models optimize`` where it cannot work, and the samples that it takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from node.domain.errors import JobFailed, SeriesUnusable
from node.infer.registry import default_models_folder, load_model
from node.pipeline.optimize_job import read_sample
from tests.cli.conftest import Segnode
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom

PHANTOM = Phantom(shape=(5, 24, 24))


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
