"""A TensorFlow.js layers model becomes a torch network of the same function.

Only what a straight chain of 3D convolutions needs is understood: everything else is refused by
name, because a layer that is left out gives a wrong answer without any error.

A convolution whose name ends in ``_gn`` is followed by a normalisation of each channel over the
whole volume, without learned scale: brainchop says so by the name alone.

Source: the layers format of TensorFlow.js (model.json, weightsManifest); brainchop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobRefused

if TYPE_CHECKING:
    import torch

Floats32: TypeAlias = NDArray[np.float32]

NORM_EPSILON = 1e-5
_NORMALISED = "_gn"
_UNDERSTOOD = {
    "padding": "same",
    "data_format": "channels_last",
    "strides": [1, 1, 1],
    "groups": 1,
}
_ACTIVATIONS = {"elu": "ELU", "gelu": "GELU", "relu": "ReLU"}  # the exact gelu, by erf, for both


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution:
    """A 3D convolution that keeps the size of its input.

    Args:
        kernel: Shape (outputs, inputs, depth, height, width).
        bias: Shape (outputs,), or None.
        is_normalised: Each channel of the result is brought to mean 0 and variance 1.
    """

    name: str
    kernel: Floats32
    bias: Floats32 | None
    dilation: int
    is_normalised: bool


Layer: TypeAlias = Convolution | str
"""A convolution, or an activation by its name in Keras."""


def read_layers(folder: Path) -> list[Layer]:
    """The chain of layers of ``model.json`` and its weight files.

    Raises:
        JobRefused: A file is missing or damaged, or a layer is not understood.
    """
    try:
        content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if content.get("format") != "layers-model":
            raise _refused(f"the format {content.get('format')!r} is not layers-model")
        weights = dict(_weights(folder, content["weightsManifest"]))
        config = content["modelTopology"]["model_config"]["config"]
        return list(_chain(config["layers"], weights))
    except OSError as error:
        name = Path(error.filename or "model.json").name
        raise _refused(f"{name} is missing: pull the model again") from error
    except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
        raise _refused(f"{type(error).__name__} in model.json") from error


def load_network(folder: Path) -> torch.nn.Sequential:
    """The network of a model folder, in fp32 on the CPU, ready for inference.

    Raises:
        JobFailed: As ``read_layers``.
    """
    import torch

    modules: list[torch.nn.Module] = []
    for layer in read_layers(folder):
        if isinstance(layer, str):
            modules.append(getattr(torch.nn, _ACTIVATIONS[layer])())
            continue
        outputs, inputs, size = layer.kernel.shape[:3]
        convolution = torch.nn.Conv3d(
            inputs,
            outputs,
            size,
            padding=layer.dilation * (size // 2),
            dilation=layer.dilation,
            bias=layer.bias is not None,
        )
        learned = {"weight": layer.kernel} | ({} if layer.bias is None else {"bias": layer.bias})
        convolution.load_state_dict(
            {name: torch.from_numpy(each) for name, each in learned.items()}
        )
        modules.append(convolution)
        if layer.is_normalised:
            modules.append(torch.nn.GroupNorm(outputs, outputs, eps=NORM_EPSILON, affine=False))
    return torch.nn.Sequential(*modules).eval().requires_grad_(False)


def _weights(folder: Path, manifest: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Floats32]]:
    """Name and array of every weight; a group's files are one run of bytes."""
    for group in manifest:
        if any(Path(path).name != path for path in group["paths"]):
            raise _refused("a weight file outside its folder is named")
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            if entry["dtype"] != "float32" or "quantization" in entry:
                raise _refused(f"the weight {entry['name']} is not plain float32")
            shape = [int(n) for n in entry["shape"]]
            count = int(np.prod(shape, dtype=np.int64))
            if offset + 4 * count > len(data):
                raise _refused(f"its weight file ends before {entry['name']}")
            values = np.frombuffer(data, "<f4", count, offset).reshape(shape)
            yield str(entry["name"]), values.astype(np.float32)
            offset += 4 * count
        if offset != len(data):
            raise _refused(f"its weight file is {len(data) - offset} bytes too long")


def _chain(layers: Sequence[Mapping[str, Any]], weights: Mapping[str, Floats32]) -> Iterator[Layer]:
    before = ""
    for layer in layers:
        kind, config = str(layer["class_name"]), layer["config"]
        name = str(config["name"])
        feeds = [str(node[0]) for call in layer["inbound_nodes"] for node in call]
        if feeds != ([before] if before else []):
            raise _refused(f"the layer {name} ({kind}) does not follow the one before it")
        before = name
        if kind == "InputLayer":
            if config["batch_input_shape"][-1] != 1:
                raise _refused(f"the layer {name} takes more than one channel")
        elif kind == "Activation":
            yield _read_activation(name, config["activation"])
        elif kind == "Conv3D":
            yield _read_convolution(name, config, weights)
            if config["activation"] != "linear":
                yield _read_activation(name, config["activation"])
        else:
            raise _refused(f"the layer {name} is of the kind {kind}, which is not understood")


def _read_activation(name: str, function: str) -> str:
    if function not in _ACTIVATIONS:
        raise _refused(f"the layer {name} has the activation {function}, which is not understood")
    return function


def _read_convolution(
    name: str, config: Mapping[str, Any], weights: Mapping[str, Floats32]
) -> Convolution:
    sizes, dilations = set(config["kernel_size"]), set(config["dilation_rate"])
    for key, value in _UNDERSTOOD.items():
        if config.get(key, value) != value:
            raise _refused(f"the layer {name} has {key} {config[key]}, which is not understood")
    if len(sizes) != 1 or len(dilations) != 1 or min(sizes) % 2 == 0:
        raise _refused(f"the layer {name} has a kernel that is no odd cube, evenly dilated")
    kernel = weights[f"{name}/kernel"].transpose(4, 3, 0, 1, 2)
    if kernel.shape[2:] != tuple(config["kernel_size"]) or kernel.shape[0] != config["filters"]:
        raise _refused(f"the layer {name} and its weights differ in size")
    return Convolution(
        name=name,
        kernel=np.ascontiguousarray(kernel),
        bias=weights[f"{name}/bias"] if config["use_bias"] else None,
        dilation=int(min(dilations)),
        is_normalised=name.endswith(_NORMALISED),
    )


def _refused(reason: str) -> JobRefused:
    return JobRefused(f"the network cannot be read: {reason}")
