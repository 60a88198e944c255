"""A TensorFlow.js layers model is read as it is meant, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.domain.errors import JobFailed
from node.infer.brain.tfjs import Convolution, read_layers
from tests.infer.brain.networks import by_hand, model_json, random_network, write_network
from tests.support.cases import Cases

LAYERS = random_network(3, widths=(1, 4, 5, 4, 3), dilations=(1, 2, 3, 1))
CONTENT, DATA = model_json(LAYERS)


def test_a_network_computes_what_its_layers_say(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from node.infer.brain.tfjs import load_network

    image = np.random.default_rng(5).random((7, 9, 8), np.float32)

    network = load_network(write_network(tmp_path, CONTENT, DATA))

    scores = network(torch.from_numpy(image)[None, None])[0].permute(1, 2, 3, 0).numpy()
    assert np.allclose(scores, by_hand(LAYERS, image), atol=1e-4)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "convolutions", "classes", "parameters"),
    [("model5_gw_ae", 10, 3, 5_598), ("model18cls", 10, 18, 96_408), ("mindgrab", 26, 2, 146_237)],
)
def test_every_weight_of_the_published_networks_is_taken(
    name: str, convolutions: int, classes: int, parameters: int, shared_models: Cases
) -> None:
    layers = read_layers(shared_models / "brainchop" / name)

    found = [layer for layer in layers if isinstance(layer, Convolution)]
    weights = [part for layer in found for part in (layer.kernel, layer.bias) if part is not None]
    assert len(found) == convolutions
    assert found[-1].kernel.shape[0] == classes
    assert sum(part.size for part in weights) == parameters
    assert sum(layer.is_normalised for layer in found) == (25 if name == "mindgrab" else 0)


def layer_at(content: dict[str, Any], index: int) -> dict[str, Any]:
    layer: dict[str, Any] = content["modelTopology"]["model_config"]["config"]["layers"][index]
    return layer


def make(index: int, **config: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: layer_at(content, index)["config"].update(config)


def become(kind: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: layer_at(content, 2).update(class_name=kind)


def branch(content: dict[str, Any]) -> None:
    layer_at(content, 4)["inbound_nodes"] = [[["act0", 0, 0, {}], ["conv1_gn", 0, 0, {}]]]


def skip(content: dict[str, Any]) -> None:
    layer_at(content, 4)["inbound_nodes"] = [[["act0", 0, 0, {}]]]


def quantise(content: dict[str, Any]) -> None:
    content["weightsManifest"][0]["weights"][0]["quantization"] = {"dtype": "uint8", "scale": 1}


def leave_the_folder(content: dict[str, Any]) -> None:
    content["weightsManifest"][0]["paths"] = ["../a.bin"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (become("BatchNormalization"), "act0 is of the kind BatchNormalization"),
        (become("Dropout"), "act0 is of the kind Dropout"),
        (make(2, activation="swish"), "act0 has the activation swish"),
        (make(1, activation="softmax"), "conv0 has the activation softmax"),
        (make(1, padding="valid"), "conv0 has padding valid"),
        (make(1, strides=[2, 2, 2]), r"conv0 has strides \[2, 2, 2\]"),
        (make(1, data_format="channels_first"), "conv0 has data_format channels_first"),
        (make(1, groups=2), "conv0 has groups 2"),
        (make(1, dilation_rate=[1, 2, 1]), "conv0 has a kernel that is no odd cube"),
        (make(1, filters=5), "conv0 and its weights differ in size"),
        (make(0, batch_input_shape=[None, 4, 4, 4, 2]), "input takes more than one channel"),
        (branch, r"act1 \(Activation\) does not follow the one before it"),
        (skip, r"act1 \(Activation\) does not follow the one before it"),
        (quantise, "conv0/kernel is not plain float32"),
        (leave_the_folder, "a weight file outside its folder"),
        (lambda content: content.update(format="graph-model"), "format 'graph-model'"),
        (lambda content: content.pop("weightsManifest"), "KeyError in model.json"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], sentence: str, tmp_path: Path
) -> None:
    content = copy.deepcopy(CONTENT)
    change(content)
    folder = write_network(tmp_path, content, DATA)

    with pytest.raises(JobFailed, match=sentence) as caught:
        read_layers(folder)

    assert caught.value.permanent


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(DATA[:-4], "ends before conv3/kernel"), (DATA + b"\0" * 4, "4 bytes too long")],
)
def test_weights_of_another_length_are_refused(data: bytes, sentence: str, tmp_path: Path) -> None:
    folder = write_network(tmp_path, CONTENT, data)

    with pytest.raises(JobFailed, match=sentence):
        read_layers(folder)


@pytest.mark.parametrize("name", ["model.json", "b.bin"])
def test_a_missing_file_is_named_and_who_brings_it(name: str, tmp_path: Path) -> None:
    folder = write_network(tmp_path, CONTENT, DATA)
    (folder / name).unlink()

    with pytest.raises(JobFailed, match=f"{name} is missing: pull the model again"):
        read_layers(folder)


def test_a_model_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = write_network(tmp_path, CONTENT, DATA)
    (folder / "model.json").write_text("404: Not Found")

    with pytest.raises(JobFailed, match=r"JSONDecodeError in model\.json"):
        read_layers(folder)
