"""Headers: what a whole series has in common, with a reason for what it has not."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.domain.header import (
    ABSENT,
    DIFFERS,
    MALFORMED,
    PARTLY_ABSENT,
    Header,
    HeaderMerger,
    Missing,
    Value,
    merge_values,
    value_of,
)


def dataset(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def written(source: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set read back from bytes, so that its elements are not decoded yet."""
    buffer = BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(buffer, source, implicit_vr=implicit, little_endian=little)
    buffer.seek(0)
    return read_dataset(buffer, implicit, little)


def merged(*instances: Dataset) -> Header:
    merger = HeaderMerger()
    for instance in instances:
        merger.add(instance)
    return merger.header()


def test_what_is_equal_in_all_instances_is_the_header() -> None:
    header = merged(*(written(dataset(Modality="CT", InstanceNumber=k)) for k in (1, 2)))

    assert header.get("Modality") == ("CT",)
    assert header.get("InstanceNumber") == DIFFERS
    assert header.get("SliceThickness") == ABSENT


def test_what_some_instances_lack_is_partly_absent() -> None:
    full, bare = dataset(Modality="CT", KVP=120), dataset(Modality="CT")

    assert merged(full, bare).get("KVP") == PARTLY_ABSENT
    assert merged(bare, full).get("KVP") == PARTLY_ABSENT


@pytest.mark.parametrize(
    ("ours", "theirs"), [("5", "5.00"), ("5.0", "0.5e1")], ids=["decimals", "exponent"]
)
def test_numbers_are_compared_as_numbers(ours: str, theirs: str) -> None:
    header = merged(written(dataset(SliceThickness=ours)), written(dataset(SliceThickness=theirs)))

    assert header.get("SliceThickness") == (5.0,)


def test_the_transfer_syntax_does_not_change_a_header() -> None:
    source = dataset(
        Modality="CT", Rows=256, SliceThickness="2.5", ImageType=["ORIGINAL", "PRIMARY"]
    )
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)

    header = merged(*(written(source, syntax) for syntax in syntaxes))

    assert header.get("Rows") == (256,)
    assert header.get("ImageType") == ("ORIGINAL", "PRIMARY")
    assert header.get("SliceThickness") == (2.5,)


def test_equal_bytes_in_other_byte_order_are_different_numbers() -> None:
    header = merged(written(dataset(Rows=1)), written(dataset(Rows=256), ExplicitVRBigEndian))

    assert header.get("Rows") == DIFFERS


def test_equal_bytes_in_other_character_sets_are_different_text() -> None:
    latin = dataset(SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel")
    greek = dataset(SpecificCharacterSet="ISO_IR 126", SeriesDescription="Schδdel")
    ours, theirs = written(latin), written(greek)
    tag = Tag("SeriesDescription")
    assert ours.get_item(tag).value == theirs.get_item(tag).value

    assert merged(ours, theirs).get("SeriesDescription") == DIFFERS


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("SeriesDescription", " CT chest ", ("CT chest",)),
        ("SeriesDescription", "", ()),
        ("SeriesNumber", "7", (7,)),
        ("SliceThickness", "2.5", (2.5,)),
        ("ImageType", ["ORIGINAL", "PRIMARY"], ("ORIGINAL", "PRIMARY")),
        ("PixelSpacing", ["0.5", "0.5"], (0.5, 0.5)),
        ("PatientName", "A^B", ("A^B",)),
        ("Rows", 512, (512,)),
    ],
)
def test_values_have_the_form_that_rules_compare(
    keyword: str, value: object, expected: Value
) -> None:
    assert value_of(dataset(**{keyword: value}), keyword) == expected


@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:Value .* is not valid")
@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("SliceThickness", "DS", b"thick "),
        ("SliceThickness", "DS", b"nan "),
        ("SliceThickness", "DS", b"inf "),
        ("SeriesNumber", "IS", b"1.5 "),
        ("Rows", "US", b"\x01"),
    ],
)
def test_what_cannot_be_read_is_malformed_and_does_not_stop_the_rest(
    keyword: str, vr: str, value: bytes
) -> None:
    broken = dataset(Modality="CT")
    tag = Tag(keyword)
    broken._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True, True)

    header = merged(broken)

    assert header.get(keyword) == MALFORMED
    assert header.get("Modality") == ("CT",)


