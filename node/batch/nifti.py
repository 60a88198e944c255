"""Labels as NIfTI images, for programs that read no DICOM.

The image lies on the grid of the source series: SimpleITK turns its LPS geometry into the RAS affine
that NIfTI wants. Values are those of the model's labels.csv. Regions that may overlap become one
image each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from node.assemble.gate import judge_geometry
from node.domain.errors import JobFailed, SeriesUnusable
from node.domain.frames import frames_of
from node.domain.grid import Grid
from node.domain.result import LabelArray
from node.infer.registry import ModelSpec

NIFTI_EXT = "nii.gz"


def geometry_of(files: Mapping[str, Path]) -> Grid:
    """The grid of a series that a job was made of.

    Raises:
        SeriesUnusable: It is no regular volume any more.
    """
    frames = [
        frame
        for path in files.values()
        for frame in frames_of(dcmread(path, stop_before_pixels=True, force=True))
    ]
    verdict = judge_geometry(frames)
    if verdict.stack is None:
        raise SeriesUnusable(verdict.findings)
    return verdict.stack.grid


def images_of(model: ModelSpec) -> Mapping[str, int | None]:
    """File extension -> what the image holds: a region's label value, or None for all labels."""
    if not model.has_regions:
        return {NIFTI_EXT: None}
    return {f"{segment.name}.{NIFTI_EXT}": segment.label_value for segment in model.segments}


def image_of(labels: LabelArray, region: int | None) -> LabelArray:
    """All labels, or one region that may overlap others as zeros and ones."""
    if region is None:
        return labels
    return (labels >> (region - 1) & 1).astype(np.uint8)


def write_nifti(path: Path, labels: LabelArray, grid: Grid, text: str) -> None:
    """Write one image of whole numbers, compressed.

    Args:
        text: At most 79 ASCII characters, kept in the header.
    Raises:
        JobFailed: The disk did not take it.
    """
    import SimpleITK  # here: a run that writes no image need not wait for it

    itk: Any = SimpleITK  # its functions carry no types
    # readers know signed 16 bit everywhere, unsigned not
    whole = labels if labels.dtype == np.uint8 else labels.astype(np.int16)
    image = itk.GetImageFromArray(whole)
    between_slices, between_rows, between_columns = np.array(grid.steps_mm)
    spacing_mm = np.linalg.norm([between_columns, between_rows, between_slices], axis=1)
    column, row = between_columns / spacing_mm[0], between_rows / spacing_mm[1]
    # the gate lets a stack lean by less than a pixel; the image's axes must be at right angles
    normal = np.cross(column, row)
    spacing_mm[2] = between_slices @ normal
    image.SetOrigin([float(value) for value in grid.origin_mm])
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection(np.column_stack([column, row, normal]).ravel().tolist())
    image.SetMetaData("ITK_FileNotes", text)
    try:
        itk.WriteImage(image, str(path), True)
    except RuntimeError:  # whatever went wrong, it tells no more
        raise JobFailed(f"{path.name} cannot be written: is the disk full?") from None
