"""What a network is given: the channels of one image, and where NIfTI says that they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from node.domain.grid import Floats, Grid
from node.domain.result import LabelArray
from node.infer.volume import Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED = [2, 1, 0, 3]  # (slice, row, column) against (column, row, slice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One or several channels on one grid.

    Args:
        channels: In the order of the network's input channels; all of one geometry.
    """

    channels: tuple[Volume, ...]

    def __post_init__(self) -> None:
        if not self.channels or any(each.grid != self.grid for each in self.channels):
            raise ValueError("the channels of an image are one or several, on one grid")

    @property
    def grid(self) -> Grid:
        """The grid of every channel."""
        return self.channels[0].grid


def affine_ras(grid: Grid) -> Floats:
    """From the index (column, row, slice, 1) to RAS mm, shape (4, 4).

    Rounded to single precision, which is what a NIfTI header keeps: an image from memory then lies
    where the same image from a file lies, to the last bit.

    Source: NIfTI-1, srow_x, srow_y and srow_z
    """
    exact = _LPS_TO_RAS @ grid.affine_lps[:, _REVERSED]
    return exact.astype(np.float32).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a bundle is given of its series.

    Args:
        back: From labels on the image's grid to labels on the grid of the first series.
    """

    image: Image
    back: Callable[[LabelArray], LabelArray]

    @classmethod
    def unchanged(cls, image: Image) -> Prepared:
        """An image that lies on the grid of its series."""
        return cls(image=image, back=lambda labels: labels)
