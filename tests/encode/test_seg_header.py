"""What a SEG says besides its voxels: whose it is, where it lies, who made it, of what."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.domain.carried import COPIED_KEYWORDS, NEVER_ABSENT_KEYWORDS
from node.domain.errors import JobFailed
from node.domain.segment import PRIVATE_SCHEME, Code, Segment
from node.domain.uids import is_uid
from node.encode.seg import encode_seg
from tests.support.cases import Cases
from tests.support.phantoms import Phantom
from tests.support.segmentations import (
    IDENTITY,
    LUNG,
    PROVENANCE,
    SEGMENTS,
    Segmentation,
    of_phantom,
    of_series,
)

SMALL = {"shape": (24, 40, 56), "spacing_mm": (8.25, 5.5, 6.0)}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(order="shuffled", **SMALL)


@pytest.fixture(scope="module")
def case(phantom: Phantom) -> Segmentation:
    return of_phantom(phantom)


@pytest.fixture(scope="module")
def seg(case: Segmentation) -> Dataset:
    return _read(case)


def _read(case: Segmentation) -> Dataset:
    data = case.encoded()
    case.verify(data)
    return dcmread(BytesIO(data))


def _headers_read_from_files(phantom: Phantom) -> list[Dataset]:
    return [dcmread(BytesIO(data), stop_before_pixels=True) for data in phantom.files()]


def _without(phantom: Phantom, *keywords: str) -> Segmentation:
    absent = tuple((keyword, None) for keyword in keywords)
    return of_phantom(replace(phantom, attributes=absent))


def _raw(dataset: Dataset, keyword: str) -> bytes:
    value = dataset.get_item(Tag(keyword)).value or b""
    if not isinstance(value, bytes):  # pydicom decodes the character set while it reads
        value = "\\".join([value] if isinstance(value, str) else value).encode()
    return value.rstrip(b" \0")


def _all_elements(dataset: Dataset) -> Iterator[object]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _all_elements(item)


# --- the object ---------------------------------------------------------------------------------


def test_encoding_twice_gives_the_same_bytes(phantom: Phantom) -> None:
    assert of_phantom(phantom).encoded() == of_phantom(phantom).encoded()


@given(st.permutations(range(24)))
@settings(max_examples=5)
def test_bytes_do_not_depend_on_the_order_of_the_headers(arrival: list[int]) -> None:
    case = of_phantom(Phantom(**SMALL))

    shuffled = replace(case, source=[case.source[k] for k in arrival])

    assert shuffled.encoded() == case.encoded()


def test_no_date_or_time_comes_from_this_machine(case: Segmentation, seg: Dataset) -> None:
    ours = {PROVENANCE.content_date, PROVENANCE.content_time}
    ours.add(PROVENANCE.content_date + PROVENANCE.content_time)
    copied = {Tag(keyword) for keyword in COPIED_KEYWORDS}

    moments = {
        str(element.value)
        for element in _all_elements(seg)
        if element.VR in ("DA", "TM", "DT") and element.tag not in copied
    }

    assert moments == ours


def test_every_uid_of_ours_follows_from_the_job(case: Segmentation, seg: Dataset) -> None:
    organization = seg.DimensionOrganizationSequence[0].DimensionOrganizationUID

    assert seg.SOPInstanceUID == IDENTITY.uid("sop")
    assert seg.SeriesInstanceUID == IDENTITY.uid("series")
    assert organization == IDENTITY.uid("dimension")
    assert [s.TrackingUID for s in seg.SegmentSequence] == [
        IDENTITY.uid(f"tracking.{value}") for value in (7, 2, 4)
    ]


def test_reading_the_source_leaves_it_as_it_was(phantom: Phantom) -> None:
    headers = _headers_read_from_files(phantom)
    before = deepcopy(headers)

    of_series(headers).encode()

    assert headers == before


def test_it_is_a_binary_segmentation_of_one_bit_pixels(seg: Dataset) -> None:
    assert seg.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (seg.Modality, seg.SegmentationType, seg.SegmentsOverlap) == ("SEG", "BINARY", "NO")
    assert (seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation) == (1, 1, 0, 0)
    assert list(seg.ImageType) == ["DERIVED", "PRIMARY"]
    assert seg.SeriesNumber == PROVENANCE.series_number
    assert seg.BurnedInAnnotation == "NO"


# --- segments and frames ------------------------------------------------------------------------


def test_segments_without_a_voxel_are_left_out_and_the_rest_numbered_from_1(
    case: Segmentation, seg: Dataset
) -> None:
    assert [(s.SegmentNumber, s.SegmentLabel) for s in seg.SegmentSequence] == [
        (1, "Left lung"),
        (2, "Right lung"),
        (3, "Marker"),
    ]
    assert case.encode().summary["segments"] == {"1": 7, "2": 2, "3": 4}


def test_frames_go_by_segment_then_slice_without_empty_ones(
    case: Segmentation, seg: Dataset
) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    indices = [tuple(g.FrameContentSequence[0].DimensionIndexValues) for g in groups]
    occupied = sum(
        bool((plane == value).any()) for value in (7, 2, 4) for plane in case.volume.labels
    )

    assert indices == sorted(set(indices))
    assert len(indices) == seg.NumberOfFrames == occupied


def test_a_segment_carries_its_codes(seg: Dataset) -> None:
    left, _, marker = seg.SegmentSequence

    kind = left.SegmentedPropertyTypeCodeSequence[0]

    assert (kind.CodeValue, kind.CodingSchemeDesignator) == (LUNG.value, "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    region = marker.AnatomicRegionSequence[0]
    assert region.CodeMeaning == "Thorax"
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"


def test_private_codes_say_whose_they_are(case: Segmentation) -> None:
    own = Code("ctmr-160", PRIVATE_SCHEME, "Gonads")
    segments = (replace(SEGMENTS[0], type=own), *SEGMENTS[1:])

    seg = _read(replace(case, segments=segments))

    (scheme,) = seg.CodingSchemeIdentificationSequence
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert scheme.CodingSchemeDesignator == kind.CodingSchemeDesignator == PRIVATE_SCHEME
    assert is_uid(scheme.CodingSchemeUID)
    assert scheme.CodingSchemeResponsibleOrganization == "segnode"


def test_published_codes_need_no_further_identification(case: Segmentation, seg: Dataset) -> None:
    never_found = replace(SEGMENTS[2], type=Code("ctmr-160", PRIVATE_SCHEME, "Gonads"))
    left_out = _read(replace(case, segments=(*SEGMENTS[:2], never_found, SEGMENTS[3])))

    assert "CodingSchemeIdentificationSequence" not in seg
    assert "CodingSchemeIdentificationSequence" not in left_out


def test_a_segments_colour_is_near_its_rgb(seg: Dataset) -> None:
    lightness, a, b = seg.SegmentSequence[2].RecommendedDisplayCIELabValue  # yellow

    assert lightness / 65535 * 100 == pytest.approx(97.1, abs=0.5)
    assert a / 65535 * 255 - 128 == pytest.approx(-21.6, abs=1)
    assert b / 65535 * 255 - 128 == pytest.approx(94.5, abs=1)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("x" * 70, "x" * 64),
        ("Größe\\Niere\n", "Groe/Niere"),
        ("心臓", "label 7"),
    ],
)
def test_a_label_is_cut_and_written_in_ascii(case: Segmentation, name: str, label: str) -> None:
    segments = (replace(SEGMENTS[0], name=name), *SEGMENTS[1:])

    seg = _read(replace(case, segments=segments))

    assert seg.SegmentSequence[0].SegmentLabel == label


def test_all_empty_labels_make_no_object(case: Segmentation) -> None:
    nothing = replace(case.volume, labels=np.zeros_like(case.volume.labels))

    assert encode_seg(replace(case, volume=nothing)) == ()


def test_a_label_that_no_segment_describes_fails_for_good(case: Segmentation) -> None:
    labels = case.volume.labels.copy()
    labels[3, 3, 3] = 200

    with pytest.raises(JobFailed, match="label 200") as failed:
        replace(case, volume=replace(case.volume, labels=labels)).encode()

    assert failed.value.permanent


def test_two_segments_of_one_label_value_fail_for_good(case: Segmentation) -> None:
    with pytest.raises(JobFailed, match="two segments") as failed:
        replace(case, segments=(*SEGMENTS, replace(SEGMENTS[0], name="again"))).encode()

    assert failed.value.permanent


def test_a_missing_source_header_fails_for_good(case: Segmentation) -> None:
    with pytest.raises(JobFailed, match=r"source header of .* is missing") as failed:
        replace(case, source=case.source[1:]).encode()

    assert failed.value.permanent


def test_sixteen_bit_labels_above_255_are_encoded(case: Segmentation) -> None:
    labels = case.volume.labels.astype(np.uint16)
    labels[labels == 7] = 1007
    many = (Segment(**{**_fields(SEGMENTS[0]), "label_value": 1007}), *SEGMENTS[1:])

    seg = _read(replace(case, volume=replace(case.volume, labels=labels), segments=many))

    assert len(seg.SegmentSequence) == 3


def _fields(segment: Segment) -> dict[str, object]:
    return {name: getattr(segment, name) for name in Segment.__dataclass_fields__}


def test_a_mask_of_one_voxel_is_one_frame(case: Segmentation) -> None:
    labels = np.zeros_like(case.volume.labels)
    labels[5, 6, 7] = 4

    seg = _read(replace(case, volume=replace(case.volume, labels=labels)))

    assert seg.NumberOfFrames == 1
    assert np.argwhere(seg.pixel_array.reshape(40, 56)).tolist() == [[6, 7]]


def test_a_full_mask_covers_every_slice(case: Segmentation) -> None:
    labels = np.full_like(case.volume.labels, 4)

    seg = _read(replace(case, volume=replace(case.volume, labels=labels)))

    assert seg.NumberOfFrames == 24
    assert seg.pixel_array.all()


# --- references ---------------------------------------------------------------------------------


def test_every_source_instance_is_referenced(case: Segmentation, seg: Dataset) -> None:
    (series,) = seg.ReferencedSeriesSequence

    named = {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence}

    assert series.SeriesInstanceUID == case.source[0].SeriesInstanceUID
    assert named == {header.SOPInstanceUID for header in case.source}
    assert len(series.ReferencedInstanceSequence) == 24


def test_frames_of_a_multi_frame_source_name_its_frames() -> None:
    phantom = Phantom(enhanced=True, order="shuffled", **SMALL)

    seg = _read(of_phantom(phantom))

    source = phantom.headers()[0]
    for group in seg.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        named = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        assert (
            named.PlanePositionSequence[0].ImagePositionPatient
            == group.PlanePositionSequence[0].ImagePositionPatient
        )


def test_further_input_series_are_referenced_too(case: Segmentation) -> None:
    second = Phantom(series="2", **SMALL).headers()

    seg = _read(replace(case, source=[*second, *case.source]))

    sizes = [len(s.ReferencedInstanceSequence) for s in seg.ReferencedSeriesSequence]
    assert sizes == [24, 24]


# --- patient and study --------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", NEVER_ABSENT_KEYWORDS)
def test_what_the_source_leaves_out_is_there_and_empty(phantom: Phantom, keyword: str) -> None:
    seg = _read(_without(phantom, keyword))

    assert keyword in seg
    assert not seg[keyword].value


def test_a_source_without_any_patient_makes_a_seg(phantom: Phantom) -> None:
    seg = _read(_without(phantom, *NEVER_ABSENT_KEYWORDS))

    assert all(keyword in seg and not seg[keyword].value for keyword in NEVER_ABSENT_KEYWORDS)


def test_a_source_without_character_set_makes_a_seg_without(phantom: Phantom) -> None:
    ascii_names = (("PatientName", "A^B"), ("ReferringPhysicianName", None))
    attributes = (("SpecificCharacterSet", None), *ascii_names)

    seg = _read(of_phantom(replace(phantom, attributes=attributes)))

    assert "SpecificCharacterSet" not in seg


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("enhanced", [False, True])
def test_patient_and_study_survive_every_encoding_of_the_source(
    syntax: str, *, enhanced: bool
) -> None:
    other_id = Dataset()
    other_id.PatientID = "ÄLTER-7"
    other_id.TypeOfPatientID = "TEXT"
    other_id.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "secret")
    attributes = (
        ("PregnancyStatus", 4),  # a binary number: its bytes turn with the byte order
        ("PatientWeight", "071.50"),
        ("OtherPatientIDsSequence", [other_id]),
        ("ClinicalTrialSponsorName", "Spönsor"),
        ("AdditionalPatientHistory", "line one\r\nline two"),
    )
    phantom = Phantom(attributes=attributes, transfer_syntax=syntax, enhanced=enhanced, **SMALL)
    headers = _headers_read_from_files(phantom)

    seg = _read(of_series(headers))

    assert seg.PregnancyStatus == 4
    assert seg.OtherPatientIDsSequence[0].PatientID == "ÄLTER-7"
    assert len(seg.OtherPatientIDsSequence[0]) == 2
    assert _raw(_fresh(seg), "PatientWeight") == b"071.50"
    for keyword in ("PatientName", "ReferringPhysicianName", "ClinicalTrialSponsorName"):
        assert seg[keyword].value == phantom.headers()[0][keyword].value


def _fresh(seg: Dataset) -> Dataset:
    buffer = BytesIO()
    seg.save_as(buffer)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize(
    "case_name", ["names_utf8", "names_iso2022jp", "names_gb18030", "names_empty"]
)
def test_real_names_are_equal_byte_for_byte(shared_data: Cases, case_name: str) -> None:
    paths = sorted((shared_data / "derived_ct_sts_001" / case_name).glob("*.dcm"))
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    case = of_series(headers)

    seg = dcmread(BytesIO(case.encoded()))

    source = dcmread(paths[0], stop_before_pixels=True)
    for keyword in COPIED_KEYWORDS:
        if Tag(keyword) in source and source.get_item(Tag(keyword)).VR != "SQ":
            assert _raw(seg, keyword) == _raw(source, keyword), keyword
        elif Tag(keyword) not in source and keyword not in NEVER_ABSENT_KEYWORDS:
            assert Tag(keyword) not in seg, keyword


def test_text_that_its_character_set_cannot_hold_is_copied_as_it_is(phantom: Phantom) -> None:
    files = [data.replace(b"Phant\xc3\xb6m", b"Phant\xc3\xf6m") for data in phantom.files()]
    headers = [dcmread(BytesIO(data), stop_before_pixels=True) for data in files]

    case = of_series(headers)
    data = case.encoded()

    case.verify(data)
    assert b"Phant\xc3\xf6m^Torso" in data


def test_private_attributes_of_the_source_are_left_behind(shared_data: Cases) -> None:
    paths = sorted((shared_data / "derived_ct_sts_001" / "private_tags").glob("*.dcm"))
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    assert any(tag.is_private for tag in headers[0].keys())  # noqa: SIM118

    case = of_series(headers)
    data = case.encoded()

    case.verify(data)
    assert b"ACME" not in data
    assert not any(tag.is_private for tag in dcmread(BytesIO(data)).keys())  # noqa: SIM118


def test_a_study_with_names_corrected_in_part_takes_those_of_the_first_slice() -> None:
    phantom = Phantom(**SMALL)
    case = of_phantom(phantom)
    source = [deepcopy(header) for header in case.source]
    source[0].PatientName = "Corrected^Name"  # forward order: slice 0

    seg = _read(replace(case, source=source[::-1]))

    assert seg.PatientName == "Corrected^Name"


# --- place --------------------------------------------------------------------------------------


def test_geometry_is_copied_as_the_source_wrote_it(phantom: Phantom) -> None:
    files = [
        data.replace(b"\\0.0\\0.0\\0.0\\1.0\\0.0", b"\\0.0\\0E0\\-0.\\1.0\\0.0")
        for data in phantom.files()
    ]
    headers = [dcmread(BytesIO(data), stop_before_pixels=True) for data in files]

    data = of_series(headers).encoded()

    assert data.count(b"1.0\\0.0\\0E0\\-0.\\1.0\\0.0") == 1


def test_body_part_is_copied_where_all_instances_agree(case: Segmentation, seg: Dataset) -> None:
    source = [deepcopy(header) for header in case.source]
    source[3].BodyPartExamined = "ABDOMEN"

    assert seg.BodyPartExamined == "CHEST"
    assert "BodyPartExamined" not in _read(replace(case, source=source))


def test_slice_thickness_that_differs_becomes_the_distance_of_slices(case: Segmentation) -> None:
    source = [deepcopy(header) for header in case.source]
    source[3].SliceThickness = 1

    shared = _read(replace(case, source=source)).SharedFunctionalGroupsSequence[0]

    assert shared.PixelMeasuresSequence[0].SliceThickness == 8.25


def test_a_decimal_string_that_is_too_long_is_shortened(case: Segmentation) -> None:
    source = [deepcopy(header) for header in case.source]
    for header in source:
        text = "5.50000000000000001\\6.0"
        header["PixelSpacing"] = DataElement(0x00280030, "DS", text, validation_mode=IGNORE)

    data = replace(case, source=source).encoded()

    assert b"5.5000000000" not in data
    assert b"5.5\\6.0" in data


def test_a_frame_without_a_place_fails_for_good(case: Segmentation) -> None:
    frames = [replace(frame, position_mm=None) for frame in case.volume.stack.frames]
    stack = replace(case.volume.stack, frames=tuple(frames))

    with pytest.raises(JobFailed, match="no place") as failed:
        replace(case, volume=replace(case.volume, stack=stack)).encode()

    assert failed.value.permanent


# --- provenance ---------------------------------------------------------------------------------


def test_the_algorithm_says_what_it_was(seg: Dataset) -> None:
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    parameters = dict(line.split("=", 1) for line in algorithm.AlgorithmParameters.splitlines())

    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ct_tissue", "1.2.0")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert parameters["weights_digest"] == PROVENANCE.weights_digest
    assert parameters["model_digest"] == PROVENANCE.model_digest
    assert parameters["config_digest"] == PROVENANCE.config_digest
    assert parameters["mode"] == "fast"


def test_research_use_is_marked_where_people_and_programs_look(seg: Dataset) -> None:
    assert seg.SeriesDescription == "ct_tissue 1.2.0 (AI, RESEARCH)"
    assert "research use only" in seg.ContentDescription
    assert "research use only" in seg.SegmentSequence[0].SegmentDescription
    assert seg.ContentQualification == "RESEARCH"


def test_without_research_use_nothing_is_marked_so(case: Segmentation) -> None:
    provenance = replace(PROVENANCE, research_use=False)

    data = replace(case, provenance=provenance).encoded()

    assert b"ESEARCH" not in data.upper()


def test_a_revision_names_what_it_replaces(case: Segmentation) -> None:
    replaced = IDENTITY.uid("sop")

    seg = _read(case.revised(2, replaced))

    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert seg.SeriesDescription == "ct_tissue 1.2.0 (AI, RESEARCH), revision 2"
    assert seg.ContentDescription == f"RESEARCH, replaces {replaced}"
    assert f"replaces={replaced}" in algorithm.AlgorithmParameters
    assert seg.SOPInstanceUID != replaced


def test_a_short_replaced_uid_fits_the_series_description(case: Segmentation) -> None:
    seg = _read(case.revised(2, "1.2.3"))

    assert seg.SeriesDescription == "ct_tissue 1.2.0 (AI, RESEARCH), revision 2, replaces 1.2.3"


def test_a_long_model_name_never_pushes_the_mark_out(case: Segmentation) -> None:
    provenance = replace(PROVENANCE, model_name="m" * 80)

    seg = _read(replace(case, provenance=provenance))

    assert seg.SeriesDescription.endswith(" (AI, RESEARCH)")
    assert len(seg.SeriesDescription) == 64


def test_equipment_is_ours_and_the_scanner_contributed(seg: Dataset) -> None:
    scanner, node = seg.ContributingEquipmentSequence

    assert seg.Manufacturer == "segnode"
    assert seg.SoftwareVersions == ["0.1.0", "ct_tissue 1.2.0"]
    assert seg.DeviceSerialNumber
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert scanner.Manufacturer == "Phantom Works"
    assert node.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_a_scanner_without_a_manufacturer_is_not_invented(phantom: Phantom) -> None:
    seg = _read(_without(phantom, "Manufacturer"))

    assert len(seg.ContributingEquipmentSequence) == 1


def test_a_lossy_source_makes_a_lossy_result(case: Segmentation) -> None:
    source = [deepcopy(header) for header in case.source]
    source[9].LossyImageCompression = "01"
    source[9].LossyImageCompressionRatio = ["12.5", "3"]
    source[9].LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]

    seg = _read(replace(case, source=source))

    assert seg.LossyImageCompression == "01"
    assert list(seg.LossyImageCompressionRatio) == [12.5, 3]
    assert list(seg.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]


def test_a_lossy_transfer_syntax_alone_makes_a_lossy_result(case: Segmentation) -> None:
    source = [deepcopy(header) for header in case.source]
    source[9].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.91"

    seg = _read(replace(case, source=source))

    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionMethod == "ISO_15444_1"
