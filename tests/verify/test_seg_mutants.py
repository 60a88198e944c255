"""Each single fault in an otherwise right SEG is refused, and the refusal names it.

Most of these pass every public validator: a mirrored mask, a flipped orientation, a wrong spacing,
another study, a wrong reference, a dimension index out of range.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.domain.errors import ResultRefused
from node.verify.seg import verify_seg
from tests.support.phantoms import Phantom
from tests.support.segmentations import Segmentation, of_phantom

ODD_BITS = {"shape": (24, 37, 53), "spacing_mm": (8.25, 5.9, 6.3)}


def _of(**phantom: object) -> Segmentation:
    return of_phantom(Phantom(**phantom))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def classic() -> Segmentation:
    return _of(order="shuffled", **ODD_BITS)


@pytest.fixture(scope="module")
def enhanced() -> Segmentation:
    return _of(enhanced=True, order="reversed", **ODD_BITS)


@pytest.fixture(scope="module")
def good(classic: Segmentation) -> bytes:
    return classic.encoded()


def _bits(seg: Dataset) -> np.ndarray:
    count = int(seg.NumberOfFrames) * seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[:count]
    return bits.reshape(int(seg.NumberOfFrames), seg.Rows, seg.Columns)


def _set_bits(seg: Dataset, bits: np.ndarray) -> None:
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)


def _frame(seg: Dataset, number: int) -> Dataset:
    return seg.PerFrameFunctionalGroupsSequence[number - 1]


def _reference(seg: Dataset, number: int) -> Dataset:
    return _frame(seg, number).DerivationImageSequence[0].SourceImageSequence[0]


def _position(seg: Dataset, number: int) -> Dataset:
    return _frame(seg, number).PlanePositionSequence[0]


def _shared(seg: Dataset) -> Dataset:
    return seg.SharedFunctionalGroupsSequence[0]


# --- mutants: each changes one thing ------------------------------------------------------------


def mirror_left_right(seg: Dataset) -> None:
    _set_bits(seg, _bits(seg)[:, :, ::-1])


def mirror_up_down(seg: Dataset) -> None:
    _set_bits(seg, _bits(seg)[:, ::-1])


def flip_one_voxel(seg: Dataset) -> None:
    bits = _bits(seg).copy()
    bits[-1, 5, 5] ^= 1
    _set_bits(seg, bits)


def swap_two_planes(seg: Dataset) -> None:
    bits = _bits(seg).copy()
    bits[[2, 7]] = bits[[7, 2]]
    _set_bits(seg, bits)


def flip_orientation(seg: Dataset) -> None:
    orientation = _shared(seg).PlaneOrientationSequence[0]
    cosines = [float(value) for value in orientation.ImageOrientationPatient]
    orientation.ImageOrientationPatient = [*(-c for c in cosines[:3]), *cosines[3:]]


def drop_orientation(seg: Dataset) -> None:
    del _shared(seg).PlaneOrientationSequence


def wrong_pixel_spacing(seg: Dataset) -> None:
    _shared(seg).PixelMeasuresSequence[0].PixelSpacing = [5.9, 5.9]


def swapped_pixel_spacing(seg: Dataset) -> None:
    _shared(seg).PixelMeasuresSequence[0].PixelSpacing = [6.3, 5.9]


def wrong_slice_spacing(seg: Dataset) -> None:
    _shared(seg).PixelMeasuresSequence[0].SpacingBetweenSlices = 5


def no_slice_thickness(seg: Dataset) -> None:
    del _shared(seg).PixelMeasuresSequence[0].SliceThickness


def move_a_frame(seg: Dataset) -> None:
    x, y, z = _position(seg, 3).ImagePositionPatient
    _position(seg, 3).ImagePositionPatient = [x, y, float(z) + 2.5]


def move_a_frame_in_its_plane(seg: Dataset) -> None:
    x, y, z = _position(seg, 3).ImagePositionPatient
    _position(seg, 3).ImagePositionPatient = [float(x) + 0.5, y, z]


def move_a_frame_by_one_slice(seg: Dataset) -> None:
    _position(seg, 3).ImagePositionPatient = _position(seg, 4).ImagePositionPatient


def move_a_frame_out_of_the_volume(seg: Dataset) -> None:
    _position(seg, 3).ImagePositionPatient = [0, 0, 9000]


def reference_an_unknown_instance(seg: Dataset) -> None:
    _reference(seg, 5).ReferencedSOPInstanceUID = "2.25.99"


def reference_the_neighbour(seg: Dataset) -> None:
    neighbour = _reference(seg, 6).ReferencedSOPInstanceUID
    _reference(seg, 5).ReferencedSOPInstanceUID = neighbour


def reference_another_class(seg: Dataset) -> None:
    _reference(seg, 5).ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def reference_nothing(seg: Dataset) -> None:
    del _frame(seg, 5).DerivationImageSequence


def derive_by_something_else(seg: Dataset) -> None:
    code = _frame(seg, 5).DerivationImageSequence[0].DerivationCodeSequence[0]
    code.CodeValue = "113072"


def dimension_index_out_of_range(seg: Dataset) -> None:
    _frame(seg, 4).FrameContentSequence[0].DimensionIndexValues = [1, 9999]


def dimension_index_of_another_segment(seg: Dataset) -> None:
    _frame(seg, 1).FrameContentSequence[0].DimensionIndexValues = [2, 1]


def dimensions_the_other_way_round(seg: Dataset) -> None:
    seg.DimensionIndexSequence = Sequence(list(seg.DimensionIndexSequence)[::-1])


def name_a_missing_segment(seg: Dataset) -> None:
    _frame(seg, 2).SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def name_another_segment(seg: Dataset) -> None:
    _frame(seg, 2).SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


def repeat_a_frame(seg: Dataset) -> None:
    groups, bits = list(seg.PerFrameFunctionalGroupsSequence), _bits(seg)
    seg.PerFrameFunctionalGroupsSequence = Sequence([*groups, groups[0]])
    seg.NumberOfFrames = len(groups) + 1
    _set_bits(seg, np.concatenate([bits, bits[:1]]))


def leave_a_frame_out(seg: Dataset) -> None:
    groups, bits = list(seg.PerFrameFunctionalGroupsSequence), _bits(seg)
    seg.PerFrameFunctionalGroupsSequence = Sequence(groups[:-1])
    seg.NumberOfFrames = len(groups) - 1
    _set_bits(seg, bits[:-1])


def one_frame_more_than_there_is(seg: Dataset) -> None:
    seg.NumberOfFrames = int(seg.NumberOfFrames) + 1


def half_of_the_pixels(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[: len(seg.PixelData) // 4 * 2]


def bits_behind_the_last_frame(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[:-1] + bytes([seg.PixelData[-1] | 0x80])


def no_frame_of_reference(seg: Dataset) -> None:
    del seg.FrameOfReferenceUID


def another_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "2.25.99"


def another_study(seg: Dataset) -> None:
    seg.StudyInstanceUID = "2.25.99"


def another_patient(seg: Dataset) -> None:
    seg.PatientID = "SOMEBODY-ELSE"


def another_name(seg: Dataset) -> None:
    seg.PatientName = "Phantom^Torso"


def another_character_set(seg: Dataset) -> None:
    seg.SpecificCharacterSet = "ISO_IR 100"


def no_accession_number(seg: Dataset) -> None:
    del seg.AccessionNumber


def an_attribute_the_source_has_not(seg: Dataset) -> None:
    seg.PatientComments = "of somebody else"


def a_private_attribute(seg: Dataset) -> None:
    seg.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "secret")


def a_private_attribute_deep_inside(seg: Dataset) -> None:
    inner = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    inner.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "secret")


def no_property_category(seg: Dataset) -> None:
    del seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence


def another_property_type(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "10200004"


def right_instead_of_left(seg: Dataset) -> None:
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue = "24028007"


def no_algorithm_name(seg: Dataset) -> None:
    del seg.SegmentSequence[1].SegmentAlgorithmName


def segments_in_another_order(seg: Dataset) -> None:
    first, second, third = seg.SegmentSequence
    first.SegmentNumber, second.SegmentNumber = 2, 1
    seg.SegmentSequence = Sequence([second, first, third])


def a_segment_too_few(seg: Dataset) -> None:
    seg.SegmentSequence = Sequence(list(seg.SegmentSequence)[:-1])


def no_weights_digest(seg: Dataset) -> None:
    algorithm = seg.SegmentSequence[1].SegmentationAlgorithmIdentificationSequence[0]
    algorithm.AlgorithmParameters = algorithm.AlgorithmParameters.replace("b2", "c4")


def tracked_as_something_else(seg: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = "2.25.99"


def another_date(seg: Dataset) -> None:
    seg.ContentDate = "20250101"


def no_colour(seg: Dataset) -> None:
    del seg.SegmentSequence[2].RecommendedDisplayCIELabValue


def a_source_instance_is_not_referenced(seg: Dataset) -> None:
    series = seg.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = Sequence(list(series.ReferencedInstanceSequence)[1:])


def references_of_another_series(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.99"


def a_long_series_description(seg: Dataset) -> None:
    text = "(AI, RESEARCH) " + "x" * 65
    seg["SeriesDescription"] = DataElement(0x0008103E, "LO", text, validation_mode=IGNORE)


def no_research_mark(seg: Dataset) -> None:
    seg.SeriesDescription = "ct_tissue 1.2.0"


def a_mark_of_an_implausible_result(seg: Dataset) -> None:
    seg.SeriesDescription = "ct_tissue 1.2.0 (AI, RESEARCH, IMPLAUSIBLE)"


def no_serial_number(seg: Dataset) -> None:
    del seg.DeviceSerialNumber


def segments_said_to_overlap(seg: Dataset) -> None:
    seg.SegmentsOverlap = "YES"


def eight_bits(seg: Dataset) -> None:
    seg.BitsAllocated = 8


def another_sop_instance(seg: Dataset) -> None:
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = "2.25.99"


def another_sop_class(seg: Dataset) -> None:
    seg.SOPClassUID = seg.file_meta.MediaStorageSOPClassUID = CTImageStorage


def another_series(seg: Dataset) -> None:
    seg.SeriesInstanceUID = "2.25.99"


def another_series_number(seg: Dataset) -> None:
    seg.SeriesNumber = 3


def another_modality(seg: Dataset) -> None:
    seg.Modality = "CT"


def no_content_qualification(seg: Dataset) -> None:
    del seg.ContentQualification


def an_instance_referenced_twice(seg: Dataset) -> None:
    series = seg.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence.append(series.ReferencedInstanceSequence[0])


def no_word_of_compression(seg: Dataset) -> None:
    del seg.LossyImageCompression


def a_dimension_of_another_organization(seg: Dataset) -> None:
    seg.DimensionIndexSequence[1].DimensionOrganizationUID = "2.25.99"


def not_coded_as_artificial_intelligence(seg: Dataset) -> None:
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    algorithm.AlgorithmFamilyCodeSequence[0].CodeValue = "123109"


def no_segment_label(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentLabel = ""


def rows_and_columns_exchanged(seg: Dataset) -> None:
    seg.Rows, seg.Columns = seg.Columns, seg.Rows


MUTANTS: dict[Callable[[Dataset], None], str] = {
    mirror_left_right: "frame 1: .* voxels differ from the labels",
    mirror_up_down: "frame 1: .* voxels differ from the labels",
    flip_one_voxel: r"frame \d+: 1 voxels differ from the labels",
    swap_two_planes: "frame 3: .* voxels differ from the labels",
    flip_orientation: "frame 1: ImageOrientationPatient differs from that of its source image",
    drop_orientation: "frame 1: ImageOrientationPatient is absent",
    wrong_pixel_spacing: "frame 1: PixelSpacing differs from that of its source image",
    swapped_pixel_spacing: "frame 1: PixelSpacing differs from that of its source image",
    wrong_slice_spacing: "SpacingBetweenSlices is not 8.25 mm",
    no_slice_thickness: "SliceThickness is absent",
    move_a_frame: "frame 3: ImagePositionPatient differs from that of its source image",
    move_a_frame_in_its_plane: "frame 3: ImagePositionPatient differs from that of its source",
    move_a_frame_by_one_slice: "2 frames of segment 1 in slice",
    move_a_frame_out_of_the_volume: "frame 3: its position is not that of a slice",
    reference_an_unknown_instance: "frame 5: references an instance .* not in the source",
    reference_the_neighbour: "frame 5: references another image than that of slice",
    reference_another_class: "frame 5: references its source under another SOP Class",
    reference_nothing: "frame 5: derives from 0 source images",
    derive_by_something_else: "frame 5: its derivation is not coded",
    dimension_index_out_of_range: r"frame 4: Dimension Index Values \(1, 9999\)",
    dimension_index_of_another_segment: r"frame 1: Dimension Index Values \(2, 1\)",
    dimensions_the_other_way_round: "DimensionIndexSequence does not name",
    name_a_missing_segment: "frame 2: names segment 7 of 3",
    name_another_segment: "no frame of segment 1 in slice",
    repeat_a_frame: "2 frames of segment 1 in slice",
    leave_a_frame_out: "no frame of segment 3 in slice",
    one_frame_more_than_there_is: "NumberOfFrames is .*, functional groups describe",
    half_of_the_pixels: "Pixel Data has .* bytes",
    bits_behind_the_last_frame: "bits after the last frame are not zero",
    no_frame_of_reference: "FrameOfReferenceUID is absent",
    another_frame_of_reference: "FrameOfReferenceUID is not the source's",
    another_study: "StudyInstanceUID differs from the source",
    another_patient: "PatientID differs from the source",
    another_name: "PatientName differs from the source",
    another_character_set: "SpecificCharacterSet differs from the source",
    no_accession_number: "AccessionNumber differs from the source",
    an_attribute_the_source_has_not: "PatientComments differs from the source",
    a_private_attribute: "a private attribute is in the object",
    a_private_attribute_deep_inside: "a private attribute is in the object",
    no_property_category: "segment 1: SegmentedPropertyCategoryCodeSequence is not",
    another_property_type: "segment 1: SegmentedPropertyTypeCodeSequence is not",
    right_instead_of_left: "segment 1: SegmentedPropertyTypeModifierCodeSequence is not",
    a_mark_of_an_implausible_result: "SeriesDescription is marked as implausible where",
    no_algorithm_name: "segment 2: .*SegmentAlgorithmName is absent",
    segments_in_another_order: "segment 1: SegmentLabel is not the name",
    a_segment_too_few: r"Segment Numbers are \[1, 2\], not 1 to 3",
    no_weights_digest: "segment 2: AlgorithmParameters lack a digest",
    tracked_as_something_else: "segment 2: .* TrackingUID is not that of the job",
    another_date: "content date and time are not those of the job",
    no_colour: "segment 3: RecommendedDisplayCIELabValue is absent",
    a_source_instance_is_not_referenced: "ReferencedSeriesSequence lacks 1 of 24",
    references_of_another_series: "ReferencedSeriesSequence lacks 24 of 24",
    a_long_series_description: "SeriesDescription has 80 characters",
    no_research_mark: "SeriesDescription lacks the research-use mark",
    no_serial_number: "DeviceSerialNumber is absent or empty",
    segments_said_to_overlap: "SegmentsOverlap is not NO",
    eight_bits: "BitsAllocated is not 1",
    another_sop_instance: "SOP Instance UID is not that of the job",
    another_sop_class: "SOP Class is not Segmentation Storage",
    another_series: "Series Instance UID is not that of the job",
    another_series_number: "Series Number is not that of the job",
    another_modality: "Modality is not SEG",
    no_content_qualification: "ContentQualification is not RESEARCH",
    an_instance_referenced_twice: "ReferencedSeriesSequence names an instance twice",
    no_word_of_compression: "LossyImageCompression is absent",
    a_dimension_of_another_organization: "belongs to no Dimension Organization",
    not_coded_as_artificial_intelligence: "segment 1: .* not coded as artificial intelligence",
    no_segment_label: "segment 1: SegmentLabel has 0 characters",
    rows_and_columns_exchanged: "Rows and Columns are not 37 x 53",
}


def _mutated(good: bytes, mutate: Callable[[Dataset], None]) -> bytes:
    seg = dcmread(BytesIO(good))
    mutate(seg)
    buffer = BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def _faults(of: Segmentation, data: bytes) -> str:
    with pytest.raises(ResultRefused) as refused:
        of.verify(data)
    return "\n".join(refused.value.faults)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_single_fault_is_refused_and_named(
    classic: Segmentation, good: bytes, mutate: Callable[[Dataset], None]
) -> None:
    data = _mutated(good, mutate)

    faults = _faults(classic, data)

    assert re.search(MUTANTS[mutate], faults), faults


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
@pytest.mark.parametrize("columns", [53, 56])  # frames within bytes, and of whole ones
def test_threads_with_few_frames_each_find_what_one_finds(
    columns: int, mutate: Callable[[Dataset], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _of(**{**ODD_BITS, "shape": (24, 37, columns)})
    data = _mutated(case.encoded(), mutate)
    by_one = _outcome(case, data)

    monkeypatch.setattr("node.verify.seg.FRAMES_AT_ONCE", 3)

    assert _outcome(replace(case, threads=4), data) == by_one
    assert by_one or (mutate is bits_behind_the_last_frame and columns == 56)


def _outcome(of: Segmentation, data: bytes) -> list[str]:
    try:
        of.verify(data)
    except ResultRefused as refused:
        return list(refused.faults)
    return []


WHOLE_BYTES = _of(shape=(24, 40, 56), spacing_mm=(8.25, 5.5, 6.0))
GOOD_BYTES = WHOLE_BYTES.encoded()
FRAMES = int(WHOLE_BYTES.encode().summary["frames"])


@given(
    frame=st.integers(1, FRAMES),
    voxel=st.integers(0, 40 * 56 - 1),
    threads=st.integers(1, 4),
    at_once=st.integers(1, 40),
)
def test_any_single_voxel_is_found_whoever_looks(
    frame: int, voxel: int, threads: int, at_once: int
) -> None:
    data = bytearray(GOOD_BYTES)
    bit = (frame - 1) * 40 * 56 + voxel
    data[len(data) - FRAMES * 40 * 56 // 8 + bit // 8] ^= 1 << bit % 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.verify.seg.FRAMES_AT_ONCE", at_once)
        faults = _faults(replace(WHOLE_BYTES, threads=threads), bytes(data))

    assert re.fullmatch(rf"frame {frame}: 1 voxels differ from the labels of slice \d+", faults)


def test_rewriting_the_file_without_a_change_is_no_fault(
    classic: Segmentation, good: bytes
) -> None:
    classic.verify(_mutated(good, lambda _: None))


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_no_fault_tells_a_patients_value(
    classic: Segmentation, good: bytes, mutate: Callable[[Dataset], None]
) -> None:
    faults = _faults(classic, _mutated(good, mutate))

    assert not re.search("Phant.m|PHANTOM|SOMEBODY|A-0815|19700101|secret", faults)


def test_a_frame_of_an_enhanced_source_must_name_its_own_frame(enhanced: Segmentation) -> None:
    def name_another_frame(seg: Dataset) -> None:
        _reference(seg, 3).ReferencedFrameNumber = 1

    data = _mutated(enhanced.encoded(), name_another_frame)

    assert "frame 3: references another image than that of slice" in _faults(enhanced, data)


def test_a_frame_of_an_enhanced_source_must_name_a_frame(enhanced: Segmentation) -> None:
    def name_no_frame(seg: Dataset) -> None:
        del _reference(seg, 3).ReferencedFrameNumber

    data = _mutated(enhanced.encoded(), name_no_frame)

    assert "frame 3: references an instance or frame that is not" in _faults(enhanced, data)


def test_many_faults_are_told_together(classic: Segmentation, good: bytes) -> None:
    def mutate(seg: Dataset) -> None:
        another_patient(seg)
        wrong_pixel_spacing(seg)
        name_a_missing_segment(seg)

    faults = _faults(classic, _mutated(good, mutate))

    assert "PatientID differs" in faults
    assert "PixelSpacing differs" in faults
    assert "names segment 7 of 3" in faults


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_another_transfer_syntax_is_refused(
    classic: Segmentation, good: bytes, syntax: str
) -> None:
    seg = dcmread(BytesIO(good))
    seg.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    seg.save_as(buffer, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)

    faults = _faults(classic, buffer.getvalue())

    assert re.search("transfer syntax|Pixel Data", faults)


@pytest.mark.parametrize("kept", [0, 100, 400, *range(3000, 20_000, 997), -1])
def test_a_cut_file_is_refused_with_a_sentence(
    classic: Segmentation, good: bytes, kept: int
) -> None:
    faults = _faults(classic, good[:kept])

    assert re.search("cannot be read|Pixel Data", faults)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("seed", range(5))
def test_damaged_bytes_are_refused_or_harmless_and_never_crash(
    classic: Segmentation, good: bytes, seed: int
) -> None:
    random = np.random.default_rng(seed)
    refused = 0

    for _ in range(30):
        damaged = bytearray(good)
        damaged[random.integers(0, 25_000)] ^= random.integers(1, 256)
        try:
            classic.verify(bytes(damaged))
        except ResultRefused:
            refused += 1

    assert refused > 5


def test_bytes_behind_the_pixels_are_refused(classic: Segmentation, good: bytes) -> None:
    assert "Pixel Data says" in _faults(classic, good + b"\0\0")


def test_labels_that_changed_after_encoding_are_noticed(classic: Segmentation, good: bytes) -> None:
    labels = classic.volume.labels.copy()
    labels[0, 0, 0] = 7
    changed = replace(classic, volume=replace(classic.volume, labels=labels))

    faults = _faults(changed, good)

    assert "no frame of segment 1 in slice 0" in faults


def test_a_right_object_of_another_revision_is_refused(classic: Segmentation, good: bytes) -> None:
    assert "SOP Instance UID is not that of the job" in _faults(classic.revised(2, "2.25.7"), good)


def test_a_lossy_source_must_be_admitted(classic: Segmentation, good: bytes) -> None:
    source = [*classic.source]
    source[4] = deepcopy(source[4])
    source[4].LossyImageCompression = "01"

    faults = _faults(replace(classic, source=source), good)

    assert "LossyImageCompression hides" in faults


def test_a_view_of_memory_is_verified_like_bytes(classic: Segmentation, good: bytes) -> None:
    classic.verify(memoryview(bytearray(good)))


def _no_mark_in_series_description(seg: Dataset) -> None:
    seg.SeriesDescription = seg.SeriesDescription.replace(", IMPLAUSIBLE", "")


def _no_mark_in_content_description(seg: Dataset) -> None:
    seg.ContentDescription = "For research use only"


def _no_reason_in_algorithm_parameters(seg: Dataset) -> None:
    algorithm = seg.SegmentSequence[1].SegmentationAlgorithmIdentificationSequence[0]
    lines = str(algorithm.AlgorithmParameters).split("\r\n")
    algorithm.AlgorithmParameters = "\r\n".join(
        line for line in lines if not line.startswith("implausible=")
    )


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_no_mark_in_series_description, "SeriesDescription is marked"),
        (_no_mark_in_content_description, "ContentDescription is marked"),
        (_no_reason_in_algorithm_parameters, "AlgorithmParameters do not tell"),
    ],
)
def test_an_implausible_result_that_lacks_a_mark_is_refused(
    classic: Segmentation, spoil: Callable[[Dataset], None], fault: str
) -> None:
    provenance = replace(classic.provenance, implausible="Spleen 30000.0 ml")
    case = replace(classic, provenance=provenance)
    good = case.encoded()
    seg = dcmread(BytesIO(good))
    spoil(seg)
    spoilt = BytesIO()
    seg.save_as(spoilt, enforce_file_format=True)

    case.verify(good)
    with pytest.raises(ResultRefused, match=fault):
        case.verify(spoilt.getvalue())


def test_that_there_is_no_object_is_held_against_the_labels(classic: Segmentation) -> None:
    with pytest.raises(ResultRefused, match="no object was made"):
        verify_seg({}, classic)
    with pytest.raises(ResultRefused, match="2 objects of one result"):
        verify_seg({"": memoryview(b""), "more": memoryview(b"")}, classic)


def test_no_object_passes_where_nothing_was_found(classic: Segmentation) -> None:
    nothing = replace(classic.volume, labels=np.zeros_like(classic.volume.labels))

    verify_seg({}, replace(classic, volume=nothing))
