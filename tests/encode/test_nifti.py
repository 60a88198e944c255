"""NIfTI images read back by readers that did not write them: SimpleITK and nibabel."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

from node.domain.errors import JobFailed
from node.domain.result import EncodedFile, LabelVolume
from node.encode.nifti import encode
from tests.support.phantoms import PLANES, POSITIONS, Phantom, region_at
from tests.support.segmentations import LABELS, SEGMENTS, Segmentation, of_phantom

SMALL = Phantom(shape=(8, 20, 24), spacing_mm=(25.0, 12.0, 13.0))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def images_of(given: Segmentation) -> dict[str, EncodedFile]:
    return {file.part: file for file in encode(given)}


def written(file: EncodedFile, folder: Path) -> Path:
    path = folder / "image.nii.gz"
    path.write_bytes(b"".join(file.chunks()))
    return path


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("position", POSITIONS[:4])
def test_every_voxel_holds_what_lies_there_in_the_patient(
    plane: str, position: str, tmp_path: Path
) -> None:
    phantom = replace(SMALL, plane=plane, position=position, order="shuffled")
    path = written(images_of(of_phantom(phantom))[""], tmp_path)

    image = sitk.ReadImage(path)

    labels = sitk.GetArrayFromImage(image)
    to_lps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    index = np.stack(np.indices(labels.shape)[::-1], axis=-1)
    truth = region_at(index @ to_lps.T + image.GetOrigin())
    for region, value in LABELS.items():
        assert np.array_equal(labels == value, truth == region), region


@pytest.mark.parametrize("plane", PLANES)
def test_both_transformations_say_the_same_to_nibabel(plane: str, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    phantom = replace(SMALL, plane=plane)
    image = nibabel.load(written(images_of(of_phantom(phantom))[""], tmp_path))
    slices_first = phantom.stack.grid.affine_lps[:, [2, 1, 0, 3]]

    assert np.allclose(image.get_sform(), LPS_TO_RAS @ slices_first, atol=1e-3)
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert image.get_qform(coded=True)[1] == image.get_sform(coded=True)[1] == 1
    assert image.header.get_xyzt_units()[0] == "mm"


def test_the_same_result_gives_the_same_bytes() -> None:
    first, second = (images_of(of_phantom(SMALL))[""] for _ in range(2))

    assert b"".join(first.chunks()) == b"".join(second.chunks()) == b"".join(first.chunks())


def test_the_header_names_the_result_and_nobody() -> None:
    given = of_phantom(SMALL)

    header = gzip.decompress(b"".join(images_of(given)[""].chunks()))[:352]

    assert header[148:228].rstrip(b"\0") == f"segnode {given.identity.key}".encode()
    assert header[228:252].strip(b"\0") == b""
    assert str(given.source[0].PatientID).encode() not in header


def test_what_must_not_be_overlooked_stands_in_the_header() -> None:
    given = of_phantom(SMALL)
    told = replace(given.provenance, implausible="too large", incomplete="7 of 8 images")

    header = gzip.decompress(b"".join(images_of(replace(given, provenance=told))[""].chunks()))

    assert header[228:252].rstrip(b"\0") == b"IMPLAUSIBLE INCOMPLETE"


@pytest.mark.parametrize(
    ("largest", "kind"), [(300, np.int16), (32767, np.int16), (40000, np.uint16)]
)
def test_labels_beyond_eight_bits_keep_their_values(
    largest: int, kind: type, tmp_path: Path
) -> None:
    labels = np.zeros(SMALL.stack.grid.shape, np.uint16)
    labels[2, 3:9, 4:7] = largest
    given = replace(
        of_phantom(SMALL),
        volume=LabelVolume(labels=labels, stack=SMALL.stack),
        segments=[replace(SEGMENTS[0], label_value=largest)],
    )

    read = sitk.GetArrayFromImage(sitk.ReadImage(written(images_of(given)[""], tmp_path)))

    assert read.dtype == kind
    assert np.array_equal(read, labels)


def test_regions_that_overlap_are_an_image_each_found_or_not(tmp_path: Path) -> None:
    labels = np.zeros(SMALL.stack.grid.shape, np.uint8)
    labels[:, 4:12, 4:12] |= 1
    labels[:, 8:16, 8:16] |= 2
    given = replace(
        of_phantom(SMALL),
        volume=LabelVolume(labels=labels, stack=SMALL.stack, overlapping=True),
        segments=[replace(SEGMENTS[k], label_value=k + 1) for k in range(3)],
    )

    images = images_of(given)

    read = {
        part: sitk.GetArrayFromImage(sitk.ReadImage(written(file, tmp_path)))
        for part, file in images.items()
    }
    assert list(read) == [segment.name for segment in given.segments]
    for bit, array in enumerate(read.values()):
        assert np.array_equal(array, labels >> bit & 1)
    assert len({file.sop_instance_uid for file in images.values()}) == 3


def test_a_stack_that_leans_a_little_becomes_an_image_at_right_angles(tmp_path: Path) -> None:
    grid = SMALL.stack.grid
    step = np.array(grid.steps_mm[0]) + 0.04 * np.array(grid.steps_mm[2])
    leaning = replace(grid, steps_mm=(tuple(step), *grid.steps_mm[1:]))
    given = of_phantom(SMALL)
    stack = replace(given.volume.stack, grid=leaning)
    volume = replace(given.volume, stack=stack)

    image = sitk.ReadImage(written(images_of(replace(given, volume=volume))[""], tmp_path))

    direction = np.array(image.GetDirection()).reshape(3, 3)
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    assert np.allclose(image.GetOrigin(), grid.origin_mm, atol=1e-3)


def test_a_label_that_nobody_describes_is_never_written() -> None:
    with pytest.raises(JobFailed, match="the result holds label 7"):
        images_of(replace(of_phantom(SMALL), segments=SEGMENTS[1:]))
