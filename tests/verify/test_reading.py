"""Functional groups as their bytes say them are those that pydicom reads."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.domain.errors import ResultRefused
from node.verify.reading import read_seg
from tests.support.phantoms import Phantom
from tests.support.segmentations import of_phantom


@pytest.fixture(scope="module", params=[{"plane": "oblique"}, {"enhanced": True}], ids=str)
def data(request: pytest.FixtureRequest) -> bytes:
    return of_phantom(Phantom(**request.param)).encoded()


def test_every_frame_is_what_pydicom_reads(data: bytes) -> None:
    header = dcmread(BytesIO(data))
    shared = header.SharedFunctionalGroupsSequence[0]

    frames = read_seg(data).frames

    assert len(frames) == header.NumberOfFrames > 3
    for frame, group in zip(frames, header.PerFrameFunctionalGroupsSequence, strict=True):
        derivation = group.DerivationImageSequence[0]
        source = derivation.SourceImageSequence[0]
        (reference,) = frame.references
        assert frame.segment_number == (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        )
        assert list(frame.dimension_indices) == group.FrameContentSequence[0].DimensionIndexValues
        assert frame.position_mm == tuple(group.PlanePositionSequence[0].ImagePositionPatient)
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert frame.orientation == tuple(orientation)
        assert frame.pixel_spacing_mm == tuple(shared.PixelMeasuresSequence[0].PixelSpacing)
        assert reference.sop_class_uid == source.ReferencedSOPClassUID
        assert reference.sop_instance_uid == source.ReferencedSOPInstanceUID
        assert reference.frame_number == source.get("ReferencedFrameNumber")
        assert reference.purpose == f"DCM:{source.PurposeOfReferenceCodeSequence[0].CodeValue}"
        assert reference.derivation == f"DCM:{derivation.DerivationCodeSequence[0].CodeValue}"


@pytest.mark.parametrize("depth", ["frames", "macro"])
def test_what_has_no_length_is_refused(data: bytes, depth: str) -> None:
    header = dcmread(BytesIO(data))
    groups = header["PerFrameFunctionalGroupsSequence"]
    element = groups if depth == "frames" else groups.value[2]["PlanePositionSequence"]
    element.is_undefined_length = True
    buffer = BytesIO()
    dcmwrite(buffer, header)

    with pytest.raises((ResultRefused, ValueError), match="undefined length"):
        read_seg(buffer.getvalue())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda group: group.SegmentIdentificationSequence[0].__setitem__(
            Tag("ReferencedSegmentNumber"), _several()
        ),
        lambda group: setattr(
            group.DerivationImageSequence[0].SourceImageSequence[0],
            "ReferencedFrameNumber",
            [1, 2],
        ),
    ],
    ids=["several segments", "several frames"],
)
def test_what_must_be_one_is_not_taken_as_the_first_of_many(data: bytes, spoil: object) -> None:
    header = dcmread(BytesIO(data))
    spoil(header.PerFrameFunctionalGroupsSequence[1])  # type: ignore[operator]
    buffer = BytesIO()
    dcmwrite(buffer, header)

    with pytest.raises(ValueError, match="several"):
        read_seg(buffer.getvalue())


def _several() -> object:
    item = Dataset()
    item.ReferencedSegmentNumber = [1, 2]
    return item["ReferencedSegmentNumber"]


@pytest.mark.parametrize("wrong", [b"inf", b"-inf", b"nan"])
def test_a_position_that_is_no_number_is_refused(wrong: bytes) -> None:
    segmentation = of_phantom(Phantom(plane="oblique"))
    data = segmentation.encoded()
    groups = dcmread(BytesIO(data)).PerFrameFunctionalGroupsSequence
    x = str(groups[0].PlanePositionSequence[0].ImagePositionPatient[0]).encode()

    with pytest.raises(ResultRefused):
        segmentation.verify(data.replace(x + b"\\", wrong.ljust(len(x)) + b"\\"))
