"""The cube that brainchop's networks take, and the way back of their labels.

256 x 256 x 256 voxels of 1 mm, axes from right to left, superior to inferior, posterior to anterior
(LIA), around the centre of the volume, 8 bits: what FreeSurfer's ``conform`` and brainchop's viewer
make of a head. The brightest thousandth of the voxels that are not zero saturates, so that a single
hot voxel does not darken the brain. Values that are 8 bits already stay as they are, there as here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.frames import Triple
from node.domain.grid import Grid
from node.infer.brain.register import resampled
from node.infer.volume import Volume

SIDE = 256  # voxels of 1 mm
# to the left, inferior, anterior, in LPS
_STEPS_MM: tuple[Triple, Triple, Triple] = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0))
_SATURATED = 0.001
_BRIGHTEST = 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cube:
    """A volume in the cube.

    Args:
        array: Shape (256, 256, 256), index (left, inferior, anterior), 0 to 255.
        grid: Of ``array``.
        source: The grid that the volume came from.
        cut_mm: How much of the field of view lies outside the cube at each of its ends: along left,
            inferior, anterior.
    """

    array: NDArray[np.uint8]
    grid: Grid
    source: Grid
    cut_mm: Triple

    def back(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of the cube on the grid of the source, each voxel by the nearest one."""
        return resampled(labels, self.grid, self.source, way="nearest")


def conform(volume: Volume) -> Cube:
    """The volume in the cube around its centre.

    Raises:
        JobRefused: All its voxels are equal.
    """
    grid = _cube_over(volume.grid)
    low, high = _range(volume.array)
    above = volume.array.astype(np.float32)
    above -= low  # so that what lies outside the volume is as dark as its darkest voxel
    values = resampled(above, volume.grid, grid, way="linear")
    values *= _BRIGHTEST / (high - low)
    return Cube(
        array=np.rint(np.clip(values, 0, _BRIGHTEST, out=values)).astype(np.uint8),
        grid=grid,
        source=volume.grid,
        cut_mm=_cut_mm(volume.grid),
    )


def _cube_over(source: Grid) -> Grid:
    """The cube with the centre of the source, so that flipped axes give the same voxels."""
    affine = source.affine_lps
    centre = affine[:3, :3] @ ((np.array(source.shape) - 1) / 2) + affine[:3, 3]
    origin = centre - (SIDE - 1) / 2 * np.array(_STEPS_MM).sum(axis=0)
    x, y, z = (float(value) for value in origin)
    return Grid(
        shape=(SIDE, SIDE, SIDE),
        origin_mm=(x, y, z),
        steps_mm=_STEPS_MM,
        frame_of_reference_uid=source.frame_of_reference_uid,
    )


def _cut_mm(source: Grid) -> Triple:
    steps = np.abs(np.array(source.steps_mm))
    x, y, z = (float(mm) for mm in np.array(source.shape) @ steps)
    left, inferior, anterior = (max(0.0, (mm - SIDE) / 2) for mm in (x, z, y))
    return (left, inferior, anterior)


def _range(array: NDArray[np.int16] | NDArray[np.float32]) -> tuple[float, float]:
    """What becomes 0 and what becomes 255."""
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all() or low == high:
        raise JobRefused("the series has no contrast: all its voxels are equal")
    if array.dtype.kind == "i" and low >= 0 and high <= _BRIGHTEST:
        return 0.0, float(_BRIGHTEST)
    saturated = int(_SATURATED * np.count_nonzero(array))
    place = array.size - 1 - saturated
    bright = float(np.partition(array, place, axis=None)[place])
    return (low, bright) if bright > low else (low, high)


def unit_range(array: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values from 0 to 1: brainchop's min-max scaling."""
    low, high = int(array.min()), int(array.max())
    if low == high:
        raise JobRefused("the series has no contrast in the middle of its field")
    return (array.astype(np.float32) - low) / np.float32(high - low)
