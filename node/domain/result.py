"""Results: what a model hands on, on the source grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.domain.geometry import Stack

LabelArray = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVolume:
    """Exclusive labels on the source grid, never one-hot.

    Args:
        labels: Shape (slice, row, column), unsigned 8 or 16 bit; 0 is background.
    """

    labels: LabelArray
    stack: Stack

    def __post_init__(self) -> None:
        if self.labels.shape != self.stack.geometry.shape:
            raise ValueError(
                f"labels {self.labels.shape} are not on the source grid {self.stack.geometry.shape}"
            )
        if self.labels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"labels of type {self.labels.dtype}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who made a result, of what, with what: written into the object and into the job's row.

    Args:
        weights_digest: sha256 of the weights, or empty for a model without weights.
        content_date: DA, fixed in the job's row.
        content_time: TM, fixed in the job's row.
        replaces: SOP Instance UID of the result of the revision before, or empty.
    """

    model_name: str
    model_version: str
    model_digest: str
    weights_digest: str = ""
    node_version: str
    config_digest: str
    parameters: dict[str, str] = field(default_factory=dict)
    research_use: bool = True
    series_number: int
    content_date: str
    content_time: str
    revision: int = 1
    replaces: str = ""
