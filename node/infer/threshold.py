"""Entry of the runner kind ``python``: voxels above a threshold, of any modality.

The smallest useful model: what a new model folder can start from, and what tests send through the
road when the anatomy does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from node.domain.errors import JobRefused
from node.domain.result import LabelArray
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import RunContext
from node.infer.volume import Volume

REVISION = 1

_BINS = 1024


def run(
    spec: ModelSpec, volumes: Mapping[str, Volume], context: RunContext, report: Report
) -> LabelArray:
    """Label what is brighter than the threshold.

    Args:
        spec: Its parameters are ``method``: mean (default), otsu, or above with its ``threshold``;
            ``label_value`` (default 1); ``role``: whose voxels, where there are several volumes.
    """
    del context
    parameters = spec.runner.parameters
    role = str(parameters.get("role", next(iter(volumes))))
    if role not in volumes:
        raise JobRefused(f"there is no volume {role!r}")
    volume = volumes[role]
    threshold = _threshold(volume, parameters)
    report.note(f"threshold {threshold:g}")
    bright = volume.array > threshold
    return bright.astype(np.uint8) * np.uint8(_number(parameters.get("label_value", 1)))


def _threshold(volume: Volume, parameters: Mapping[str, object]) -> float:
    match parameters.get("method", "mean"):
        case "mean":
            return float(volume.array.mean(dtype=np.float64))
        case "otsu":
            return _otsu(volume)
        case "above":
            return _number(parameters.get("threshold"))
        case other:
            raise JobRefused(f"no threshold method {other!r}")


def _otsu(volume: Volume) -> float:
    """The threshold that separates two classes best (Otsu 1979)."""
    counts, edges = np.histogram(volume.array, bins=_BINS)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = below[-1] + counts[-1] - below
    centres = (edges[:-1] + edges[1:]) / 2
    sum_below = np.cumsum(counts * centres)
    sum_above = sum_below[-1] - sum_below[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below[:-1] / below - sum_above / above) ** 2
    return float(edges[1:-1][np.argmax(np.nan_to_num(between))])


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JobRefused(f"{value!r} is no number")
    return value
