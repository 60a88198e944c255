"""Two volumes in one space: registration, and the values of one grid at the places of another.

The same two volumes always give the same matrix.

A registration starts from the best of several guesses: the series' own coordinates where they share a
Frame of Reference, centres of the grids, centres of mass. Then the metric is followed from coarse to
fine. What comes out is a matrix between points in LPS mm, so that each volume is interpolated once,
from its own grid to wherever it is wanted.

Source: Mattes et al. 2003 (mutual information), as in ITK's ImageRegistrationMethod.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.grid import Floats, Grid
from node.infer.report import Report
from node.infer.volume import Volume

_ITK: Any = SimpleITK  # its functions carry no types

Array = TypeVar("Array", bound=NDArray[Any])
Metric: TypeAlias = Literal["mutual information", "mean squares"]

IDENTITY: Floats = np.eye(4)

_LEVELS_MM = (4.0, 2.0, 1.0)  # size of the voxels that the metric looks at
_SAMPLES = 150_000  # voxels that the metric looks at, per level
_BINS = 32
_SEED = 1
_ITERATIONS = 150
_LEAST_STEP_MM = 1e-3


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


def itk_image(volume: Volume) -> Any:
    """A volume as an ITK image of floats, whose physical points are LPS mm."""
    image = _ITK.GetImageFromArray(volume.array.astype(np.float32, copy=False))
    affine_lps, spacing = volume.grid.affine_lps, np.array(volume.grid.spacing_mm)
    image.SetOrigin(volume.grid.origin_mm)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


def align(fixed: Volume, moving: Volume, name: str, report: Report) -> Floats:
    """The rigid movement from a point of the fixed volume to that point of the moving one.

    Two series on one grid in one Frame of Reference are taken as aligned already: a scanner that
    copied the grid measured them in one go, and a registration would only add its own error.

    Args:
        name: Of the moving series, for the record.
    Returns:
        Homogeneous matrix, LPS mm to LPS mm.
    Raises:
        JobRefused: The volumes cannot be brought to overlap.
    """
    if same_grid(fixed.grid, moving.grid):
        report.note(f"{name}: not registered, it has the grid and Frame of Reference of the first")
        return np.eye(4)
    shared = fixed.grid.frame_of_reference_uid == moving.grid.frame_of_reference_uid
    matrix = rigid(fixed, moving, metric="mutual information", shares_coordinates=shared)
    cosine = np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1.0, 1.0)
    degrees, middle = np.degrees(np.arccos(cosine)), _middle_of(fixed.grid)
    mm = np.linalg.norm((matrix @ middle - middle)[:3])
    report.note(f"{name}: registered, turned by {degrees:.1f} degrees and moved by {mm:.1f} mm")
    return matrix


def rigid(fixed: Volume, moving: Volume, *, metric: Metric, shares_coordinates: bool) -> Floats:
    """The rotation and translation that bring a moving volume onto a fixed one."""
    return _followed(metric, fixed, moving, partial(_guesses, shares_coordinates))


def _guesses(shares_coordinates: bool, fixed: Any, moving: Any) -> list[Any]:
    """Movements to start from."""
    initializer = _ITK.CenteredTransformInitializerFilter
    guesses = [
        _ITK.Euler3DTransform(
            _ITK.CenteredTransformInitializer(fixed, moving, _ITK.Euler3DTransform(), kind)
        )
        for kind in (initializer.GEOMETRY, initializer.MOMENTS)
    ]
    if shares_coordinates:
        stay = _ITK.Euler3DTransform()
        stay.SetCenter(guesses[0].GetCenter())
        guesses.insert(0, stay)
    return guesses


def affine(fixed: Volume, moving: Volume, start: Floats) -> Floats:
    """The affine movement that follows a rigid one, by mean squares.

    Args:
        start: What ``rigid`` found.
    """
    middle = _middle_of(fixed.grid)
    transform = _ITK.AffineTransform(3)
    transform.SetCenter(middle[:3].tolist())
    transform.SetMatrix(start[:3, :3].ravel().tolist())
    transform.SetTranslation((start @ middle - middle)[:3].tolist())
    return _followed("mean squares", fixed, moving, lambda _fixed, _moving: [transform])


def _middle_of(grid: Grid) -> Floats:
    """Its centre as a homogeneous point, LPS mm."""
    middle: Floats = grid.affine_lps @ np.append((np.array(grid.shape) - 1) / 2, 1.0)
    return middle


@contextmanager
def one_thread() -> Iterator[None]:
    """Let ITK work in one thread: the order of additions decides the last digits of a result."""
    threads = _ITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    _ITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        _ITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _followed(
    metric: Metric, fixed: Volume, moving: Volume, guesses: Callable[[Any, Any], list[Any]]
) -> Floats:
    """The metric followed from the best guess, on coarser voxels first."""
    whole = itk_image(fixed), itk_image(moving)
    transform = None
    try:
        starts = guesses(*whole)
        for size_mm in _LEVELS_MM:
            still, movable = (_shrunk(image, size_mm) for image in whole)
            method = _method(metric, still, first_step_mm=size_mm / 2)
            if transform is None:
                transform = _best(method, still, movable, starts)
            method.SetInitialTransform(transform, inPlace=True)
            with one_thread():
                method.Execute(still, movable)
    except RuntimeError as error:
        raise JobRefused(
            "two series cannot be registered: they do not overlap or have no contrast"
        ) from error
    return _matrix_of(transform)


def _best(method: Any, fixed: Any, moving: Any, starts: list[Any]) -> Any:
    def value(start: Any) -> float:
        method.SetInitialTransform(start, inPlace=False)
        return float(method.MetricEvaluate(fixed, moving))

    return min(starts, key=value)


def _shrunk(image: Any, size_mm: float) -> Any:
    """Means of blocks of about this size; axes that are coarser stay as they are."""
    factors = [max(1, int(size_mm / spacing + 0.2)) for spacing in image.GetSpacing()]
    return _ITK.BinShrink(image, factors)


def _method(metric: Metric, fixed: Any, *, first_step_mm: float) -> Any:
    method = _ITK.ImageRegistrationMethod()
    if metric == "mutual information":
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=_BINS)
    else:
        method.SetMetricAsMeanSquares()
    part = min(1.0, _SAMPLES / fixed.GetNumberOfPixels())
    if part < 1.0:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(part, _SEED)
    method.SetInterpolator(_ITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=first_step_mm,
        minStep=_LEAST_STEP_MM,
        numberOfIterations=_ITERATIONS,
        relaxationFactor=0.5,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _matrix_of(transform: Any) -> Floats:
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, translation = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + translation - linear @ centre
    return matrix
