"""A network's last step, where it is a matrix, moved behind the blending of windows.

Blending is linear, and so is a 1 x 1 x 1 convolution: where a network ends with one that makes many
classes of few features (SegResNet: 105 of 32), the features are blended and the classes are made
once, of finished planes. A window is then a third of the memory, and a voxel is not classified once
for every window it lies in. Sums are the same in another order: a voxel may get another label than
from the network's own answer only where its two largest values differ by a rounding error.

Nothing is assumed of a network: at its first window it answers as it always does, and only where
that answer is the very output of such a convolution are its features taken from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.domain.errors import JobFailed
from node.infer.bundle.decide import largest_of_linear_head, take_largest
from node.infer.bundle.windows import Advanced, Windowing, label_windows


def largest_by_windows(
    image: Tensor,
    network: nn.Module,
    windowing: Windowing,
    advanced: Advanced | None = None,
) -> Tensor:
    """For each voxel the number of the class with the largest blended value.

    Args:
        image: Preprocessed, (C, X, Y, Z).
        network: In evaluation mode, on the device of the windows.
        advanced: Told after each row of windows: windows done, windows in all.

    Returns:
        Labels (X, Y, Z), ``uint8`` where all classes fit, else ``uint16``.

    Raises:
        JobFailed: See ``label_windows``.
    """
    headless = _Headless(network)
    try:
        return label_windows(image, headless, headless.decide, windowing, advanced)
    finally:
        headless.give_back()


@dataclass(frozen=True, slots=True)
class _Call:
    """One use of a module that could be the head; its tensors count their changes."""

    module: nn.Conv3d
    features: Tensor
    output: Tensor
    versions: tuple[int, int]

    def is_answer(self, answer: object) -> bool:
        """Whether the network answered with the output, and nothing was written over since."""
        now = (self.features._version, self.output._version)
        return _is_same(self.output, answer) and now == self.versions


class _Headless:
    """A network that answers with the features before its last matrix, if it ends with one."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._head: nn.Conv3d | None = None
        self._is_known = False
        self._passed: list[Tensor] = []

    def __call__(self, windows: Tensor) -> object:
        if not self._is_known:
            return self._first(windows)
        answer = self._network(windows)
        if self._head is not None:
            passed, self._passed = self._passed, []
            if len(passed) != 1 or not _is_same(passed[0], answer):
                raise JobFailed(
                    "the network does not do the same for every window: run this bundle in strict"
                    " mode",
                    permanent=True,
                )
        return answer

    def decide(self, maps: Tensor) -> Tensor:
        """Labels of blended answers, whichever they are."""
        if self._head is None:
            return take_largest(maps)
        bias = None if self._head.bias is None else self._head.bias.detach()
        return largest_of_linear_head(self._head.weight.detach().flatten(1), bias)(maps)

    def give_back(self) -> None:
        """The network becomes as it was."""
        if self._head is not None:
            del self._head.forward  # the class's own again
        self._head = None

    def _first(self, windows: Tensor) -> object:
        calls: list[_Call] = []

        def heard(module: nn.Conv3d, given: tuple[Tensor, ...], output: Tensor) -> None:
            versions = (given[0]._version, output._version)
            calls.append(_Call(module=module, features=given[0], output=output, versions=versions))

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
        last = [call for call in calls if call.is_answer(answer)]
        if len(last) != 1 or sum(call.module is last[0].module for call in calls) != 1:
            return answer
        self._head = last[0].module
        self._head.forward = self._pass  # type: ignore[method-assign,assignment]
        return last[0].features

    def _pass(self, features: Tensor) -> Tensor:
        self._passed.append(features)
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
