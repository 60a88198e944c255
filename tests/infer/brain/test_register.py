"""Registration finds a known movement, the same one each time, between contrasts that differ."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.brain.register import align, resampled
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.infer.brain.heads import acquired, t1_image
from tests.support.cases import Cases

Matrix = NDArray[np.float64]

THICK = Grid(
    shape=(70, 120, 110),
    origin_mm=(-105.0, -110.0, -95.0),
    steps_mm=((0.0, 0.0, 3.0), (0.0, 2.0, 0.0), (2.0, 0.0, 0.0)),
    frame_of_reference_uid="2.25.77",
)


def turned(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Matrix:
    """A rotation about x, then y, then z, about the origin, and a shift."""
    whole = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(4)
        i, j = (k for k in range(3) if k != axis)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        whole = one @ whole
    whole[:3, 3] = shift_mm
    return whole


@pytest.fixture(scope="module")
def head(shared_models: Cases) -> Volume:
    """A real T1 at 2 mm."""
    array, affine = t1_image(shared_models)
    coarse = array.reshape(128, 2, 128, 2, 128, 2).mean(axis=(1, 3, 5))
    moved = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    moved[:3, 3] += affine[:3, :3] @ [0.5, 0.5, 0.5]
    return acquired(np.rint(coarse).astype(np.uint8), moved, "axial")


def seen_after(head: Volume, movement: Matrix, *, other_contrast: bool = False) -> Volume:
    """The head as another series has it: moved, on thick slices, with noise."""
    values = head.array.astype(np.float32)
    if other_contrast:
        values = np.where(values > 20, np.maximum(200 - values, 0), values).astype(np.float32)
    moved = resampled(values, head.grid, THICK, move=np.linalg.inv(movement), way="linear")
    noise = np.random.default_rng(1).normal(0, 3, moved.shape)
    return Volume(array=(moved + noise).astype(np.float32), grid=THICK)


def worst_error_mm(found: Matrix, truth: Matrix, head: Volume) -> float:
    index = np.argwhere(head.array > 60)[::200]
    points = np.c_[index, np.ones(len(index))] @ head.grid.affine_lps.T
    return float(np.linalg.norm((points @ (found - truth).T)[:, :3], axis=1).max())


@pytest.mark.parametrize("other_contrast", [False, True])
def test_a_known_movement_is_found_within_half_a_voxel(other_contrast: bool, head: Volume) -> None:
    truth = turned((6.0, -8.0, 3.0), (7.0, -5.0, 12.0))
    moving = seen_after(head, truth, other_contrast=other_contrast)
    report = Stopwatch()

    found = align(head, moving, "t2", report)

    error_mm = worst_error_mm(found, truth, head)
    print(f"other contrast {other_contrast}: {error_mm:.2f} mm at worst")
    assert error_mm < 0.5 * min(THICK.spacing_mm)
    assert report.notes[0].startswith("t2: registered, turned by 10.")


def test_the_same_volumes_give_the_same_matrix(head: Volume) -> None:
    moving = seen_after(head, turned((0, 0, 4.0), (2.0, 1.0, 0.0)))

    first, second = (align(head, moving, "t2", Stopwatch()) for _ in range(2))

    assert np.array_equal(first, second)


def test_an_aligned_series_stays_where_it_is(head: Volume) -> None:
    found = align(head, seen_after(head, np.eye(4)), "t1", Stopwatch())

    assert worst_error_mm(found, np.eye(4), head) < 0.5


def test_one_grid_in_one_frame_of_reference_is_taken_as_aligned(head: Volume) -> None:
    other = Volume(array=np.flip(head.array).copy(), grid=head.grid)
    report = Stopwatch()

    found = align(head, other, "flair", report)

    assert np.array_equal(found, np.eye(4))
    assert report.notes == [
        "flair: not registered, it has the grid and Frame of Reference of the first"
    ]


def test_a_series_without_contrast_cannot_be_registered(head: Volume) -> None:
    flat = Volume(array=np.zeros(THICK.shape, np.int16), grid=THICK)

    with pytest.raises(JobFailed, match="cannot be registered") as caught:
        align(head, flat, "t2", Stopwatch())

    assert caught.value.permanent
