"""One series: while it arrives no order or repetition matters, and a job reads it once.

Its readers cannot change what another one reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pydicom.filereader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from node.domain.errors import SeriesUnusable
from node.domain.header import DIFFERS, TOO_LONG
from node.domain.instance import Instance, Origin, Transport
from node.domain.reasons import ReasonCode
from node.domain.result import Provenance
from node.infer.assets import Kept
from node.infer.registry import load_model
from node.infer.report import Stopwatch
from node.pipeline import execute_job
from node.pipeline.execute_job import JobOrder
from node.pipeline.series import SeriesWatch, read_source, stored_header
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files
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
        watch.now()
    return watch


@settings(max_examples=25)
@given(order=st.permutations([(n, v) for n in range(6) for v in (1, 2)]))
def test_neither_order_nor_repetition_of_copies_changes_what_is_known(
    order: list[tuple[int, int]],
) -> None:
    watch = watched([instance(number, version) for number, version in order])

    assert {one.version for one in watch.now().instances} == {2}
    assert watch.now().header.text("PatientName") == "New^Name"
    assert watch.now().header.get("slices") == (6,)
    assert watch.now().header.get("is_volume") == (True,)
    assert watch.newest_row == 12


def test_a_name_that_only_some_have_is_not_the_name_of_the_series() -> None:
    watch = watched([instance(0), instance(1, 2), instance(2)])

    assert watch.now().header.get("PatientName") == DIFFERS


def test_what_is_no_image_is_kept_apart_and_says_who_it_is() -> None:
    watch = watched([instance(0, is_input=False), instance(1, is_input=False)])

    assert (len(watch.now().instances), len(watch.now().others)) == (0, 2)
    assert watch.now().header.text("PatientID") == "PHANTOM-1"


def test_an_image_beside_other_objects_is_what_counts() -> None:
    watch = watched([instance(0, is_input=False), *(instance(n) for n in range(1, 6))])

    assert len(watch.now().instances) == 5
    assert watch.now().header.get("slices") == (5,)
    assert watch.now().instances[-1] == instance(5)


def test_a_count_in_the_headers_is_believed_only_where_they_agree() -> None:
    def counted(one: Instance) -> Dataset:
        header = dcmread(BytesIO(ct(slices=6, ImagesInAcquisition=9).files()[int(one.file_name)]))
        if one.version == 2:
            del header.AcquisitionNumber
        return header

    first = SeriesWatch("1.2.3", "1.2", counted)
    first.take_rows(enumerate([instance(0), instance(1)]))
    doubtful = SeriesWatch("1.2.3", "1.2", counted)
    doubtful.take_rows(enumerate([instance(0), replace(instance(1), version=2)]))

    assert first.now().expected == 9
    assert doubtful.now().expected is None


PHANTOM = Phantom(shape=(6, 24, 28), spacing_mm=(30.0, 10.0, 11.0))
WANTED = load_model(MODELS_PROBE / "probe").inputs["image"]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file or stream that pydicom takes apart, in order."""
    names: list[str] = []
    read_partial = pydicom.filereader.read_partial

    def counted(fileobj, *args, **kwargs):
        names.append(str(getattr(fileobj, "name", "")))
        return read_partial(fileobj, *args, **kwargs)

    monkeypatch.setattr(pydicom.filereader, "read_partial", counted)
    return names


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, ExplicitVRBigEndian]
)
def test_a_job_parses_each_file_of_its_series_once(
    syntax: str, tmp_path: Path, parsed: list[str]
) -> None:
    order = order_of(replace(PHANTOM, transfer_syntax=syntax), tmp_path)
    parsed.clear()

    made = execute_job.run(order.to_json(), Stopwatch(), Kept())

    files = [str(path) for path in order.inputs["image"].values()]
    assert made["files"]
    assert sorted(name for name in parsed if name in files) == sorted(files)


def test_elements_that_were_looked_at_are_raw_for_each_reader(tmp_path: Path) -> None:
    source = read_source(given_files(PHANTOM, tmp_path).files, WANTED)

    for header in source.headers():
        assert isinstance(header.get_item("ImagePositionPatient"), RawDataElement)
        assert isinstance(header.get_item("PatientName"), RawDataElement)


def test_what_an_encoder_does_to_its_headers_no_verifier_sees(tmp_path: Path) -> None:
    source = read_source(given_files(PHANTOM, tmp_path).files, WANTED)

    for header in source.headers():
        header.PatientName = "Somebody^Else"
        header.file_meta.TransferSyntaxUID = RLELossless
        del header.StudyInstanceUID

    for header in source.headers():
        assert header.PatientName != "Somebody^Else"
        assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert header.StudyInstanceUID == PHANTOM.uid("study")


def test_a_series_below_what_the_model_takes_is_refused(tmp_path: Path) -> None:
    small = replace(PHANTOM, shape=(2, 24, 28))

    with pytest.raises(SeriesUnusable) as refused:
        read_source(given_files(small, tmp_path).files, WANTED)

    assert [reason.code for reason in refused.value.reasons] == [ReasonCode.TOO_SMALL]


def order_of(phantom: Phantom, folder: Path) -> JobOrder:
    """A job of the test model over a phantom."""
    series = folder / "series"
    series.mkdir()
    model = load_model(MODELS_PROBE / "probe")
    return JobOrder(
        job_key="key",
        model_folder=model.folder,
        model_digest=model.digest,
        parameters={},
        inputs={"image": given_files(phantom, series).files},
        folder=folder / "result",
        weights_dir=folder,
        forms=("seg", "nifti"),
        provenance=Provenance(
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
            node_version="0",
            config_digest="c",
            series_number=1001,
            content_date="20260101",
            content_time="000000",
        ),
    )


def test_a_watch_leaves_long_values_in_their_files(tmp_path: Path) -> None:
    """A row of every series is read whenever it is judged or shown."""
    for number in range(3):
        header = dcmread(BytesIO(ct(slices=6).files()[number]))
        header.TextValue, header.PatientComments = "x" * 200_000, "y"
        header.save_as(tmp_path / f"{number}")
    watch = SeriesWatch("1.2", "1.3", partial(stored_header, tmp_path))
    watch.take_rows((number + 1, instance(number)) for number in range(3))

    header = watch.now().header

    assert header.get("TextValue") == TOO_LONG
    assert header.known("PatientComments") == ("y",)
    assert len(watch.now().frames) == 3
    assert len(json.dumps(header.to_json())) < 20_000
