"""A volume while it fills, slice by slice, and the one pass that ends it.

Source: PS3.3 C.11.1 (Modality LUT: rescale, table).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.frames import Frame
from node.domain.grid import Stack

VoxelArray: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
Plane: TypeAlias = NDArray[np.integer]
Mask: TypeAlias = NDArray[np.bool_]

_INT16 = np.iinfo(np.int16)


class Slab:
    """The volume while it fills: stored values while one integer rescale may do, else float32.

    Args:
        factor: What every number is multiplied with, slope and intercept first.

    Attributes:
        padding: Where padding was found; None until then.
    """

    def __init__(self, stack: Stack, factor: float) -> None:
        for frame in stack.frames:
            _require_transformation(frame)
        self._rescales = [
            (frame.slope * factor, frame.intercept * factor) for frame in stack.frames
        ]
        rescales = set(self._rescales)
        self._frames = stack.frames
        self._shape = stack.grid.shape
        self._slope, self._intercept = self._rescales[0]
        self._is_whole = (
            len(rescales) == 1 and self._slope.is_integer() and self._intercept.is_integer()
        )
        self._stored: Plane | None = None
        self._floats = np.empty(() if self._is_whole else self._shape, np.float32)
        self.padding: Mask | None = None

    def room_for(self, index: int, dtype: np.dtype[np.integer]) -> Plane | None:
        """The slice itself, where stored values of this type can be read into it as they are."""
        if not self._is_whole or self._frames[index].values.lut is not None:
            return None
        return self._slice(index, dtype)

    def put(self, index: int, plane: Plane) -> None:
        """Take the stored values of one slice."""
        lut = self._frames[index].values.lut
        plane = plane.astype(plane.dtype.newbyteorder("="), copy=False)
        if lut is not None:
            plane = lut.apply(plane)
        if not self._is_whole:
            slope, intercept = self._rescales[index]
            self._floats[index] = plane * slope + intercept
            return
        place = self._slice(index, plane.dtype)
        if place is None and self._stored is not None:
            # signed and unsigned slices in one series: a type that holds both
            self._stored = self._stored.astype(np.promote_types(self._stored.dtype, plane.dtype))
            place = self._stored[index]
        if place is not None:
            place[...] = plane

    def pad(self, index: int, where: Mask) -> None:
        """Note where a slice is padding."""
        if self.padding is None:
            self.padding = np.zeros(self._shape, bool)
        self.padding[index] = where

    def _slice(self, index: int, dtype: np.dtype[np.integer]) -> Plane | None:
        if self._stored is None:
            self._stored = np.empty(self._shape, dtype)
        return self._stored[index] if self._stored.dtype == dtype else None

    def finish(self) -> VoxelArray:
        """Apply the rescale that all slices share."""
        if self._stored is None:
            return self._floats
        stored, slope, intercept = self._stored, int(self._slope), int(self._intercept)
        ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
        if min(ends) < _INT16.min or max(ends) > _INT16.max:
            floats = np.empty(self._shape, np.float32)
            for index, plane in enumerate(stored):
                floats[index] = plane * float(slope) + float(intercept)
            return floats
        # the result fits, so arithmetic modulo 2**16 is exact and can happen in place
        whole = stored.view(np.int16) if stored.itemsize == 2 else stored.astype(np.int16)
        if slope != 1:
            whole *= _modular(slope)
        if intercept:
            whole += _modular(intercept)
        return whole


def _require_transformation(frame: Frame) -> None:
    """What the gate lets pass; a stack that came another way is held to it here."""
    values = frame.values
    is_finite = bool(np.isfinite(frame.slope) and np.isfinite(frame.intercept))
    if not is_finite or frame.slope == 0:
        raise JobFailed(f"rescale slope {frame.slope} and {frame.intercept}", permanent=True)
    if values.lut_fault or (values.lut is not None and (frame.slope, frame.intercept) != (1, 0)):
        sentence = values.lut_fault or "a Modality LUT beside Rescale Slope and Intercept"
        raise JobFailed(sentence, permanent=True)


def _modular(number: int) -> np.int16:
    return np.uint16(number % (1 << 16)).view(np.int16)
