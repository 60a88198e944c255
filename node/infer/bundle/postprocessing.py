"""What a bundle does with its network's answer, sorted into what can be done window by window.

labels     [softmax] argmax, then anything: windows decide, the rest works on the label map
regions    sigmoid, [Invertd of nothing], threshold: windows decide, one bit for each region
classes    VistaPostTransformd, then anything: as labels, of the classes that are asked for
maps       anything else: in the bundle's order, on the maps of the whole image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from monai.apps.vista3d.transforms import VistaPostTransformd
from monai.transforms.io.dictionary import SaveImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd

from node.domain.errors import JobFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class PostPlan:
    """How to get from blended answers to labels.

    Args:
        rest: Transforms that follow on the whole.
        threshold: Of regions, on the sigmoid of an answer.
    """

    kind: Literal["labels", "classes", "regions", "maps"]
    rest: tuple[Any, ...]
    threshold: float = 0.5


def plan_post(transforms: Sequence[Any], *, regions: bool) -> PostPlan:
    """Sort the transforms of a bundle.

    Args:
        regions: The model hands on regions: everything up to the threshold counts.
    Raises:
        JobFailed: Regions are wanted of a bundle that has no threshold; permanent.
    """
    kept = tuple(each for each in transforms if not isinstance(each, SaveImaged))
    if regions:
        return _plan_regions(kept)
    if kept and isinstance(kept[0], VistaPostTransformd):
        return PostPlan(kind="classes", rest=kept[1:])
    start = 1 if kept and _is_activation(kept[0], softmax=True) else 0
    if len(kept) > start and _is_argmax(kept[start]):
        return PostPlan(kind="labels", rest=kept[start + 1 :])
    return PostPlan(kind="maps", rest=kept)


def _plan_regions(kept: Sequence[Any]) -> PostPlan:
    is_first = bool(kept) and _is_activation(kept[0], sigmoid=True)
    inverts = tuple(each for each in kept[1:] if isinstance(each, Invertd))
    for each in kept[1:]:
        if isinstance(each, AsDiscreted) and _threshold(each) is not None and is_first:
            return PostPlan(kind="regions", rest=inverts, threshold=float(each.threshold[0]))
        if not isinstance(each, Invertd):
            break
    raise JobFailed(
        "the bundle's postprocessing is not sigmoid and threshold: this model cannot hand on"
        " regions, say outputs: [labels]",
        permanent=True,
    )


def _is_activation(transform: Any, *, softmax: bool = False, sigmoid: bool = False) -> bool:
    return (
        isinstance(transform, Activationsd)
        and transform.softmax == (softmax,)
        and transform.sigmoid == (sigmoid,)
        and transform.other == (None,)
    )


def _is_argmax(transform: Any) -> bool:
    return (
        isinstance(transform, AsDiscreted)
        and transform.argmax == (True,)
        and list(transform.to_onehot) == [None]
        and list(transform.threshold) == [None]
        and not any(transform.rounding)
        and not transform.converter.kwargs
    )


def _threshold(transform: Any) -> float | None:
    if any(transform.argmax) or list(transform.to_onehot) != [None] or any(transform.rounding):
        return None
    (threshold,) = transform.threshold
    return None if threshold is None else float(threshold)
