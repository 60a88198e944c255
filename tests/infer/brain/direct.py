"""The published recipe for a head in plain numpy and torch, without any code of the node.

What brainchop does to a head, step by step: 256 voxels of 1 mm (left, inferior, anterior) around the
centre, trilinear; 8 bits with the brightest thousandth of the non-zero voxels saturated, unless the
image has 8 bits already; 0 to 1; the box around what is brighter than a threshold; the network as it
stands; the largest piece; nearest voxels back. Whole arrays, nothing saved.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

# index (left, inferior, anterior) -> LPS
_TO_LPS = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]])


def network_of(folder: Path) -> nn.Sequential:
    """A TensorFlow.js chain of convolutions."""
    model = json.loads((folder / "model.json").read_text())
    (group,) = model["weightsManifest"]
    values = np.concatenate([np.fromfile(folder / path, "<f4") for path in group["paths"]])
    weights, at = {}, 0
    for entry in group["weights"]:
        size = int(np.prod(entry["shape"]))
        weights[entry["name"]] = torch.tensor(values[at : at + size].reshape(entry["shape"]))
        at += size
    parts: list[nn.Module] = []
    for layer in model["modelTopology"]["model_config"]["config"]["layers"][1:]:
        config = layer["config"]
        if layer["class_name"] == "Activation":
            parts.append(
                {"relu": nn.ReLU(), "elu": nn.ELU(), "gelu": nn.GELU()}[config["activation"]]
            )
            continue
        kernel = torch.permute(weights[f"{config['name']}/kernel"], (4, 3, 0, 1, 2))
        dilation = config["dilation_rate"][0]
        reach = dilation * (kernel.shape[-1] // 2)
        part = nn.Conv3d(
            kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding=reach, dilation=dilation
        )
        part.weight.data = kernel.contiguous()
        part.bias.data = weights.get(f"{config['name']}/bias", torch.zeros(kernel.shape[0]))
        parts.append(part)
        if config["name"].endswith("_gn"):
            parts.append(nn.InstanceNorm3d(kernel.shape[0]))
    return nn.Sequential(*parts).eval()


def direct_labels(
    array: NDArray[np.float64],
    affine_lps: NDArray[np.float64],
    folder: Path,
    *,
    above: float,
    margin: int,
) -> NDArray[np.uint8]:
    """Labels of an array (slice, row, column) on its own grid."""
    to_cube = _to_cube(array.shape, affine_lps)
    is_eight_bit = array.min() >= 0 and array.max() <= 255 and np.all(array == np.rint(array))
    low = 0.0 if is_eight_bit else float(array.min())
    image = _sampled(array.astype(np.float64) - low, np.linalg.inv(to_cube))
    if not is_eight_bit:
        ordered = np.sort(array, axis=None)
        top = ordered[array.size - 1 - int(0.001 * np.count_nonzero(array))]
        image = image * 255 / (top - low)
    image = np.clip(np.rint(image), 0, 255)
    image = (image - image.min()) / (image.max() - image.min())

    inside = np.argwhere(image > above)
    low = np.maximum(inside.min(axis=0) - margin, 0)
    high = np.minimum(inside.max(axis=0) + margin + 1, 256)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    with torch.inference_mode():
        scores = network_of(folder)(torch.tensor(image[box], dtype=torch.float32)[None, None])
    labels = np.zeros(image.shape, np.uint8)
    labels[box] = scores[0].argmax(dim=0).numpy()

    found = sitk.ConnectedComponentImageFilter()
    found.FullyConnectedOn()
    pieces = sitk.GetArrayFromImage(
        found.Execute(sitk.GetImageFromArray((labels > 0).astype("u1")))
    )
    if found.GetObjectCount():
        labels[pieces != 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))] = 0

    index = np.indices(array.shape).reshape(3, -1).astype(np.float64)
    nearest = np.rint(to_cube[:3, :3] @ index + to_cube[:3, 3:]).astype(int)
    is_in = np.all((nearest >= 0) & (nearest < 256), axis=0)
    back = np.zeros(array.size, np.uint8)
    back[is_in] = labels[tuple(nearest[:, is_in])]
    return back.reshape(array.shape)


def _to_cube(shape: tuple[int, ...], affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """From (slice, row, column) to the index of the cube."""
    centre = affine_lps @ np.append((np.array(shape) - 1) / 2, 1)
    cube = np.eye(4)
    cube[:3, :3] = _TO_LPS
    cube[:3, 3] = centre[:3] - _TO_LPS @ np.full(3, 127.5)
    return np.linalg.inv(cube) @ affine_lps


def _sampled(values: NDArray[np.float64], from_cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Trilinear, half a voxel beyond the outermost centres included, 0 further out."""
    size = torch.tensor(values.shape, dtype=torch.float64)
    moved = np.empty((256, 256, 256))
    across = np.indices((256, 256)).reshape(2, -1)
    for k in range(256):
        index = np.vstack([np.full((1, across.shape[1]), k), across])
        at = torch.tensor((from_cube[:3, :3] @ index + from_cube[:3, 3:]).T)
        is_in = ((at >= -0.5) & (at < size - 0.5)).all(dim=1)
        place = (2 * at / (size - 1) - 1).flip(1)[None, None, None]
        got = functional.grid_sample(
            torch.tensor(values)[None, None],
            place,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        moved[k] = torch.where(is_in, got.reshape(-1), 0.0).reshape(256, 256).numpy()
    return moved
