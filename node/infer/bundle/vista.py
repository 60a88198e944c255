"""VISTA3D, which is asked for classes by number, without a map of every class.

Its class head is one matrix, made of the numbers that are asked for, on a feature map that does not
depend on them. Windows are therefore blended as features, 48 maps however many classes are asked
for, and the matrix is applied to planes that no later window touches. Sums are the same in another
order: a voxel may get another label than from the bundle's own way only where its two largest
values differ by a rounding error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.apps.vista3d.transforms import VistaPreTransformd
from monai.inferers.inferer import SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.networks.nets.vista3d import VISTA3D
from torch import Tensor

from node.domain.errors import JobRefused
from node.infer.bundle.decide import label_type, largest_of_linear_head
from node.infer.bundle.windows import Network, Windowing, label_windows, windowing_of

_WINDOWS = SlidingWindowInfererAdapt.__name__


def is_vista(network: object) -> bool:
    """Whether a network is MONAI's VISTA3D."""
    return isinstance(network, VISTA3D)


def vista_labels(
    image: Tensor,
    network: Any,
    windowing: Windowing,
    prompts: Sequence[int],
    recorded: Callable[[Network], Network] | None = None,
) -> Tensor:
    """For each voxel the prompt with the largest value above 0, or 0.

    Args:
        image: Preprocessed, (1, X, Y, Z).
        network: VISTA3D on the device of the windows, in evaluation mode.
        prompts: Global numbers of classes; of equal values the first counts.
        recorded: Makes one that answers alike of the part that sees windows.

    Returns:
        The prompts' own numbers, (X, Y, Z), of the type ``label_type``.

    Raises:
        JobFailed: There is no prompt, or see ``label_windows``.
    """
    if not prompts:
        raise JobRefused("no class is asked for: name one in labels")
    numbers = torch.tensor([0, *prompts], dtype=torch.int32)
    dtype = label_type(int(numbers.max()))
    largest = largest_of_linear_head(_class_matrix(network, prompts), above=0.0)

    def decide(features: Tensor) -> Tensor:
        chosen = largest(features)
        return numbers.to(chosen.device)[chosen.int()].to(dtype)

    def encode(windows: Tensor) -> Tensor:
        _, automatic = network.image_encoder(windows, with_point=False, with_label=True)
        features: Tensor = network.class_head.image_post_mapping(automatic)
        return features

    asked = recorded(encode) if recorded else encode
    return label_windows(image, asked, decide, windowing)


def vista_windowing(inferer: Any, network: object) -> Windowing:
    """How a bundle's own inferer cuts and blends windows where classes alone are asked for.

    It is not said in its configuration: the overlap there is for points only. So the inferer is
    asked for a class in an image of one voxel, and heard out on the sliding window it makes for it.

    Raises:
        JobRefused: It makes none.
    """
    windows = inferer if isinstance(inferer, SlidingWindowInferer) else _heard(inferer, network)
    if windows is None:
        raise JobRefused(
            f"an inferer {type(inferer).__name__} does not tell its windows: run this bundle in strict"
            " mode"
        )
    windows.with_coord = False  # only points are placed by the coordinates
    return windowing_of(windows)


class _Heard(Exception):
    """The inferer has made its sliding window."""

    def __init__(self, windows: SlidingWindowInferer) -> None:
        self.windows = windows


def _heard(inferer: Any, network: object) -> SlidingWindowInferer | None:
    """The sliding window of an inferer that comes as far as that, and no further."""

    def listen(*args: Any, **settings: Any) -> None:
        raise _Heard(SlidingWindowInfererAdapt(*args, **settings))

    # the names that the bundle's own code sees
    names = getattr(type(inferer).__call__, "__globals__", {})
    own = names.get(_WINDOWS)
    if own is None:
        return None
    names[_WINDOWS] = listen
    try:
        inferer(
            inputs=torch.zeros(1, 1, 1, 1, 1),
            network=network,
            point_coords=None,
            point_labels=None,
            class_vector=torch.ones(1, 1, dtype=torch.long),
        )
    except _Heard as heard:
        return heard.windows
    except (TypeError, AttributeError):
        pass
    finally:
        names[_WINDOWS] = own
    return None


def prompts_of(parser: Any, transforms: Sequence[Any], wanted: Sequence[int]) -> list[int]:
    """The classes to ask for: those that a job names, or all that the bundle's configuration names.

    Args:
        parser: MONAI's over the bundle's configuration.
        transforms: Its preprocessing, which puts ``left kidney`` and ``right kidney`` for ``kidney``.
        wanted: Label values; none: everything.

    Raises:
        JobRefused: The bundle knows no classes, or refuses one of these.
    """
    everything = parser.get_parsed_content("evaluator#hyper_kwargs#everything_labels")
    if not wanted:
        return [int(number) for number in everything]
    prompts = list(dict.fromkeys(_expanded(transforms, wanted)))
    check = _check_of(parser)
    refused = [number for number in prompts if not _is_known(number, check, everything)]
    if refused:
        listed = ", ".join(map(str, refused))
        raise JobRefused(
            f"the bundle does not know {listed} as a class of its own: take it out of labels"
        )
    return prompts


def _expanded(transforms: Sequence[Any], wanted: Sequence[int]) -> list[int]:
    for transform in transforms:
        if isinstance(transform, VistaPreTransformd):
            asked: dict[str, Any] = {"label_prompt": list(wanted)}
            return [int(number) for number in transform(asked)["label_prompt"]]
    return list(wanted)


def _is_known(number: int, check: Any, everything: Sequence[int]) -> bool:
    if check is None:
        return number in everything
    try:
        check(None, [torch.tensor([number])], None, None)
    except ValueError:
        return False
    return True


def _check_of(parser: Any) -> Any:
    """What the bundle's own evaluator refuses classes with, which needs no evaluator to be made."""
    module, _, name = str(parser["evaluator#_target_"]).rpartition(".")
    try:
        evaluator = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise JobRefused(
            f"the bundle's {name} cannot be asked which classes it knows: pip install"
            " segnode[monai], or take labels out of the rule"
        ) from error
    return getattr(evaluator, "check_prompts_format", None)


def _class_matrix(network: Any, prompts: Sequence[int]) -> Tensor:
    """One row of weights over the features for each class, (classes, F)."""
    head = network.class_head
    device = head.class_embeddings.weight.device
    with torch.inference_mode():
        rows = head.class_embeddings(torch.tensor(prompts, device=device)[:, None])
        if head.use_mlp:
            rows = head.mlp(rows)
        matrix: Tensor = rows[:, 0].float()
    return matrix
