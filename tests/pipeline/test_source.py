"""A series is read once per job, and its readers cannot change what another one reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom.filereader
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.domain.errors import SeriesUnusable
from node.domain.reasons import ReasonCode
from node.domain.result import Provenance
from node.infer.kept import Kept
from node.infer.registry import load_model
from node.infer.report import Stopwatch
from node.pipeline import execute_job
from node.pipeline.job_order import InputFiles, JobOrder
from node.pipeline.source import read_source
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files

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


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_job_parses_each_file_of_its_series_once(
    syntax: str, tmp_path: Path, parsed: list[str]
) -> None:
    order = order_of(replace(PHANTOM, transfer_syntax=syntax), tmp_path)
    parsed.clear()

    made = execute_job.run(order.to_json(), Stopwatch(), Kept())

    files = [str(path) for path in order.inputs[0].files.values()]
    assert made["files"]
    assert sorted(name for name in parsed if name in files) == sorted(files)


def test_compressed_pixels_cost_one_more_reading(tmp_path: Path, parsed: list[str]) -> None:
    order = order_of(replace(PHANTOM, transfer_syntax=RLELossless), tmp_path)
    parsed.clear()

    execute_job.run(order.to_json(), Stopwatch(), Kept())

    files = [str(path) for path in order.inputs[0].files.values()]
    assert sorted(name for name in parsed if name in files) == sorted(files * 2)


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
        inputs=(
            InputFiles(
                role="image",
                series_instance_uid=phantom.uid("series"),
                files=given_files(phantom, series).files,
            ),
        ),
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
