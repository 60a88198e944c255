"""The files between this package and a bundle's own command: an image there, labels back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Floats, Grid
from node.domain.result import LabelArray
from node.infer.bundle.image import Image, affine_ras

TOLERANCE_VOXELS = 0.1
"""How far a corner of the result may lie off that of the image; headers round to single precision."""

_ENDINGS = (".nii", ".nii.gz")


def write_image(image: Image, folder: Path) -> list[str]:
    """One file for each channel, named by its number.

    Returns:
        The names of the files in the folder.
    """
    import nibabel

    make: Any = nibabel.Nifti1Image  # has no types
    names = [f"image_{number}.nii" for number in range(len(image.channels))]
    for name, channel in zip(names, image.channels, strict=True):
        written = make(channel.array.transpose(), affine_ras(image.grid))
        nibabel.save(written, folder / name)
    return names


def read_labels(folder: Path, grid: Grid) -> LabelArray:
    """The one label file somewhere below a folder, on the grid of the image.

    Raises:
        JobFailed: There is not one, it lies on another grid, or its values are no labels; permanent.
    """
    import nibabel

    files = sorted(path for path in folder.rglob("*") if path.name.endswith(_ENDINGS))
    if len(files) != 1:
        raise JobFailed(f"the bundle wrote {len(files)} NIfTI files, not one", permanent=True)
    image: Any = nibabel.load(files[0])  # has no types
    values = np.asarray(image.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        shape = " x ".join(str(size) for size in values.shape)
        raise JobFailed(f"the bundle wrote {shape} values, not one label map", permanent=True)
    return _labels(_on_grid(values, np.asarray(image.affine, np.float64), grid))


def _on_grid(values: NDArray[Any], affine: Floats, grid: Grid) -> NDArray[Any]:
    """Values with the shape (slice, row, column), whatever order and direction their axes have.

    Args:
        affine: From the index of a value to RAS mm, shape (4, 4).
    """
    to_image = np.linalg.inv(affine_ras(grid)) @ affine
    axes = np.abs(to_image[:3, :3]).argmax(axis=1)  # of the result, by axis of the image
    size = grid.shape[::-1]
    if sorted(axes) != [0, 1, 2] or tuple(values.shape[axis] for axis in axes) != size:
        raise _elsewhere(values.shape, grid)
    signs = np.sign(to_image[range(3), axes])
    expected = np.zeros((3, 4))
    expected[range(3), axes] = signs
    expected[:, 3] = np.where(signs < 0, np.array(size) - 1, 0)
    corners = np.array([*product(*((0, n - 1) for n in values.shape))])
    corners = np.column_stack([corners, np.ones(len(corners))])
    if np.abs(corners @ (to_image[:3] - expected).T).max() > TOLERANCE_VOXELS:
        raise _elsewhere(values.shape, grid)
    aligned = values.transpose(axes)[tuple(slice(None, None, int(sign)) for sign in signs)]
    return aligned.transpose()


def _elsewhere(shape: Sequence[int], grid: Grid) -> JobFailed:
    given = " x ".join(str(size) for size in shape)
    wanted = " x ".join(str(size) for size in grid.shape[::-1])
    return JobFailed(
        f"the bundle wrote {given} voxels that are not the {wanted} of its image", permanent=True
    )


def _labels(values: NDArray[Any]) -> LabelArray:
    if not np.isfinite(values).all():
        raise JobFailed("the bundle returned values that are not numbers", permanent=True)
    highest = int(values.max())
    if values.min() < 0 or highest > 65535 or np.any(values != np.floor(values)):
        raise JobFailed("the bundle returned values that are no labels", permanent=True)
    if highest < 256:
        return np.ascontiguousarray(values, np.uint8)
    return np.ascontiguousarray(values, np.uint16)
