"""What a network is given: the channels of one image, and the way back of their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node.domain.result import LabelArray
from node.infer.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The image of one or several series.

    Args:
        channels: In the order of the network's input channels, all on one grid.
        back: From labels on that grid to labels on the grid of the first series.
    """

    channels: tuple[Volume, ...]
    back: Callable[[LabelArray], LabelArray]
