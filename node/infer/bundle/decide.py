"""From blended answers to labels, a few planes at a time.

What decides is for ``label_windows``: it is given maps (K, x, y, z) and makes labels (x, y, z),
``uint8`` where its label values fit, else a signed type: torch knows little of ``uint16``. No softmax:
it does not change which class is largest.

Blending is linear, and so is a 1 x 1 x 1 convolution: where a network ends with one that makes many
classes of few features (SegResNet: 105 of 32), the features are blended and the classes are made
once, of finished planes. A window is then a third of the memory, and a voxel is not classified once
for every window it lies in. Sums are the same in another order: a voxel may get another label than
from the network's own answer only where its two largest values differ by a rounding error.

Nothing is assumed of a network: at its first window it answers as it always does, and only where
that answer is the very output of such a convolution are its features taken from then on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from node.domain.errors import JobRefused
from node.infer.bundle.windows import Decide, refuse_no_numbers


def label_type(largest: int) -> torch.dtype:
    """The smallest type that holds the largest label value, and that CUDA can compute with."""
    if largest < 256:
        return torch.uint8
    return torch.int16 if largest < 1 << 15 else torch.int32


def take_largest(maps: Tensor) -> Tensor:
    """The number of the map with the largest value; of equal ones the first.

    A running maximum, on a CPU plane by plane so that it stays in the cache: there twice as fast as
    ``argmax``, which also makes eight bytes per voxel.
    """
    dtype = label_type(len(maps) - 1)
    labels = torch.zeros(maps.shape[1:], dtype=dtype, device=maps.device)
    planes = 1 if maps.device.type == "cpu" else max(maps.shape[1], 1)
    for first in range(0, maps.shape[1], planes):
        values, decided = maps[:, first : first + planes], labels[first : first + planes]
        best = values[0].clone()
        above = torch.empty_like(best, dtype=torch.bool)
        for number in range(1, len(values)):
            torch.gt(values[number], best, out=above)
            decided.masked_fill_(above, number)
            torch.maximum(best, values[number], out=best)
    return labels


def mark_regions(threshold: float = 0.5, channels: Sequence[int] = ()) -> Decide:
    """Bit k is set where map k, through a sigmoid, is above ``threshold``: regions may overlap.

    Args:
        channels: Given: bit k is of map ``channels[k]``.
    Raises:
        JobRefused: On use, no such channel.
        ValueError: On use, more than 16 maps.
    """

    def decide(maps: Tensor) -> Tensor:
        chosen = channels or range(len(maps))
        if max(chosen) >= len(maps):
            raise JobRefused(
                f"the network has {len(maps)} output channels, region_channels names {max(chosen)}"
            )
        if len(chosen) > 16:
            raise ValueError(f"{len(chosen)} regions do not fit into 16 bits")
        bits = torch.zeros(maps.shape[1:], dtype=torch.int32, device=maps.device)
        for number, channel in enumerate(chosen):
            bits += (torch.sigmoid(maps[channel]) > threshold).to(torch.int32) << number
        return bits.to(label_type((1 << len(chosen)) - 1))

    return decide


def largest_of_linear_head(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    above: float | None = None,
    chunk: int = 1 << 16,
) -> Decide:
    """The class whose linear map of the features is largest, without the maps of all classes.

    Args:
        weight: (classes, F) over the F maps.
        bias: (classes,).
        above: Given: class n becomes label n + 1, and 0 where no class is above this value.
        chunk: Voxels at once, twice as many on a GPU: so many times ``classes`` values exist.
    Raises:
        JobRefused: A weight, or on use the largest value of a voxel, is not a number.
    """
    for given in (weight,) if bias is None else (weight, bias):
        refuse_no_numbers(given)
    dtype = label_type(len(weight) - 1 if above is None else len(weight))

    def decide(maps: Tensor) -> Tensor:
        matrix = weight.to(maps.device, torch.float32)
        offset = None if bias is None else bias.to(matrix)[:, None]
        labels = torch.empty(maps.shape[1:], dtype=dtype, device=maps.device)
        at_once, planes, extremes = chunk, 1, []
        if maps.device.type != "cpu":  # which waits for the host between two small steps
            at_once = 2 * chunk
            planes = max(at_once // max(labels[:1].numel(), 1), 1)
        for first in range(0, len(labels), planes):  # what is not contiguous is copied
            features = maps[:, first : first + planes].flatten(1)
            decided = labels[first : first + planes].view(-1)
            for start in range(0, len(decided), at_once):
                scores = matrix @ features[:, start : start + at_once].float()
                if offset is not None:
                    scores += offset
                best, number = scores.max(0)
                extremes.append(torch.stack(torch.aminmax(best)))
                if above is not None:
                    number = torch.where(best > above, number + 1, 0)
                decided[start : start + at_once] = number.to(dtype)
        refuse_no_numbers(torch.stack(extremes))
        return labels

    return decide


class Headless:
    """A network that answers with the features before its last matrix, if it ends with one.

    ``network`` is in evaluation mode, and between two calls as it was. Its first window tells whether
    it does; every later one raises ``JobRefused`` where it is not treated alike.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._head: nn.Conv3d | None = None
        self._is_known = False

    def __call__(self, windows: Tensor) -> object:
        """The answer to windows (B, C, *roi)."""
        if not self._is_known:
            return self._first(windows)
        if self._head is None:
            return self._network(windows)
        passed: list[Tensor] = []

        def pass_on(features: Tensor) -> Tensor:
            passed.append(features)
            return features

        self._head.forward = pass_on  # type: ignore[method-assign,assignment]
        try:
            answer = self._network(windows)
        finally:
            del self._head.forward  # the class's own again
        if len(passed) != 1 or not _is_same(passed[0], answer):
            raise JobRefused(
                "the network does not do the same for every window: run this bundle in strict mode"
            )
        return answer

    def decide(self, maps: Tensor) -> Tensor:
        """Labels of blended answers, whichever they are."""
        if self._head is None:
            return take_largest(maps)
        bias = None if self._head.bias is None else self._head.bias.detach()
        return largest_of_linear_head(self._head.weight.detach().flatten(1), bias)(maps)

    def _first(self, windows: Tensor) -> object:
        calls: list[tuple[nn.Conv3d, Tensor, Tensor, tuple[int, int]]] = []

        def heard(module: nn.Conv3d, given: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append((module, given[0], output, (given[0]._version, output._version)))

        hooks = [
            module.register_forward_hook(heard)
            for module in self._network.modules()
            if type(module) is nn.Conv3d and _is_wide_matrix(module)
        ]
        try:
            # tensors made in inference mode neither count their changes nor may be changed out of it
            with torch.inference_mode(False), torch.no_grad():
                answer = self._network(windows.clone())
        finally:
            for hook in hooks:
                hook.remove()
        self._is_known = True
        last = [
            (module, features)
            for module, features, output, versions in calls
            # the network answered with it, and nothing was written over since
            if _is_same(output, answer) and (features._version, output._version) == versions
        ]
        if len(last) != 1 or sum(module is last[0][0] for module, *_ in calls) != 1:
            return answer
        self._head, features = last[0]
        return features


def _is_wide_matrix(module: nn.Conv3d) -> bool:
    """Whether a convolution looks at one voxel, makes more of it than there was, and is no more."""
    changes = (module._forward_hooks, module._forward_pre_hooks, vars(module).get("forward"))
    return not any(changes) and (
        set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and module.padding in ((0, 0, 0), "valid", "same")
        and module.groups == 1
        and module.out_channels > module.in_channels
    )


def _is_same(one: Tensor, other: object) -> bool:
    """Whether two tensors are one in memory."""
    return (
        isinstance(other, Tensor)
        and one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )
