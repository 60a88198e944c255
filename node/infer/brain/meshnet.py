"""A chain of dilated convolutions over one whole volume, with the memory of one layer.

Each convolution is done in slabs along the first axis and written over its own input, of which only
the few planes that the next slab still needs are kept aside. The last convolution and the choice of
the best class happen slab by slab too, so that scores of all classes never exist at once. Up to
rounding the result is the one of the plain network.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from node.domain.errors import JobRefused

SLAB = 32  # planes at once; a window of them is what a convolution needs as scratch
_CHANNELS_AT_ONCE = 4  # of a normalisation: one thread each


def label_volume(
    network: torch.nn.Sequential, image: NDArray[np.float32], *, device: str = "cpu"
) -> NDArray[np.uint8]:
    """The class with the highest score of each voxel.

    Args:
        network: Convolutions with ``padding == dilation``, normalisations, activations; the last
            module gives the scores.
        image: Shape (x, y, z).
        device: Where the network is; its results come back from there slab by slab.
    Raises:
        JobRefused: The scores are not finite.
    """
    with torch.inference_mode():
        values = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(device)[None, None]
        for module in list(network)[:-1]:
            values = _applied(module, values)
        last = network[-1]
        if not isinstance(last, torch.nn.Conv3d):
            raise JobRefused("the network does not end in a convolution")
        return _best_class(last, values)


def _applied(module: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    match module:
        case torch.nn.Conv3d():
            return _convolved(module, values)
        case torch.nn.ReLU():
            return functional.relu_(values)
        case torch.nn.ELU():
            return functional.elu_(values, module.alpha)
        case torch.nn.GELU():
            for channel in values[0]:
                channel.copy_(functional.gelu(channel, approximate=module.approximate))
            return values
        case torch.nn.GroupNorm():
            for first in range(0, values.shape[1], _CHANNELS_AT_ONCE):
                some = values[:, first : first + _CHANNELS_AT_ONCE]
                some.copy_(functional.group_norm(some, some.shape[1], eps=module.eps))
            return values
    raise JobRefused(f"no way to run {type(module).__name__} in slabs")


def _convolved(module: torch.nn.Conv3d, values: torch.Tensor) -> torch.Tensor:
    """The convolution, in the memory of its input where the number of channels stays."""
    stays = module.in_channels == module.out_channels
    results = values if stays else values.new_empty((1, module.out_channels, *values.shape[2:]))
    for first, slab in _slabs(module, values):
        results[:, :, first : first + SLAB] = slab
    return results


def _best_class(module: torch.nn.Conv3d, values: torch.Tensor) -> NDArray[np.uint8]:
    labels = np.empty(values.shape[2:], np.uint8)
    for first, scores in _slabs(module, values):
        if not bool(torch.isfinite(scores).all()):
            raise JobRefused("the network's scores are not finite")
        labels[first : first + SLAB] = scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels


def _slabs(module: torch.nn.Conv3d, values: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """First plane and result of each slab; its input may be overwritten once it is handed on."""
    reach, planes = int(module.padding[0]), values.shape[2]
    behind = values.new_zeros((1, module.in_channels, reach, *values.shape[3:]))
    for first in range(0, planes, SLAB):
        last = min(first + SLAB, planes)
        ahead = values[:, :, first : last + reach]
        missing = last + reach - first - ahead.shape[2]
        window = torch.cat([behind, functional.pad(ahead, (0, 0, 0, 0, 0, missing))], dim=2)
        behind = window[:, :, last - first : last - first + reach].clone()
        yield (
            first,
            functional.conv3d(
                window,
                module.weight,
                module.bias,
                padding=(0, reach, reach),
                dilation=module.dilation,
            ),
        )
