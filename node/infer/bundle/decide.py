"""From blended answers to labels, a few planes at a time.

Each is for ``label_windows``: it is given maps (K, x, y, z) and makes labels (x, y, z), ``uint8``
where its label values fit, else ``uint16``. No softmax: it does not change which class is largest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from node.domain.errors import JobFailed

Decide = Callable[[Tensor], Tensor]


def refuse_no_numbers(values: Tensor) -> None:
    """A network that overflows, or whose weights are spoilt, must not be believed.

    Raises:
        JobFailed: One of the values is infinite or no number; permanent.
    """
    if not bool(torch.isfinite(values).all()):
        raise JobFailed(
            "the network returned values that are not numbers: check its weights, or run it in fp32",
            permanent=True,
        )


def label_type(largest: int) -> torch.dtype:
    """The smallest unsigned type that holds the largest label value."""
    return torch.uint8 if largest < 256 else torch.uint16


def take_largest(maps: Tensor) -> Tensor:
    """The number of the map with the largest value; of equal ones the first.

    A running maximum, on a CPU plane by plane so that it stays in the cache: there twice as fast as
    ``argmax``, which also makes eight bytes per voxel.
    """
    dtype = label_type(len(maps) - 1)
    signed = torch.int16 if dtype is torch.uint16 else dtype  # torch cannot fill uint16 by a mask
    labels = torch.zeros(maps.shape[1:], dtype=signed, device=maps.device)
    planes = 1 if maps.device.type == "cpu" else max(maps.shape[1], 1)
    for first in range(0, maps.shape[1], planes):
        values, decided = maps[:, first : first + planes], labels[first : first + planes]
        best = values[0].clone()
        above = torch.empty_like(best, dtype=torch.bool)
        for number in range(1, len(values)):
            torch.gt(values[number], best, out=above)
            decided.masked_fill_(above, number)
            torch.maximum(best, values[number], out=best)
    return labels.view(dtype)


def mark_regions(threshold: float = 0.5) -> Decide:
    """Bit k is set where map k, through a sigmoid, is above ``threshold``: regions may overlap.

    Raises:
        ValueError: On use, more than 16 maps.
    """

    def decide(maps: Tensor) -> Tensor:
        if len(maps) > 16:
            raise ValueError(f"{len(maps)} regions do not fit into 16 bits")
        bits = torch.zeros(maps.shape[1:], dtype=torch.int32, device=maps.device)
        for number, values in enumerate(maps):
            bits += (torch.sigmoid(values) > threshold).to(torch.int32) << number
        return bits.to(label_type((1 << len(maps)) - 1))

    return decide


def largest_of_linear_head(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    above: float | None = None,
    chunk: int = 1 << 16,
) -> Decide:
    """The class whose linear map of the features is largest, without the maps of all classes.

    Blending is linear: where a network's last step is a matrix, the features are blended instead
    of the classes, and the matrix is applied to finished voxels only.

    Args:
        weight: (classes, F) over the F maps.
        bias: (classes,).
        above: Given: class n becomes label n + 1, and 0 where no class is above this value.
        chunk: Voxels at once: so many times ``classes`` values exist.
    Raises:
        JobFailed: A weight, or on use the largest value of a voxel, is not a number; permanent.
    """
    refuse_no_numbers(weight)
    if bias is not None:
        refuse_no_numbers(bias)
    classes = len(weight)
    first = 0 if above is None else 1
    dtype = label_type(classes - 1 + first)

    def decide(maps: Tensor) -> Tensor:
        matrix = weight.to(maps.device, torch.float32)
        offset = None if bias is None else bias.to(matrix)[:, None]
        labels = torch.empty(maps.shape[1:], dtype=dtype, device=maps.device)
        for plane, row in enumerate(maps.unbind(1)):  # a plane: what is not contiguous is copied
            features, decided = row.flatten(1), labels[plane].view(-1)
            for start in range(0, len(decided), chunk):
                scores = matrix @ features[:, start : start + chunk].float()
                if offset is not None:
                    scores += offset
                best, number = scores.max(0)
                refuse_no_numbers(best)
                if above is not None:
                    number = torch.where(best > above, number + 1, 0)
                decided[start : start + chunk] = number.to(dtype)
        return labels

    return decide
