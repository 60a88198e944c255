"""A brain finds its place on a template's grid, and its labels the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.brain.register import resampled
from node.infer.brain.template import in_unit_range, onto_template, prepare, without_bias
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.infer.brain.heads import acquired, t1_image
from tests.support.cases import Cases

Matrix = NDArray[np.float64]

TEMPLATE = Grid(  # RAS, as templates are: columns to the right, rows to the front
    shape=(90, 110, 92),
    origin_mm=(92.0, 118.0, -78.0),
    steps_mm=((0.0, 0.0, 2.0), (0.0, -2.0, 0.0), (-2.0, 0.0, 0.0)),
    frame_of_reference_uid="",
)


@pytest.fixture(scope="module")
def brain(shared_models: Cases) -> Volume:
    """The middle of a real T1 at 2 mm, cut to an ellipsoid in place of a brain."""
    array, affine = t1_image(shared_models)
    coarse = array.reshape(128, 2, 128, 2, 128, 2).mean(axis=(1, 3, 5))
    index = np.stack(np.indices(coarse.shape), -1)
    inside = np.sum(((index - [64, 52, 70]) / [33, 31, 38]) ** 2, -1) < 1
    moved = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    whole = acquired(np.where(inside, np.rint(coarse), 0).astype(np.uint8), moved, "sagittal")
    return Volume(array=whole.array.astype(np.float32), grid=whole.grid)


@pytest.fixture(scope="module")
def to_brain(brain: Volume) -> Matrix:
    """From a point of the template to that point of the brain: turned, moved, scaled, sheared."""
    angle = np.radians(7.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([0.93, 1.06, 1.08]) @ [[1, 0.04, 0], [0, 1, -0.03], [0, 0, 1]]
    places = np.argwhere(brain.array > 0)
    middle = brain.grid.affine_lps @ np.append(places.mean(axis=0), 1)
    template_middle = np.array([3.0, 8.0, 12.0])
    matrix[:3, 3] = middle[:3] - matrix[:3, :3] @ template_middle
    return matrix


@pytest.fixture(scope="module")
def template(brain: Volume, to_brain: Matrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template file: the same brain, deformed by a known matrix."""
    values = resampled(brain.array, brain.grid, TEMPLATE, move=to_brain, way="linear")
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetOrigin(TEMPLATE.origin_mm)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    path = tmp_path_factory.mktemp("template") / "template.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def biased(brain: Volume) -> Volume:
    """The brain under a brightness field that rises by 60 % from one side to the other."""
    field = np.linspace(0.7, 1.3, brain.array.shape[1])[:, None].astype(np.float32)
    return Volume(array=brain.array * field, grid=brain.grid)


def test_a_known_deformation_is_found_and_labels_come_back(
    brain: Volume, to_brain: Matrix, template: Path
) -> None:
    report = Stopwatch()

    prepared = onto_template(biased(brain), brain.array > 0, template, report=report)

    assert np.allclose(prepared.channels[0].grid.affine_lps, TEMPLATE.affine_lps, atol=1e-4)
    image = prepared.channels[0].array
    expected = in_unit_range(
        resampled(brain.array, brain.grid, TEMPLATE, move=to_brain, way="linear")
    )
    inside = expected > 0
    assert np.corrcoef(image[inside], expected[inside])[0, 1] > 0.9
    assert (image.min(), image.max()) == pytest.approx((0, 1), abs=0.05)
    # labels that are a function of the place in the brain: boxes of 12 mm, numbered
    numbers = _boxes(brain)
    there = resampled(numbers, brain.grid, TEMPLATE, move=to_brain, way="nearest")
    back = prepared.back(there)
    core = (brain.array > 0) & (numbers > 0)
    agreement = np.mean(back[core] == numbers[core])
    print(f"{agreement:.3f} of the voxels come back; {report.notes}")
    assert agreement > 0.75  # two nearest neighbours of 2 mm each way, in boxes of 6 voxels
    assert back.dtype == np.uint16


def _boxes(brain: Volume) -> NDArray[np.uint16]:
    a, b, c = (axis // 6 for axis in np.indices(brain.array.shape))
    return (1 + (a * 24 + b) * 24 + c).astype(np.uint16) * (brain.array > 0)


def test_a_brightness_field_is_taken_out_the_same_way_each_time(brain: Volume) -> None:
    array = np.ascontiguousarray(brain.array[::3, ::3, ::3])  # 6 mm
    steps_mm = tuple(tuple(3 * mm for mm in step) for step in brain.grid.steps_mm)
    grid = replace(brain.grid, shape=array.shape, steps_mm=steps_mm)
    coarse = Volume(array=array, grid=grid)

    even, again = (without_bias(biased(coarse), coarse.array > 0) for _ in range(2))

    core = coarse.array > 40
    rows = np.indices(coarse.array.shape)[1][core]
    before, after = (
        np.polyfit(rows, np.log(values[core] / coarse.array[core]), 1)[0]
        for values in (biased(coarse).array, even)
    )
    assert abs(after) < 0.4 * abs(before)
    assert np.all(even[coarse.array == 0] == 0)
    assert np.array_equal(even, again)


def test_the_unit_range_does_not_depend_on_what_scaled_the_image_before() -> None:
    values = np.random.default_rng(3).normal(50, 30, (20, 20, 20)).astype(np.float32)

    one, other = in_unit_range(values), in_unit_range(values * np.float32(110 / 37.3))

    assert np.allclose(one, other, atol=1e-6)
    assert (one.min(), one.max()) == (0, 1)
    assert np.count_nonzero(one == 1) == pytest.approx(0.001 * np.count_nonzero(values > 0), abs=2)


def test_an_empty_brain_is_refused(brain: Volume, template: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        onto_template(brain, np.zeros(brain.array.shape, np.bool_), template, report=Stopwatch())

    assert caught.value.permanent


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "names no one file below template/"),
        ({"template/a.nii.gz": "a"}, r"names no skull_strip/model\.json"),
    ],
)
def test_files_that_model_yaml_does_not_name_are_refused(
    files: dict[str, str], sentence: str, brain: Volume
) -> None:
    with pytest.raises(JobFailed, match=sentence):
        prepare({"image": brain}, {k: Path(v) for k, v in files.items()}, "cpu", Stopwatch())


def test_a_template_that_is_no_image_is_refused(brain: Volume, tmp_path: Path) -> None:
    path = tmp_path / "template.nii.gz"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")

    with pytest.raises(JobFailed, match=r"template\.nii\.gz cannot be read"):
        onto_template(brain, brain.array > 0, path, report=Stopwatch())
