"""A model that takes SUV gets it from activity, with the slope of each slice, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from node.assemble.gate import judge_geometry
from node.domain.errors import JobFailed
from node.domain.frames import frames_of
from node.domain.quantity import Quantity
from node.domain.reasons import ReasonCode
from node.infer.volume import read_volume
from node.words import tell
from tests.support.phantoms import Phantom, encoded_as, stack_of

SUV = (Quantity.SUVBW,)
# 80 kg, 400 MBq, two half lives between injection and scan
FACTOR = 80_000 / 100e6
PHANTOM = Phantom(shape=(6, 8, 9))


def pet(**changes: object) -> list[Dataset]:
    instances = PHANTOM.datasets()
    for number, instance in enumerate(instances):
        instance.SOPClassUID = PositronEmissionTomographyImageStorage
        instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID
        instance.Modality, instance.Units = "PT", "BQML"
        del instance.RescaleType
        instance.RescaleIntercept, instance.RescaleSlope = 0, str(1 + number / 8)
        instance.CorrectedImage, instance.DecayCorrection = ["ATTN", "DECY"], "START"
        instance.PatientWeight = 80
        instance.SeriesDate = instance.AcquisitionDate = "20260102"
        instance.SeriesTime, instance.AcquisitionTime = "120000", f"12{number:02}00"
        isotope = Dataset()
        isotope.RadionuclideTotalDose, isotope.RadionuclideHalfLife = 400e6, 3600
        isotope.RadiopharmaceuticalStartTime = "100000"
        instance.RadiopharmaceuticalInformationSequence = [isotope]
        for keyword, value in changes.items():
            setattr(instance, keyword, value)
    return instances


def written(instances: list[Dataset], folder: Path) -> dict[str, Path]:
    files = {}
    for number, instance in enumerate(instances):
        path = folder / f"{number}.dcm"
        path.write_bytes(encoded_as(instance, "1.2.840.10008.1.2.1"))
        files[str(instance.SOPInstanceUID)] = path
    return files


def test_activity_becomes_suv_slice_by_slice(tmp_path: Path) -> None:
    files = written(pet(), tmp_path)
    headers = [dcmread(path, stop_before_pixels=True) for path in files.values()]
    verdict = judge_geometry([f for h in headers for f in frames_of(h)], quantities=SUV)
    assert verdict.stack is not None, verdict.findings

    volume = read_volume(verdict.stack, files, SUV)
    activity = read_volume(verdict.stack, files, (Quantity.BQML,))

    assert (volume.quantity, activity.quantity) == (Quantity.SUVBW, Quantity.BQML)
    for index, frame in enumerate(verdict.stack.frames):
        instance = dcmread(files[frame.sop_instance_uid])
        theirs = instance.pixel_array.astype(np.float64) * float(instance.RescaleSlope)
        assert np.allclose(activity.array[index], theirs, rtol=1e-7)
        assert np.allclose(volume.array[index], theirs * FACTOR, rtol=1e-6)


def test_grams_per_millilitre_by_body_weight_are_suv_already(tmp_path: Path) -> None:
    files = written(pet(Units="GML", SUVType="BW", PatientWeight=""), tmp_path)
    stack = stack_of([dcmread(path, stop_before_pixels=True) for path in files.values()])

    as_suv, as_it_is = read_volume(stack, files, SUV), read_volume(stack, files)

    assert as_suv.quantity is Quantity.SUVBW
    assert np.array_equal(as_suv.array, as_it_is.array)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (
            {"PatientWeight": ""},
            ReasonCode.SUV_NOT_COMPUTABLE,
            "the model takes SUVBW, the series is BQML, and SUV cannot be computed: "
            "Patient's Weight absent or malformed",
        ),
        (
            {"CorrectedImage": ["DECY"]},
            ReasonCode.SUV_NOT_COMPUTABLE,
            "Corrected Image lacks ATTN",
        ),
        ({"Units": "CNTS"}, ReasonCode.QUANTITY_NOT_TAKEN, "takes SUVBW, the series is CNTS"),
        (
            {"Units": "GML", "SUVType": "LBM"},
            ReasonCode.QUANTITY_NOT_TAKEN,
            "takes SUVBW, the series is SUVLBM",
        ),
    ],
)
def test_what_is_missing_for_suv_is_named_by_the_gate_and_refused_by_the_reader(
    changes: dict[str, object], code: ReasonCode, words: str, tmp_path: Path
) -> None:
    files = written(pet(**changes), tmp_path)
    headers = [dcmread(path, stop_before_pixels=True) for path in files.values()]

    (finding,) = judge_geometry([f for h in headers for f in frames_of(h)], quantities=SUV).findings

    assert finding.code is code
    assert words in tell(finding)
    if code is ReasonCode.QUANTITY_NOT_TAKEN:
        with pytest.raises(JobFailed, match="not what the model takes"):
            read_volume(stack_of(headers), files, SUV)
