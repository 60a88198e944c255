"""Labels as outputs are painted into them; what may not overlap is refused where it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.domain.segment import Segment
from node.infer.container.grid import Window

_REGIONS_LIMIT = 16


class Canvas:
    """A label array on the source grid that starts as background.

    Args:
        overlapping: The model's output is regions: label value n becomes bit n-1.
    """

    def __init__(
        self, shape: tuple[int, int, int], segments: Sequence[Segment], *, overlapping: bool
    ) -> None:
        highest = max(segment.label_value for segment in segments)
        if overlapping and highest > _REGIONS_LIMIT:
            raise JobFailed(
                f"regions have label values up to {_REGIONS_LIMIT}, labels.csv has {highest}",
                permanent=True,
            )
        is_small = highest <= (8 if overlapping else 255)
        self.labels: LabelArray = (
            np.zeros(shape, np.uint8) if is_small else np.zeros(shape, np.uint16)
        )
        self._names = {segment.label_value: segment.name for segment in segments}
        self._overlapping = overlapping

    def paint(self, window: Window, mask: NDArray[np.bool_], label_value: int) -> None:
        """Give the voxels under a mask to a label.

        Raises:
            JobFailed: One of them has another exclusive label; permanent.
        """
        if label_value not in self._names:
            raise JobFailed(
                f"the container's output holds label {label_value}, which labels.csv does not"
                " describe",
                permanent=True,
            )
        view = window.of(self.labels)
        if self._overlapping:
            view[mask] |= view.dtype.type(1 << (label_value - 1))
            return
        there = view[mask]
        taken = set(np.unique(there).tolist()) - {0, label_value} if there.any() else set()
        if taken:
            other = self._names[min(taken)]
            raise JobFailed(
                f"{self._names[label_value]!r} and {other!r} overlap in the container's output,"
                " and the model's labels are exclusive",
                permanent=True,
            )
        view[mask] = label_value
