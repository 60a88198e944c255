"""Values of one grid at the places of another, in patient space."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from node.domain.grid import Floats, Grid

_ITK: Any = SimpleITK  # its functions carry no types

Array = TypeVar("Array", bound=NDArray[Any])
IDENTITY: Floats = np.eye(4)


def resampled(
    array: Array,
    source: Grid,
    target: Grid,
    *,
    move: Floats = IDENTITY,
    way: Literal["linear", "nearest"],
) -> Array:
    """The values of an array at the voxel centres of another grid; 0 outside its own.

    Args:
        array: On ``source``. Half a voxel beyond its outermost centres is inside.
        move: Homogeneous matrix from a point of the target, LPS mm, to that point of the source.
    """
    index = np.linalg.inv(source.affine_lps) @ move @ target.affine_lps
    # in index space, so that any affine will do; ITK counts (column, row, slice)
    transform = _ITK.AffineTransform(3)
    transform.SetMatrix(index[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(index[:3, 3][::-1].tolist())
    moved = _ITK.Resample(
        _ITK.GetImageFromArray(array),
        target.shape[::-1],
        transform,
        _ITK.sitkLinear if way == "linear" else _ITK.sitkNearestNeighbor,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        0.0,
    )
    values: Array = _ITK.GetArrayFromImage(moved)
    return values


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether both have the same voxels in one Frame of Reference, within a thousandth of a mm."""
    return (
        one.shape == other.shape
        and one.frame_of_reference_uid == other.frame_of_reference_uid
        and bool(np.allclose(one.affine_lps, other.affine_lps, rtol=0.0, atol=1e-3))
    )
