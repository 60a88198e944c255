"""The table of quantities: what a header says, and what it leaves open."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    XRayAngiographicImageStorage,
)

from node.domain.frames import frames_of
from node.domain.quantity import Quantity, given_as

PET = PositronEmissionTomographyImageStorage
RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def mapping(unit: str, slope: float = 1.0, intercept: float = -1024.0) -> list[Dataset]:
    code = item(CodeValue=unit, CodingSchemeDesignator="UCUM")
    return [
        item(
            RealWorldValueSlope=slope,
            RealWorldValueIntercept=intercept,
            MeasurementUnitsCodeSequence=[code],
        )
    ]


def quantity(sop_class: str, modality: str, **attributes: object) -> tuple[str, str]:
    instance = item(SOPClassUID=sop_class, Modality=modality, Rows=4, Columns=4, **attributes)
    (frame,) = frames_of(instance)
    return frame.values.quantity.value, frame.values.why


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({**RESCALED}, "HU"),
        ({**RESCALED, "RescaleType": "HU"}, "HU"),
        ({**RESCALED, "RescaleType": "US"}, "UNSPECIFIED"),
        ({**RESCALED, "RescaleType": "MGML"}, "MGML"),
        ({**RESCALED, "RescaleType": "Z_EFF"}, "Z_EFF"),
        ({**RESCALED, "RescaleType": "normalized"}, "UNSPECIFIED"),
        ({"RescaleSlope": 1}, "UNSPECIFIED"),
        ({}, "UNSPECIFIED"),
        ({**RESCALED, "MultienergyCTAcquisition": "YES"}, "UNSPECIFIED"),
        ({**RESCALED, "MultienergyCTAcquisition": "YES", "RescaleType": "HU"}, "HU"),
        (
            {**RESCALED, "ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]},
            "UNSPECIFIED",
        ),
        ({**RESCALED, "ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "HU"),
        ({**RESCALED, "ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "HU_MOD"),
        ({**RESCALED, "RealWorldValueMappingSequence": mapping("[hnsf'U]")}, "HU"),
        ({**RESCALED, "RealWorldValueMappingSequence": mapping("mg/ml")}, "MGML"),
        ({**RESCALED, "RealWorldValueMappingSequence": mapping("mg/ml", 0.01, 0)}, "HU"),
        (
            {**RESCALED, "RescaleType": "HU", "RealWorldValueMappingSequence": mapping("mg/ml")},
            "UNSPECIFIED",
        ),
        ({**RESCALED, "RealWorldValueMappingSequence": mapping("ml/100ml/s")}, "UNSPECIFIED"),
    ],
)
def test_a_ct_is_in_hounsfield_units_only_where_its_header_says_so(
    said: dict[str, object], expected: str
) -> None:
    assert quantity(CTImageStorage, "CT", **said)[0] == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]}, "MR_SIGNAL"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "MR_PHASE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "ADC"]}, "ADC"),
        ({"ImageType": ["DERIVED", "PRIMARY", "T1 MAP"]}, "MR_MAP"),
        ({"RescaleSlope": 2, "RescaleIntercept": 0, "RescaleType": "normalized"}, "MR_SIGNAL"),
        ({**RESCALED, "RescaleType": "HU"}, "UNSPECIFIED"),
        ({"RealWorldValueMappingSequence": mapping("1", 21.3, 0)}, "MR_SIGNAL"),
        ({"RealWorldValueMappingSequence": mapping("um2/s", 1, 0)}, "ADC"),
        ({"RealWorldValueMappingSequence": mapping("ms", 1, 0)}, "MR_MAP"),
        ({"ComplexImageComponent": "MAGNITUDE"}, "MR_SIGNAL"),
        ({"ComplexImageComponent": "PHASE"}, "MR_PHASE"),
    ],
)
def test_an_mr_is_arbitrary_signal_unless_it_is_said_to_be_a_map(
    said: dict[str, object], expected: str
) -> None:
    assert quantity(MRImageStorage, "MR", **said)[0] == expected


@pytest.mark.parametrize(
    ("units", "suv_type", "expected"),
    [
        ("BQML", None, "BQML"),
        ("CNTS", None, "CNTS"),
        ("GML", None, "SUVBW"),
        ("GML", "BW", "SUVBW"),
        ("GML", "LBM", "SUVLBM"),
        ("GML", "BSA", "UNSPECIFIED"),
        ("CM2ML", None, "SUVBSA"),
        ("XYZ", None, "UNSPECIFIED"),
        ("", None, "UNSPECIFIED"),
    ],
)
def test_units_and_suv_type_say_what_a_pet_measures(
    units: str, suv_type: str | None, expected: str
) -> None:
    said = {"Units": units, **({"SUVType": suv_type} if suv_type else {})}

    assert quantity(PET, "PT", **RESCALED, **said)[0] == expected


def test_a_modality_that_contradicts_the_class_leaves_the_quantity_open() -> None:
    assert quantity(CTImageStorage, "MR", **RESCALED)[0] == "UNSPECIFIED"


def test_other_classes_have_the_quantity_that_they_name_or_none() -> None:
    named = quantity(XRayAngiographicImageStorage, "XA", **RESCALED, RescaleType="OD")

    assert named[0] == "OD"
    assert quantity(XRayAngiographicImageStorage, "XA")[0] == "UNSPECIFIED"


def enhanced(sop_class: str, modality: str, *groups: Dataset) -> list[str]:
    instance = item(SOPClassUID=sop_class, Modality=modality, NumberOfFrames=len(groups))
    instance.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    instance.PerFrameFunctionalGroupsSequence = list(groups)
    return [frame.values.quantity.value for frame in frames_of(instance)]


def test_each_enhanced_frame_has_its_own_quantity() -> None:
    def group(kind: str) -> Dataset:
        return item(PixelValueTransformationSequence=[item(**RESCALED, RescaleType=kind)])

    assert enhanced(EnhancedCTImageStorage, "CT", group("HU"), group("US"), Dataset()) == [
        "HU", "UNSPECIFIED", "UNSPECIFIED",
    ]  # fmt: skip


def test_frame_type_and_mapping_of_an_enhanced_frame_count() -> None:
    phase = item(MRImageFrameTypeSequence=[item(ComplexImageComponent="PHASE")])
    adc = item(
        MRImageFrameTypeSequence=[item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])]
    )
    mapped = item(RealWorldValueMappingSequence=mapping("um2/s", 1, 0))
    activity = item(
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=0)],
        RealWorldValueMappingSequence=mapping("Bq/ml", 2, 0),
    )

    assert enhanced(EnhancedMRImageStorage, "MR", phase, adc, mapped, Dataset()) == [
        "MR_PHASE", "ADC", "ADC", "MR_SIGNAL",
    ]  # fmt: skip
    assert enhanced(EnhancedPETImageStorage, "PT", activity) == ["BQML"]


def test_free_text_of_a_header_is_not_quoted() -> None:
    _, why = quantity(CTImageStorage, "CT", **RESCALED, RescaleType="Doe^John, born 1970")

    assert "Doe" not in why
    assert why


def test_activity_is_given_as_suv_where_that_is_wanted_and_nothing_else_is_made_up() -> None:
    assert given_as(Quantity.BQML, (Quantity.SUVBW,)) is Quantity.SUVBW
    assert given_as(Quantity.BQML, (Quantity.SUVBW, Quantity.BQML)) is Quantity.BQML
    assert given_as(Quantity.UNSPECIFIED, ()) is Quantity.UNSPECIFIED
    assert given_as(Quantity.UNSPECIFIED, (Quantity.HU,)) is None
    assert given_as(Quantity.CNTS, (Quantity.SUVBW,)) is None


def test_equal_images_share_one_object() -> None:
    frames = [
        frames_of(item(SOPClassUID=CTImageStorage, Modality="CT", **RESCALED))[0] for _ in range(3)
    ]

    assert len({id(frame.values) for frame in frames}) == 1
