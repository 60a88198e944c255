"""A container's label map in NIfTI: on the source grid, whatever the order of its axes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

from node.domain.errors import JobFailed
from node.infer.container.outputs import OutputFile, read_outputs
from node.infer.run_context import SeriesInput
from tests.infer.container.made import volume_image
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files
from tests.support.segmentations import SEGMENTS, painted_boxes

SMALL = Phantom(shape=(6, 24, 28))


def read(
    image: sitk.Image, given: SeriesInput, folder: Path, name: str = "labels.nii.gz"
) -> np.ndarray:
    sitk.WriteImage(image, str(folder / name))
    file = OutputFile(folder / name, PurePosixPath(name))
    return read_outputs([file], {"ct": given}, SEGMENTS, overlapping=False)


@pytest.fixture
def given(tmp_path: Path) -> SeriesInput:
    return given_files(SMALL, tmp_path / "series")


@pytest.mark.parametrize("plane", ["axial", "oblique", "sagittal"])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL"])
def test_labels_come_back_whatever_the_order_of_the_axes(
    plane: str, orientation: str, tmp_path: Path
) -> None:
    phantom = Phantom(shape=(6, 24, 28), plane=plane, position="HFP")
    given = given_files(phantom, tmp_path / "series")
    labels = painted_boxes(phantom.stack)

    image = sitk.DICOMOrient(volume_image(phantom, labels), orientation)

    assert np.array_equal(read(image, given, tmp_path), labels)


def test_whole_numbers_may_be_stored_as_floats(given: SeriesInput, tmp_path: Path) -> None:
    labels = painted_boxes(SMALL.stack)

    image = volume_image(SMALL, labels.astype(np.float32))

    assert np.array_equal(read(image, given, tmp_path, "labels.nii"), labels)


def shifted(image: sitk.Image) -> sitk.Image:
    image.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((0.5, 0, 0)))
    return image


def resampled(image: sitk.Image) -> sitk.Image:
    image.SetSpacing([value * 1.02 for value in image.GetSpacing()])
    return image


def fractions(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(image, sitk.sitkFloat32) * 0.5


def nothing_finite(image: sitk.Image) -> sitk.Image:
    return sitk.Log(sitk.Cast(image, sitk.sitkFloat32) - 1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shifted, "not on the grid of its input: its pixels lie between"),
        (resampled, "its pixels have another size or direction"),
        (lambda image: image[:, :-1, :], "it has 6 x 23 x 28 voxels"),
        (lambda image: image + 40, "holds label 40, which labels.csv does not describe"),
        (fractions, "holds values that are no labels"),
        (nothing_finite, "holds values that are no labels"),
        (lambda image: sitk.JoinSeries([image, image]), "is not one volume of single values"),
        (lambda image: sitk.Compose([image, image]), "is not one volume of single values"),
    ],
)
def test_what_is_no_label_map_of_the_input_is_refused(
    spoil: object, sentence: str, given: SeriesInput, tmp_path: Path
) -> None:
    image = spoil(volume_image(SMALL, painted_boxes(SMALL.stack)))

    with pytest.raises(JobFailed, match=sentence) as failure:
        read(image, given, tmp_path)

    assert failure.value.permanent


def test_a_file_that_is_no_nifti_is_refused(given: SeriesInput, tmp_path: Path) -> None:
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(b"nothing of the kind")

    with pytest.raises(JobFailed, match="cannot be read as NIfTI") as failure:
        read_outputs(
            [OutputFile(path, PurePosixPath(path.name))], {"ct": given}, SEGMENTS, overlapping=False
        )

    assert failure.value.permanent
