"""A container's segmentation: read where it says it lies, refused where it is not the input's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.domain.errors import JobFailed
from node.domain.segment import Segment
from node.infer.container.outputs import OutputFile, read_outputs
from node.infer.run_context import SeriesInput
from tests.infer.container.made import by_dcmqi, segmentation, written
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files
from tests.support.segmentations import SEGMENTS, painted_boxes

SMALL = Phantom(shape=(6, 24, 28))


def read(
    path: Path,
    given: SeriesInput,
    segments: tuple[Segment, ...] = SEGMENTS,
    *,
    overlapping: bool = False,
    name: str = "made.seg.dcm",
) -> NDArray[np.uint8]:
    file = OutputFile(path, PurePosixPath(name))
    return read_outputs([file], {"ct": given}, segments, overlapping=overlapping)


@pytest.fixture
def given(tmp_path: Path) -> SeriesInput:
    return given_files(SMALL, tmp_path / "series")


def refusal(path: Path, given: SeriesInput, **more: object) -> str:
    with pytest.raises(JobFailed) as failure:
        read(path, given, **more)
    assert failure.value.permanent
    assert "PHANTOM-1" not in failure.value.reason
    assert str(path) not in failure.value.reason
    return failure.value.reason


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize(
    "phantom",
    [
        SMALL,
        Phantom(shape=(6, 23, 27), order="shuffled"),
        Phantom(shape=(6, 24, 28), plane="oblique", position="FFP", order="reversed"),
        Phantom(shape=(6, 24, 28), plane="sagittal", enhanced=True),
    ],
    ids=["axial", "odd size, shuffled", "oblique", "enhanced"],
)
def test_labels_come_back_where_they_were_painted(
    phantom: Phantom, kind: str, tmp_path: Path
) -> None:
    given = given_files(phantom, tmp_path / "series")
    labels = painted_boxes(phantom.stack)

    path = written(segmentation(phantom, labels, kind=kind), tmp_path)

    assert np.array_equal(read(path, given), labels)


@pytest.mark.parametrize(
    "phantom",
    [
        SMALL,
        Phantom(shape=(6, 24, 28), plane="oblique"),
        Phantom(shape=(6, 24, 28), position="FFP"),
    ],
    ids=["axial", "oblique", "feet first prone"],
)
def test_what_dcmqi_writes_is_read_by_the_names_of_its_segments(
    phantom: Phantom, tmp_path: Path
) -> None:
    given = given_files(phantom, tmp_path / "series")
    labels = painted_boxes(phantom.stack)
    names = {2: "RIGHT_LUNG", 4: "marker", 7: "lung left"}

    path = by_dcmqi(phantom, given, labels, names, tmp_path)

    assert np.array_equal(read(path, given), labels)


@pytest.mark.parametrize(
    ("axes", "flips"),
    [((0, 1, 2), (1, 2)), ((0, 2, 1), (2,)), ((1, 0, 2), ()), ((2, 1, 0), (0, 1))],
    ids=["turned", "transposed", "coronal", "sagittal"],
)
def test_frames_may_have_their_axes_turned_and_exchanged(
    axes: tuple[int, int, int], flips: tuple[int, ...], given: SeriesInput, tmp_path: Path
) -> None:
    labels = painted_boxes(SMALL.stack)
    numbers = np.zeros_like(labels)
    for number, segment in enumerate(SEGMENTS, 1):
        numbers[labels == segment.label_value] = number
    volume = hd.Volume(
        numbers,
        SMALL.grid.affine_lps,
        coordinate_system="PATIENT",
        frame_of_reference_uid=SMALL.grid.frame_of_reference_uid,
    )
    turned = volume.permute_spatial_axes(axes)
    for axis in flips:
        turned = turned.flip_spatial(axis)

    path = written(segmentation(SMALL, labels, pixels=turned), tmp_path)

    assert np.array_equal(read(path, given), labels)


def test_a_part_of_the_grid_is_read_in_its_place(given: SeriesInput, tmp_path: Path) -> None:
    labels = painted_boxes(SMALL.stack)
    labels[:, :, 20:] = 0
    numbers = (labels == 7).astype(np.uint8)
    volume = hd.Volume(
        numbers,
        SMALL.grid.affine_lps,
        coordinate_system="PATIENT",
        frame_of_reference_uid=SMALL.grid.frame_of_reference_uid,
    )

    cropped = segmentation(SMALL, labels, SEGMENTS[:1], pixels=volume[1:5, 3:20, 2:20])

    expected = np.zeros_like(labels)
    expected[1:5, 3:20, 2:20] = labels[1:5, 3:20, 2:20] * (labels == 7)[1:5, 3:20, 2:20]
    assert np.array_equal(read(written(cropped, tmp_path), given), expected)


def moved(seg: Dataset, offset_mm: tuple[float, float, float]) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        place = np.array(position.ImagePositionPatient, float) + offset_mm
        position.ImagePositionPatient = [round(float(value), 4) for value in place]


def stretched(seg: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [value * 1.05 for value in measures.PixelSpacing]


def turned(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [0.8, 0.6, 0, -0.6, 0.8, 0]


def references(seg: Dataset, uid: str) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        for image in group.DerivationImageSequence[0].SourceImageSequence:
            image.ReferencedSOPInstanceUID = uid


def refers_to_nothing(seg: Dataset) -> None:
    del seg.ReferencedSeriesSequence, seg.SourceImageSequence
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def segments_swapped(seg: Dataset) -> None:
    item = seg.SegmentSequence[1]
    item.SegmentLabel = "Left elbow"
    item.SegmentedPropertyTypeCodeSequence[0].CodeValue = "16953009"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda seg: moved(seg, (2.2, 0, 0)), "not on the grid of its input: its pixels lie"),
        (lambda seg: moved(seg, (0, 0, 2.5)), "a frame lies between its slices"),
        (lambda seg: moved(seg, (4.5, 0, 0)), "it reaches beyond the source"),
        (stretched, "its pixels have another size or direction"),
        (turned, "its pixels have another size or direction"),
        (lambda seg: setattr(seg, "StudyInstanceUID", "2.25.5"), "is of another study"),
        (lambda seg: setattr(seg, "PatientID", "SOMEONE-2"), "is of another patient"),
        (lambda seg: setattr(seg, "FrameOfReferenceUID", "2.25.6"), "another Frame of Reference"),
        (
            lambda seg: setattr(seg.ReferencedSeriesSequence[0], "SeriesInstanceUID", "2.25.7"),
            "refers to a series that is not its input",
        ),
        (lambda seg: references(seg, "2.25.8"), "refers to images that are not its input"),
        (refers_to_nothing, "does not say which series it is made of"),
        (segments_swapped, "'Left elbow' is unknown"),
        (lambda seg: setattr(seg, "SegmentationType", "FRACTIONAL"), "of type FRACTIONAL"),
        (lambda seg: setattr(seg, "NumberOfFrames", 3), "another number of frames"),
        (lambda seg: setattr(seg, "NumberOfFrames", 99), "another number of frames"),
        (lambda seg: setattr(seg, "PixelData", seg.PixelData[:100]), "ends before its last frame"),
        (lambda seg: delattr(seg, "PixelData"), "cannot be read as DICOM"),
        (lambda seg: delattr(seg, "SharedFunctionalGroupsSequence"), "does not say where it lies"),
    ],
)
def test_a_segmentation_that_is_not_the_inputs_is_refused(
    spoil: Callable[[Dataset], None], sentence: str, given: SeriesInput, tmp_path: Path
) -> None:
    seg = segmentation(SMALL, painted_boxes(SMALL.stack))
    spoil(seg)

    assert sentence in refusal(written(seg, tmp_path), given)


@pytest.mark.parametrize(
    "content", [b"", b"no DICOM at all" * 40, b"\0" * 128 + b"DICM" + b"\xff" * 99]
)
def test_a_file_that_is_no_dicom_is_refused(
    content: bytes, given: SeriesInput, tmp_path: Path
) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(content)

    assert "the container's output" in refusal(path, given)


def test_an_image_is_no_segmentation(given: SeriesInput) -> None:
    path = next(iter(given.files.values()))

    assert "is no segmentation but CT Image Storage" in refusal(path, given)


def test_segments_that_overlap_are_refused_where_labels_are_exclusive(
    given: SeriesInput, tmp_path: Path
) -> None:
    masks = np.zeros((6, 24, 28, 2), np.uint8)
    masks[2, 3:9, 3:9, 0] = masks[2, 8:12, 8:12, 1] = 1
    seg = segmentation(SMALL, painted_boxes(SMALL.stack), SEGMENTS[:2], pixels=masks)

    sentence = refusal(written(seg, tmp_path), given)

    assert "'Right lung' and 'Left lung' overlap" in sentence


def test_overlapping_segments_become_bits_where_the_model_has_regions(
    given: SeriesInput, tmp_path: Path
) -> None:
    masks = np.zeros((6, 24, 28, 2), np.uint8)
    masks[2, 3:9, 3:9, 0] = masks[2, 8:12, 8:12, 1] = 1
    seg = segmentation(SMALL, painted_boxes(SMALL.stack), SEGMENTS[:2], pixels=masks)

    found = read(written(seg, tmp_path), given, overlapping=True)

    assert np.array_equal(found & 1 << 6 > 0, masks[..., 0] > 0)
    assert np.array_equal(found & 1 << 1 > 0, masks[..., 1] > 0)


def test_several_files_are_one_result(given: SeriesInput, tmp_path: Path) -> None:
    labels = painted_boxes(SMALL.stack)
    files = []
    for segment in (SEGMENTS[0], SEGMENTS[1], SEGMENTS[3]):
        only = np.where(labels == segment.label_value, labels, 0).astype(np.uint8)
        name = f"{segment.label_value}.seg.dcm"
        path = written(segmentation(SMALL, only, (segment,)), tmp_path, name)
        files.append(OutputFile(path, PurePosixPath(name)))

    assert np.array_equal(read_outputs(files, {"ct": given}, SEGMENTS, overlapping=False), labels)


def test_slices_a_little_off_the_lattice_are_found_by_their_measured_place(tmp_path: Path) -> None:
    given = given_files(SMALL, tmp_path / "series")
    frames = list(given.stack.frames)
    x, y, z = frames[3].position_mm
    frames[3] = replace(frames[3], position_mm=(x, y, z + 0.9))
    jittered = replace(given, stack=replace(given.stack, frames=tuple(frames)))
    labels = painted_boxes(SMALL.stack)
    seg = segmentation(SMALL, labels)
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        if abs(float(position.ImagePositionPatient[2]) - z) < 0.01:
            position.ImagePositionPatient = [x, y, round(z + 0.9, 4)]

    assert np.array_equal(read(written(seg, tmp_path), jittered), labels)


def test_a_damaged_deflated_file_is_refused(given: SeriesInput, tmp_path: Path) -> None:
    made = segmentation(SMALL, painted_boxes(SMALL.stack))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = written(made, tmp_path)
    content = path.read_bytes()

    path.write_bytes(content[: -len(content) // 4] + bytes(len(content) // 4))

    assert "cannot be read as DICOM (error)" in refusal(path, given)  # of zlib
