"""A NIfTI label map that a container wrote, read as labels on the source grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.infer.container.grid import Floats, SourceGrid
from node.infer.container.paint import Canvas


def paint_label_map(path: Path, grid: SourceGrid, canvas: Canvas) -> None:
    """Paint the labels of a file, whose values are those of labels.csv, onto the source grid.

    Raises:
        JobFailed: It is no label map, lies elsewhere or has values that the model does not
            describe; permanent.
    """
    values, affine_lps = _read(path)
    if values.ndim != 3:
        raise _refused("is not one volume of single values")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise _refused("holds values that are no labels")
    window = grid.place_volume(affine_lps, values.shape)
    present = np.unique(values)
    if np.any(present != np.floor(present)) or present[0] < 0:
        raise _refused("holds values that are no labels: negative ones or fractions")
    for value in present:
        if value:
            canvas.paint(window, np.asarray(values == value), int(value))


def _read(path: Path) -> tuple[NDArray[Any], Floats]:
    """The values, shape (k, j, i), and from that index to LPS millimetres, SimpleITK's own frame."""
    library: Any = sitk  # has no types
    try:
        image = library.ReadImage(str(path))
    except RuntimeError as error:
        raise _refused("cannot be read as NIfTI") from error
    affine_lps = np.eye(4)
    if image.GetDimension() == 3:
        direction = np.array(image.GetDirection()).reshape(3, 3)
        affine_lps[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
        affine_lps[:3, 3] = image.GetOrigin()
    return np.asarray(sitk.GetArrayFromImage(image)), affine_lps


def _refused(why: str) -> JobFailed:
    return JobFailed(f"the container's output {why}", permanent=True)
