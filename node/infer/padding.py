"""Padding: voxels that only fill the rectangle of an image, on their way in and out of a model.

A model gets them as the number that its ``model.yaml`` names. Without one that is air for Hounsfield
units: -1024, the least that 12 bits with the usual intercept hold and what scanners write beside the
reconstructed circle, so it is what networks saw there; for any other quantity it is the least number
of the volume. What a model finds there is taken out again, unless it says that labels may lie there.

Source: PS3.3 C.7.5.1.1.2
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from node.domain.quantity import Quantity
from node.domain.result import LabelArray
from node.infer.slab import Mask, VoxelArray
from node.infer.volume import Volume

AIR_HU = -1024
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Padding:
    """Where a series is padding, shape (slice, row, column), and as what the model got it.

    Args:
        given_as: None where the model read the files itself.
    """

    where: Mask
    given_as: float | None = None

    @property
    def words(self) -> str:
        """For the record of what ran."""
        number = f"{np.count_nonzero(self.where)} voxels"
        return number if self.given_as is None else f"{number} given as {self.given_as:g}"


def fill(volume: Volume, wanted: float | None) -> tuple[Volume, Padding | None]:
    """The volume with its padding as a model wants it, in place where its type can hold that.

    Args:
        wanted: The model's number; None: the one of the quantity.
    """
    where, array = volume.padding, volume.array
    if where is None:
        return volume, None
    value = _value(volume, where) if wanted is None else wanted
    is_whole = float(value).is_integer() and _INT16.min <= value <= _INT16.max
    if array.dtype == np.int16 and not is_whole:
        array = array.astype(np.float32)
    for plane, outside in zip(array, where, strict=True):
        np.copyto(plane, array.dtype.type(value), where=outside)
    return replace(volume, array=array), Padding(where=where, given_as=float(value))


def _value(volume: Volume, where: Mask) -> float:
    if volume.quantity is Quantity.HU:
        return AIR_HU
    array: VoxelArray = volume.array
    inside = array[~where]
    return float(inside.min()) if inside.size else 0.0


def cleared(labels: LabelArray, padding: Padding) -> tuple[LabelArray, int]:
    """The labels without those on padding, and how many voxels lost theirs."""
    number = int(np.count_nonzero(labels[padding.where]))
    if number:
        labels = labels if labels.flags.writeable else labels.copy()
        labels[padding.where] = 0
    return labels, number
