"""SUV by body weight: the factor by hand arithmetic, and a refusal for whatever is missing."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import SeriesUnusable
from node.domain.reasons import ReasonCode
from node.domain.uptake import suv_factor, uptake_of
from node.words import tell_all
from tests.support.cases import Cases

# half of the dose is left after one half life: 70 kg * 1000 / (200 MBq / 2)
FACTOR = 70_000 / 100e6


def image(**changes: object) -> Dataset:
    instance = Dataset()
    attributes: dict[str, object] = {
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "PatientWeight": 70,
        "SeriesDate": "20260102",
        "SeriesTime": "101000",
        "AcquisitionDate": "20260102",
        "AcquisitionTime": "101500.00",
        **changes,
    }
    isotope = Dataset()
    for keyword, value in {
        "RadionuclideTotalDose": 200e6,
        "RadionuclideHalfLife": 6600,
        "RadiopharmaceuticalStartTime": "082000",
    }.items():
        setattr(isotope, keyword, attributes.pop(keyword, value))
    if moment := attributes.pop("RadiopharmaceuticalStartDateTime", None):
        isotope.RadiopharmaceuticalStartDateTime = moment
    for keyword, value in attributes.items():
        if value is not None:
            setattr(instance, keyword, value)
    instance.RadiopharmaceuticalInformationSequence = [isotope]
    return instance


def factor(*images: Dataset) -> float:
    return suv_factor({uptake_of(each) for each in images})


def test_the_dose_decays_from_injection_to_the_start_of_the_series() -> None:
    assert factor(image()) == pytest.approx(FACTOR, rel=1e-12)


def test_a_dose_corrected_to_its_administration_does_not_decay() -> None:
    assert factor(image(DecayCorrection="ADMIN")) == pytest.approx(70_000 / 200e6)


def test_an_injection_before_midnight_is_of_the_day_before() -> None:
    late = image(
        SeriesTime="010000", AcquisitionTime="010500", RadiopharmaceuticalStartTime="231000"
    )

    assert factor(late) == pytest.approx(FACTOR, rel=1e-12)


def test_a_moment_with_a_date_goes_before_a_time_of_day() -> None:
    dated = image(
        RadiopharmaceuticalStartDateTime="20260102082000.00+0100",
        RadiopharmaceuticalStartTime="050000",
    )

    assert factor(dated) == pytest.approx(FACTOR, rel=1e-12)


def test_a_series_time_after_the_acquisition_is_not_believed() -> None:
    # made later by a workstation; the mean of the first bed's 120 s window lies 59.937 s into it
    frames = [
        image(
            SeriesTime="170000",
            AcquisitionTime=at,
            FrameReferenceTime=reference_ms,
            ActualFrameDuration=120_000,
        )
        for at, reference_ms in (("101000", 59_873.97), ("101500", 359_873.97))
    ]

    assert factor(*frames) == pytest.approx(FACTOR, rel=1e-4)


def test_series_time_after_the_acquisition_and_nothing_to_compute_back_from_is_refused() -> None:
    assert "Frame Reference Time" in refusal(image(SeriesTime="170000"))


def refusal(*images: Dataset) -> str:
    with pytest.raises(SeriesUnusable) as refused:
        factor(*images)
    assert [each.code for each in refused.value.reasons] == [ReasonCode.SUV_NOT_COMPUTABLE]
    return tell_all(refused.value.reasons)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"PatientWeight": None}, "Patient's Weight absent"),
        ({"PatientWeight": 0}, "Patient's Weight 0"),
        ({"PatientWeight": 70_000}, "Patient's Weight 70000"),
        ({"RadionuclideTotalDose": None}, "Radionuclide Total Dose absent"),
        ({"RadionuclideTotalDose": 200}, "Radionuclide Total Dose 200"),
        ({"RadionuclideHalfLife": 0}, "Radionuclide Half Life 0"),
        ({"RadiopharmaceuticalStartTime": ""}, "Radiopharmaceutical Start Time absent"),
        ({"AcquisitionTime": None}, "Acquisition Date or Time absent"),
        ({"CorrectedImage": ["DECY"]}, "Corrected Image lacks ATTN"),
        ({"CorrectedImage": ["ATTN"]}, "Corrected Image lacks DECY"),
        ({"DecayCorrection": "NONE"}, "Decay Correction"),
        ({"RadiopharmaceuticalStartDateTime": "20260102120000"}, "between injection and scan"),
        ({"RadiopharmaceuticalStartDateTime": "20251224120000"}, "between injection and scan"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], named: str) -> None:
    assert named in refusal(image(**changes))


def test_images_that_disagree_are_refused() -> None:
    assert "differ" in refusal(image(), image(PatientWeight=71))


def test_images_whose_dose_decayed_to_different_times_are_refused() -> None:
    assert "differ" in refusal(image(), image(DecayCorrection="ADMIN"))


def test_everything_missing_is_named_at_once() -> None:
    sentence = refusal(image(PatientWeight=None, CorrectedImage=["DTIM"]))

    assert all(name in sentence for name in ("Weight", "ATTN", "DECY"))


def test_the_real_activity_images_give_the_factor_of_their_header(shared_data: Cases) -> None:
    paths = sorted((shared_data / "pet_uneven_spacing_slope").rglob("*.dcm"))
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]

    found = suv_factor({uptake_of(header) for header in headers})

    # 71 kg, 388.777472 MBq at 10:35:00, half life 6588 s, scan at 11:20:11
    assert found == pytest.approx(71_000 / (3.88777472e8 * 2 ** (-2711 / 6588)), rel=1e-12)
