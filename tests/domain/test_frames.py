"""Frames: classic and multi-frame images in one form, and nothing guessed where it is malformed."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from node.domain.errors import SeriesUnusable
from node.domain.frames import MAX_FRAMES, frames_of


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def classic(**values: object) -> Dataset:
    settings: dict[str, object] = {
        "SOPInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.9",
        "Rows": 5,
        "Columns": 7,
        "ImagePositionPatient": [-1.5, 2.0, 3.25],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.8, 0.7],
        **values,
    }
    return item(**{k: v for k, v in settings.items() if v is not None})


def raw(dataset: Dataset, keyword: str, vr: str, value: bytes) -> Dataset:
    """The data set with an element as it came from a file, not yet decoded."""
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True, True)
    return dataset


def enhanced(count: int = 3, groups: int | None = None) -> Dataset:
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.8, 0.7])],
    )
    per_frame = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * k])],
            PixelValueTransformationSequence=[item(RescaleSlope=1.0 + k, RescaleIntercept=-k)],
        )
        for k in range(count if groups is None else groups)
    ]
    return item(
        SOPInstanceUID="1.2.3",
        FrameOfReferenceUID="1.2.9",
        Rows=5,
        Columns=7,
        NumberOfFrames=count,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame,
    )


def test_a_classic_image_is_one_frame_without_a_number() -> None:
    (frame,) = frames_of(classic(RescaleSlope=2, RescaleIntercept=-1024))

    assert frame.frame_number is None
    assert (frame.rows, frame.columns) == (5, 7)
    assert frame.position_mm == (-1.5, 2.0, 3.25)
    assert frame.orientation == (1, 0, 0, 0, 1, 0)
    assert frame.pixel_spacing_mm == (0.8, 0.7)
    assert frame.frame_of_reference_uid == "1.2.9"
    assert (frame.slope, frame.intercept) == (2.0, -1024.0)


def test_frames_of_an_enhanced_image_have_shared_and_own_values_and_count_from_1() -> None:
    frames = frames_of(enhanced())

    assert [f.frame_number for f in frames] == [1, 2, 3]
    assert [f.position_mm for f in frames] == [(0, 0, 0), (0, 0, 2.5), (0, 0, 5)]
    assert {f.orientation for f in frames} == {(1, 0, 0, 0, 1, 0)}
    assert {f.pixel_spacing_mm for f in frames} == {(0.8, 0.7)}
    assert [f.slope for f in frames] == [1.0, 2.0, 3.0]


def test_own_groups_come_before_shared_ones() -> None:
    image = enhanced()
    image.PerFrameFunctionalGroupsSequence[1].PixelMeasuresSequence = [item(PixelSpacing=[2, 2])]

    assert [f.pixel_spacing_mm for f in frames_of(image)] == [(0.8, 0.7), (2, 2), (0.8, 0.7)]


def test_an_enhanced_image_of_one_frame_has_a_frame_number() -> None:
    (frame,) = frames_of(enhanced(1))

    assert frame.frame_number == 1


def test_private_groups_tell_nothing_of_the_frame() -> None:
    image = enhanced(1)
    group = image.PerFrameFunctionalGroupsSequence[0]
    del group.PlanePositionSequence
    block = group.private_block(0x2005, "ACME PRIVATE", create=True)
    block.add_new(0x0F, "SQ", Sequence([item(ImagePositionPatient=[9, 9, 9])]))

    assert frames_of(image)[0].position_mm is None


def test_frames_without_groups_of_their_own_have_no_position() -> None:
    frames = frames_of(enhanced(3, groups=2))

    assert [f.position_mm is None for f in frames] == [False, False, True]


@pytest.mark.parametrize(
    "position",
    [None, [], [1.0], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0]],
    ids=["absent", "empty", "one", "two", "four"],
)
def test_a_position_that_is_not_three_numbers_is_none(position: Items[float] | None) -> None:
    assert frames_of(classic(ImagePositionPatient=position))[0].position_mm is None


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("text", [b"1\\2\\nan ", b"1\\2\\inf ", b"1\\2\\x ", b"1\\2\\1e999 "])
def test_a_position_that_is_not_finite_is_none(text: bytes) -> None:
    image = raw(classic(), "ImagePositionPatient", "DS", text)

    assert frames_of(image)[0].position_mm is None


def test_rows_of_the_wrong_length_are_0() -> None:
    assert frames_of(raw(classic(), "Rows", "US", b"\x05"))[0].rows == 0


def test_an_empty_frame_of_reference_is_none() -> None:
    assert frames_of(classic(FrameOfReferenceUID=""))[0].frame_of_reference_uid is None


def test_an_absent_or_empty_slope_is_1_and_a_malformed_one_is_not_a_number() -> None:
    absent = frames_of(classic())[0]
    empty = frames_of(raw(classic(), "RescaleSlope", "DS", b""))[0]
    two = frames_of(raw(classic(), "RescaleSlope", "DS", b"1\\2 "))[0]

    assert (absent.slope, absent.intercept) == (1.0, 0.0)
    assert empty.slope == 1.0
    assert math.isnan(two.slope)


@pytest.mark.parametrize("count", [0, -3])
def test_a_senseless_number_of_frames_is_one(count: int) -> None:
    assert len(frames_of(classic(NumberOfFrames=count))) == 1


def test_an_absurd_number_of_frames_is_refused_before_memory_is_spent() -> None:
    image = classic(NumberOfFrames=MAX_FRAMES + 1)

    with pytest.raises(SeriesUnusable, match="too_many_frames"):
        frames_of(image)


def test_frames_without_functional_groups_share_one_place() -> None:
    frames = frames_of(classic(NumberOfFrames=2))

    assert [f.frame_number for f in frames] == [1, 2]
    assert len({f.position_mm for f in frames}) == 1


@pytest.mark.parametrize(
    ("text", "is_absent"), [("4,0\\4,5 ", False), ("0.7", False), ("", True), (None, True)]
)
def test_a_malformed_pixel_spacing_is_no_absent_one(text: str | None, is_absent: bool) -> None:
    instance = classic(PixelSpacing=None)
    if text is not None:
        raw(instance, "PixelSpacing", "DS", text.encode())

    (frame,) = frames_of(instance)

    if is_absent:
        assert frame.pixel_spacing_mm is None
    else:
        assert frame.pixel_spacing_mm is not None
        assert all(map(math.isnan, frame.pixel_spacing_mm))
