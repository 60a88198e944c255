"""Small networks written as TensorFlow.js layers models, as brainchop publishes its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Written:
    """A convolution, and the activation after it.

    Args:
        kernel: Shape (3, 3, 3, inputs, outputs), as TensorFlow has it.
    """

    kernel: Floats32
    bias: Floats32 | None = None
    dilation: int = 1
    normalised: bool = False
    activation: str = ""


def random_network(seed: int, widths: Sequence[int], dilations: Sequence[int]) -> list[Written]:
    """Convolutions of kernel 3 with every activation in turn, normalised now and then."""
    random = np.random.default_rng(seed)
    layers = []
    for k, (inputs, outputs, dilation) in enumerate(
        zip(widths[:-1], widths[1:], dilations, strict=True)
    ):
        is_last = k == len(dilations) - 1
        kernel = random.normal(0, 0.3, (3, 3, 3, inputs, outputs)).astype(np.float32)
        layers.append(
            Written(
                kernel,
                random.normal(0, 0.3, outputs).astype(np.float32) if k % 2 == 0 else None,
                dilation,
                normalised=k % 3 == 1 and not is_last,
                activation="" if is_last else ("relu", "elu", "gelu")[k % 3],
            )
        )
    return layers


def model_json(layers: Sequence[Written]) -> tuple[dict[str, Any], bytes]:
    """The content of ``model.json``, and the weights as one run of bytes."""
    chain: list[dict[str, Any]] = [
        {
            "class_name": "InputLayer",
            "config": {"name": "input", "batch_input_shape": [None, 256, 256, 256, 1]},
        }
    ]
    weights, data = [], b""
    for k, layer in enumerate(layers):
        name = f"conv{k}" + ("_gn" if layer.normalised else "")
        chain.append(
            {
                "class_name": "Conv3D",
                "config": {
                    "name": name,
                    "filters": layer.kernel.shape[-1],
                    "kernel_size": list(layer.kernel.shape[:3]),
                    "strides": [1, 1, 1],
                    "padding": "same",
                    "data_format": "channels_last",
                    "dilation_rate": [layer.dilation] * 3,
                    "activation": "linear",
                    "use_bias": layer.bias is not None,
                },
            }
        )
        for kind, values in (("kernel", layer.kernel), ("bias", layer.bias)):
            if values is not None:
                weights.append(
                    {"name": f"{name}/{kind}", "shape": list(values.shape), "dtype": "float32"}
                )
                data += values.astype("<f4").tobytes()
        if layer.activation:
            chain.append(
                {
                    "class_name": "Activation",
                    "config": {"name": f"act{k}", "activation": layer.activation},
                }
            )
    for before, layer_json in zip([None, *chain], chain, strict=False):
        feeds = [] if before is None else [[[before["config"]["name"], 0, 0, {}]]]
        layer_json["inbound_nodes"] = feeds
    content = {
        "format": "layers-model",
        "modelTopology": {
            "model_config": {"class_name": "Functional", "config": {"layers": chain}}
        },
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": weights}],
    }
    return content, data


def write_network(folder: Path, content: dict[str, Any], data: bytes) -> Path:
    """Write a model, its weights cut into two files in the middle of a number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "a.bin").write_bytes(data[:7])
    (folder / "b.bin").write_bytes(data[7:])
    return folder


def by_hand(layers: Sequence[Written], image: Floats32) -> NDArray[np.float64]:
    """What the layers say, in numpy: shape (x, y, z, classes)."""
    from math import erf

    values = image[..., None].astype(np.float64)
    for layer in layers:
        d = layer.dilation
        padded = np.pad(values, [(d, d)] * 3 + [(0, 0)])
        total = np.zeros((*image.shape, layer.kernel.shape[-1]))
        for i, j, k in np.ndindex(3, 3, 3):
            piece = padded[
                tuple(
                    slice(n * d, n * d + size)
                    for n, size in zip((i, j, k), image.shape, strict=True)
                )
            ]
            total += piece @ layer.kernel[i, j, k].astype(np.float64)
        if layer.bias is not None:
            total += layer.bias
        if layer.normalised:
            total = (total - total.mean((0, 1, 2))) / np.sqrt(total.var((0, 1, 2)) + 1e-5)
        match layer.activation:
            case "relu":
                total = np.maximum(total, 0)
            case "elu":
                total = np.where(total > 0, total, np.expm1(np.minimum(total, 0)))
            case "gelu":
                total = total * 0.5 * (1 + np.vectorize(erf)(total / np.sqrt(2)))
        values = total
    return values