def test_pixels_sequences_private_elements_and_tables_are_not_compared() -> None:
    full = dataset(Modality="CT", OtherPatientIDsSequence=[dataset(PatientID="X")])
    full.add_new(0x7FE00010, "OW", b"\0\0")
    full.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "x")
    full.add_new(0x00283006, "US or OW", b"\0\1")

    assert set(merged(full).values) == {"Modality"}


def enhanced(thickness: list[float], **shared: object) -> Dataset:
    made = dataset(Modality="MR")
    made.SharedFunctionalGroupsSequence = [
        dataset(MRTimingAndRelatedParametersSequence=[dataset(**shared)])
    ]
    made.PerFrameFunctionalGroupsSequence = [
        dataset(PixelMeasuresSequence=[dataset(SliceThickness=value)]) for value in thickness
    ]
    return made


def test_shared_groups_count_as_top_level_and_per_frame_ones_where_equal() -> None:
    header = merged(enhanced([5, 5], RepetitionTime=400))

    assert header.get("RepetitionTime") == (400.0,)
    assert header.get("SliceThickness") == (5.0,)


def test_per_frame_values_that_differ_are_different() -> None:
    assert merged(enhanced([5, 6])).get("SliceThickness") == DIFFERS


def test_groups_of_several_instances_are_compared() -> None:
    header = merged(enhanced([5, 5], RepetitionTime=400), enhanced([6], RepetitionTime=400))

    assert header.get("RepetitionTime") == (400.0,)
    assert header.get("SliceThickness") == DIFFERS


@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:Value .* is not valid")
def test_a_malformed_value_inside_a_group_is_malformed_and_hides_nothing() -> None:
    image = enhanced([5], RepetitionTime=400)
    item = image.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0]
    tag = Tag("FlipAngle")
    item._dict[tag] = RawDataElement(tag, "DS", 4, b"flip", 0, False, True, True)

    header = merged(image)

    assert header.get("FlipAngle") == MALFORMED
    assert header.get("RepetitionTime") == (400.0,)


def test_derived_attributes_are_found_by_name_and_leave_the_values_alone() -> None:
    header = Header({"Modality": ("CT",)}).with_derived({"slices": (36,)})

    assert header.get("slices") == (36,)
    assert header.get("Modality") == ("CT",)
    assert header.with_derived({"rows": (1,)}).get("slices") == (36,)


def test_text_for_display_is_never_a_reason() -> None:
    header = Header({"Modality": ("CT",), "StudyID": DIFFERS, "PatientSex": ()})

    assert [header.text(n) for n in ("Modality", "StudyID", "PatientSex", "KVP")] == [
        "CT",
        "",
        "",
        "",
    ]


VALUES = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([(1,), (2,), (), DIFFERS, PARTLY_ABSENT]), max_size=3
)


@given(st.lists(VALUES, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_what_is_common_does_not_depend_on_the_order(headers, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(headers, len(headers))

    def known(values: dict[str, Value]) -> dict[str, Value | None]:
        return {n: None if isinstance(v, Missing) else v for n, v in values.items()}

    assert known(merge_values(headers)) == known(merge_values(shuffled))


@given(st.lists(st.sampled_from(["CT", "MR", None]), min_size=1, max_size=6))
def test_a_merged_value_is_what_every_instance_says(modalities: list[str | None]) -> None:
    header = merged(*(dataset(**({"Modality": m} if m else {})) for m in modalities))

    said = set(modalities)
    expected: Value = DIFFERS
    if said == {None}:
        expected = ABSENT
    elif None in said:
        expected = PARTLY_ABSENT
    elif len(said) == 1:
        expected = (modalities[0] or "",)
    got = header.get("Modality")
    if len(said) == 3:
        assert got in (DIFFERS, PARTLY_ABSENT)
    else:
        assert got == expected
