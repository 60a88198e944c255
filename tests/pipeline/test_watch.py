"""One series while it arrives: order, repetition and corrections make no difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.header import DIFFERS
from node.domain.instance import Instance, Origin, Transport
from node.pipeline.watch import SeriesWatch
from tests.support.simulated_node import ct

ORIGIN = Origin(transport=Transport.DIMSE, association_id="a1", calling_ae_title="PACS")
HEADERS = [dcmread(BytesIO(file), stop_before_pixels=True) for file in ct(slices=6).files()]
RENAMED = [
    dcmread(BytesIO(file), stop_before_pixels=True)
    for file in ct(slices=6, PatientName="New^Name").files()
]


def instance(number: int, version: int = 1, *, is_input: bool = True) -> Instance:
    header = HEADERS[number]
    return Instance(
        sop_instance_uid=str(header.SOPInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        version=version,
        file_name=f"{number}",
        data_offset=0,
        size_bytes=1,
        received_sha256="",
        pixel_identity="",
        is_input=is_input,
        received_at=1000.0 + number,
        origin=ORIGIN,
    )


def read(one: Instance) -> Dataset:
    return (HEADERS, RENAMED)[one.version - 1][int(one.file_name)]


def watched(instances: Sequence[Instance]) -> SeriesWatch:
    watch = SeriesWatch("1.2.3", "1.2", read)
    for row, one in enumerate(instances, 1):
        watch.take_rows([(row, one)])
        watch.header()
    return watch


@settings(max_examples=25)
@given(order=st.permutations([(n, v) for n in range(6) for v in (1, 2)]))
def test_neither_order_nor_repetition_of_copies_changes_what_is_known(
    order: list[tuple[int, int]],
) -> None:
    watch = watched([instance(number, version) for number, version in order])

    assert {one.version for one in watch.inputs} == {2}
    assert watch.header().text("PatientName") == "New^Name"
    assert watch.header().get("slices") == (6,)
    assert watch.header().get("is_volume") == (True,)
    assert watch.newest_row == 12


def test_a_name_that_only_some_have_is_not_the_name_of_the_series() -> None:
    watch = watched([instance(0), instance(1, 2), instance(2)])

    assert watch.header().get("PatientName") == DIFFERS


def test_what_is_no_image_is_kept_apart_and_says_who_it_is() -> None:
    watch = watched([instance(0, is_input=False), instance(1, is_input=False)])

    assert (len(watch.inputs), len(watch.others)) == (0, 2)
    assert watch.header().text("PatientID") == "PHANTOM-1"


def test_an_image_beside_other_objects_is_what_counts() -> None:
    watch = watched([instance(0, is_input=False), *(instance(n) for n in range(1, 6))])

    assert len(watch.inputs) == 5
    assert watch.header().get("slices") == (5,)
    assert watch.newest == instance(5)


def test_a_count_in_the_headers_is_believed_only_where_they_agree() -> None:
    def counted(one: Instance) -> Dataset:
        header = dcmread(BytesIO(ct(slices=6, ImagesInAcquisition=9).files()[int(one.file_name)]))
        if one.version == 2:
            del header.AcquisitionNumber
        return header

    first = SeriesWatch("1.2.3", "1.2", counted)
    first.take_all([instance(0), instance(1)])
    doubtful = SeriesWatch("1.2.3", "1.2", counted)
    doubtful.take_all([instance(0), replace(instance(1), version=2)])

    assert first.expected() == 9
    assert doubtful.expected() is None
