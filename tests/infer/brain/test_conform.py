"""The cube holds what the series holds, where the series has it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.brain.conform import SIDE, conform, unit_range
from node.infer.volume import Volume
from tests.infer.brain.heads import Plane, acquired

AFFINE_RAS = np.array([[-1.0, 0, 0, 97.0], [0, 0, 1.0, -131.5], [0, -1.0, 0, 88.25], [0, 0, 0, 1]])
AXES = [np.eye(3)[k] * sign for k in range(3) for sign in (1, -1)]


def lia_image(shape: tuple[int, int, int], top: int = 200) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, top, shape).astype(np.uint8)


def volume_of(array: NDArray[np.generic], steps: object, origin: object = (0, 0, 0)) -> Volume:
    return Volume(
        array=array,  # type: ignore[arg-type]
        grid=Grid(
            shape=array.shape,  # type: ignore[arg-type]
            origin_mm=tuple(np.array(origin, float).tolist()),
            steps_mm=tuple(tuple(map(float, step)) for step in np.array(steps)),
            frame_of_reference_uid="2.25.9",
        ),
    )


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_an_image_of_1_mm_is_in_the_cube_voxel_for_voxel(plane: Plane) -> None:
    image = lia_image((100, 80, 90))
    volume = acquired(image, AFFINE_RAS, plane)

    cube = conform(volume)

    assert np.array_equal(cube.array[78:178, 88:168, 83:173], image)
    assert np.count_nonzero(cube.array) == np.count_nonzero(image)
    assert cube.cut_mm == (0.0, 0.0, 0.0)
    assert np.array_equal(cube.back(cube.array), volume.array)


def test_flipped_axes_make_no_difference() -> None:
    image = lia_image((40, 30, 22))
    plain = acquired(image, AFFINE_RAS, "sagittal")
    grid = plain.grid
    steps, origin = np.array(grid.steps_mm), np.array(grid.origin_mm)
    flipped = volume_of(
        np.ascontiguousarray(plain.array[:, ::-1, ::-1]),
        steps * [[1], [-1], [-1]],
        origin + (np.array([0, *grid.shape[1:]]) - [0, 1, 1]) @ steps,
    )

    assert np.array_equal(conform(plain).array, conform(flipped).array)


def test_a_point_of_the_patient_stays_where_it_is() -> None:
    # oblique, thick and off the middle: a blob around one point of the patient
    directions = np.linalg.qr(np.array([[0.9, 0.3, 0.1], [-0.2, 0.9, 0.3], [0.1, -0.3, 0.9]]))[0]
    steps = directions.T * [[4.0], [1.1], [0.9]]
    point_mm = np.array([31.0, -12.0, 44.0])
    origin = np.array([5.0, -40.0, 20.0]) - np.array([20, 50, 60]) @ steps
    places = np.stack(np.indices((50, 120, 130)), -1) @ steps + origin
    blob = (1000 * np.exp(-np.sum((places - point_mm) ** 2, -1) / 128)).astype(np.float32)

    cube = conform(volume_of(blob, steps, origin))

    weights = cube.array / cube.array.sum()
    index = np.array([np.sum(weights * axis) for axis in np.indices(cube.array.shape)])
    found = cube.grid.affine_lps @ np.append(index, 1)
    assert np.allclose(found[:3], point_mm, atol=0.1)


def test_labels_come_back_to_the_nearest_voxel() -> None:
    volume = volume_of(lia_image((30, 40, 50)).astype(np.int16), np.diag([3.1, 1.9, 1.45]))
    cube = conform(volume)
    # a label that is a function of the place: the octant of the cube around its middle
    octant = sum((axis >= SIDE // 2) << k for k, axis in enumerate(np.indices((SIDE,) * 3)))

    back = cube.back((octant + 1).astype(np.uint8))

    places = np.stack(np.indices((30, 40, 50)), -1) @ volume.grid.affine_lps[:3, :3].T
    index = (places - np.array(cube.grid.origin_mm)) @ np.linalg.inv(cube.grid.affine_lps[:3, :3]).T
    expected = 1 + sum((np.rint(index[..., k]) >= SIDE // 2) << k for k in range(3))
    is_clear = np.all(np.abs(index % 1 - 0.5) > 1e-6, axis=-1)  # no tie of two voxels
    assert is_clear.mean() > 0.9
    assert np.array_equal(back[is_clear], expected[is_clear])


def test_one_hot_voxel_does_not_darken_the_head() -> None:
    array = np.full((40, 40, 40), 100, np.int16)
    array[:20] = 1000
    array[0, 0, 0] = 32000

    cube = conform(volume_of(array, np.eye(3)))

    # from the darkest, 100, to the brightest but a thousandth, 1000
    assert np.unique(cube.array).tolist() == [0, 255]
    assert np.count_nonzero(cube.array) == 20 * 40 * 40


def test_eight_bits_stay_as_they_are() -> None:
    array = lia_image((20, 20, 20), top=180).astype(np.int16)

    cube = conform(volume_of(array, np.eye(3)))

    assert cube.array.max() == 179
    assert np.bincount(cube.array.ravel())[1:].tolist() == np.bincount(array.ravel())[1:].tolist()


def test_outside_the_series_is_as_dark_as_its_darkest_voxel() -> None:
    array = np.linspace(-500, 1500, 8000).reshape(20, 20, 20).astype(np.float32)

    cube = conform(volume_of(array, np.eye(3)))

    assert cube.array[0, 0, 0] == 0
    assert cube.array[128, 128, 128] > 100


def test_what_is_cut_off_is_told_by_axis() -> None:
    array = lia_image((10, 300, 20)).astype(np.int16)

    sagittal = conform(volume_of(array, [[1, 0, 0], [0, 0, -1], [0, 1, 0]]))
    coronal = conform(volume_of(array, [[0, 1, 0], [1, 0, 0], [0, 0, 14.0]]))

    assert sagittal.cut_mm == (0.0, 22.0, 0.0)
    assert coronal.cut_mm == (22.0, 12.0, 0.0)


@pytest.mark.parametrize("value", [0, 17, -3])
def test_a_series_of_one_value_is_refused(value: int) -> None:
    flat = volume_of(np.full((9, 9, 9), value, np.int16), np.eye(3))

    with pytest.raises(JobFailed, match="no contrast") as caught:
        conform(flat)

    assert caught.value.permanent


def test_numbers_that_are_none_are_refused() -> None:
    array = lia_image((9, 9, 9)).astype(np.float32)
    array[3, 3, 3] = np.nan

    with pytest.raises(JobFailed, match="no contrast"):
        conform(volume_of(array, np.eye(3)))


def test_the_unit_range_is_from_the_darkest_to_the_brightest() -> None:
    scaled = unit_range(np.array([[[10, 20, 60]]], np.uint8))

    assert scaled.ravel().tolist() == pytest.approx([0.0, 0.2, 1.0])
