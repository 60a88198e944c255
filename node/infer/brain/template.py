"""A T1 on a template's grid: what NV-Segment-CTMR's MRI_BRAIN classes were trained on, in-process.

The published steps are SynthStrip, N4, scaling of the white matter's histogram peak, a cut at the
99.9th percentile, 1 mm, affine registration by mean squares, and for labels all of it backwards. Here:

- mindgrab in place of SynthStrip; no container. The two were not compared.
- N4 over the brain mask, fitted on voxels of about 4 mm as ANTs does, applied to the full resolution.
- The division by the 99.9th percentile follows the scaling of the histogram peak, and any positive
  factor before it cancels. So the peak need not be looked for, and the values are the same.
- Registration in patient space, from centres of mass by way of a rigid movement, and one
  interpolation from the source to the template in place of two.

Source: NV-Segment-CTMR, brain_t1_preprocess; Tustison et al. 2010 (N4).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.grid import Grid
from node.infer.brain.brainchop import skull_strip
from node.infer.brain.register import affine, itk_image, one_thread, resampled, rigid
from node.infer.bundle.image import Prepared
from node.infer.report import Report
from node.infer.volume import Volume, VoxelArray

REVISION = 1

_ITK: Any = SimpleITK  # its functions carry no types

TEMPLATE = "template/"  # where models that need one declare it
_BRIGHT_PERCENTILE = 99.9
_FIELD_MM = 4.0  # voxels that the bias field is fitted on
_FIELD_ITERATIONS = (50, 50, 50, 50)
_FIELD_CONVERGENCE = 1e-7


def prepare(
    volumes: Mapping[str, Volume], files: Mapping[str, Path], device: str, report: Report
) -> Prepared:
    """The only volume, a T1, skull-stripped and on the template's grid.

    Args:
        files: The template and the files of the network mindgrab, by their declared paths.
    Raises:
        JobRefused: A file is not declared, no brain is found, or it cannot be registered.
    """
    (volume,) = volumes.values()
    templates = [path for name, path in files.items() if name.startswith(TEMPLATE)]
    if len(templates) != 1:
        raise JobRefused(f"model.yaml names no one file below {TEMPLATE}")
    brain = skull_strip(volume, files, device=device, report=report)
    return onto_template(volume, brain, templates[0], report=report)


def onto_template(
    volume: Volume, brain: NDArray[np.bool_], template: Path, *, report: Report
) -> Prepared:
    """A T1 as the network wants it, 0 to 1, and 0 outside the brain.

    Args:
        brain: On the grid of the volume, as ``skull_strip`` finds it.
        template: A skull-stripped T1 as NIfTI.
    Raises:
        JobRefused: The template cannot be read, or the brain cannot be registered to it.
    """
    target = read_template(template)
    with report.stage("even out"):
        even = in_unit_range(without_bias(volume, brain))
        moving = Volume(array=even, grid=volume.grid)
    with report.stage("register"):
        fixed = Volume(array=in_unit_range(target.array), grid=target.grid)
        start = rigid(fixed, moving, metric="mean squares", shares_coordinates=False)
        move = affine(fixed, moving, start)
        factor = float(np.linalg.det(move[:3, :3]))
        report.note(f"the template's brain has {1 / factor:.2f} times the volume of this one")
    values = resampled(even, volume.grid, target.grid, move=move, way="linear")
    back = np.asarray(np.linalg.inv(move), np.float64)
    return Prepared(
        channels=(Volume(array=values, grid=target.grid),),
        back=lambda labels: resampled(labels, target.grid, volume.grid, move=back, way="nearest"),
    )


def without_bias(volume: Volume, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The brain divided by its slow brightness field (N4); 0 outside it."""
    image = itk_image(volume)
    mask = itk_image(Volume(array=brain.astype(np.int16), grid=volume.grid)) > 0.5
    factors = [max(1, round(_FIELD_MM / spacing)) for spacing in image.GetSpacing()]
    n4 = _ITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_FIELD_ITERATIONS)
    n4.SetConvergenceThreshold(_FIELD_CONVERGENCE)
    try:
        with one_thread():
            n4.Execute(_ITK.Shrink(image, factors), _ITK.Shrink(mask, factors))
        field = _ITK.GetArrayFromImage(_ITK.Exp(n4.GetLogBiasFieldAsImage(image)))
    except RuntimeError as error:
        raise JobRefused(
            "the brightness of the brain cannot be evened out: is it empty or uniform?"
        ) from error
    even: NDArray[np.float32] = np.where(brain, volume.array / np.maximum(field, 1e-6), 0)
    return even.astype(np.float32, copy=False)


def in_unit_range(stripped: VoxelArray) -> NDArray[np.float32]:
    """Positive values over their 99.9th percentile, cut at 1; what is not positive is 0."""
    positive = stripped[stripped > 0]
    if not positive.size:
        raise JobRefused("there is no brain with positive values")
    top = np.float32(np.percentile(positive, _BRIGHT_PERCENTILE))
    scaled: NDArray[np.float32] = np.clip(stripped / top, 0, 1)
    return scaled


def read_template(path: Path) -> Volume:
    """The image of a NIfTI file."""
    try:
        image = _ITK.ReadImage(str(path), _ITK.sitkFloat32)
    except RuntimeError as error:
        raise JobRefused(f"the template {path.name} cannot be read") from error
    if image.GetDimension() != 3:
        raise JobRefused(f"the template {path.name} is no volume")
    columns, rows, slices = image.GetSize()
    steps = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())).T
    a, b, c = steps[::-1].tolist()
    return Volume(
        array=_ITK.GetArrayFromImage(image),
        grid=Grid(
            shape=(slices, rows, columns),
            origin_mm=image.GetOrigin(),
            steps_mm=(tuple(a), tuple(b), tuple(c)),
            frame_of_reference_uid="",
        ),
    )
