"""Derived attributes: said where the headers tell, unknown with a reason where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from node.assemble.gate import judge_geometry
from node.domain.derived import DERIVED, derive
from node.domain.derived.contrast import contrast_of
from node.domain.derived.planes import plane_name
from node.domain.derived.sequence import sequence_of
from node.domain.frames import Frame
from node.domain.header import DIFFERS, Header, Missing, Value
from node.domain.instance import Origin, Transport
from node.domain.quantity import Quantity
from node.domain.stored_values import StoredValues
from tests.assemble.stacks import frame, regular, stack_at

ORIGIN = Origin(
    transport=Transport.DIMSE,
    association_id="1",
    peer="PACS",
    calling_ae_title="MAINPACS",
    called_ae_title="SEGNODE",
)


def mr(**values: object) -> Header:
    made: dict[str, Value] = {"Modality": ("MR",)}
    for name, value in values.items():
        if isinstance(value, Missing | tuple):
            made[name] = value
        else:
            made[name] = (value,)  # type: ignore[assignment]
    return Header(made)


def told(value: Value) -> object:
    return None if isinstance(value, Missing) else value[0]


def derived(
    frames: list[Frame], header: Header | None = None, origin: Origin | None = ORIGIN
) -> dict[str, Value]:
    return derive(header or mr(), frames, judge_geometry(frames), origin)


def test_exactly_the_documented_names_are_derived() -> None:
    assert list(derived(regular(5))) == list(DERIVED)


def test_spacing_is_the_largest_of_the_three() -> None:
    thin = derived(regular(5, 0.5))
    thick = derived(regular(5, 3.27))

    assert thin["spacing_mm"] == (0.8,)
    assert thick["spacing_mm"] == (3.27,)


def test_an_image_without_a_stack_has_unknown_spacing_and_orientation() -> None:
    nowhere = derived(regular(5, position_mm=None))

    for name in ("spacing_mm", "orientation", "has_gaps"):
        assert isinstance(nowhere[name], Missing)
    assert nowhere["is_volume"] == (False,)
    assert nowhere["slices"] == (5,)


def test_a_gap_is_told_even_though_there_is_no_volume() -> None:
    gappy = derived(stack_at([0, 1, 2, 4]))

    assert (gappy["has_gaps"], gappy["is_volume"], gappy["spacing_mm"]) == (
        (True,),
        (False,),
        (1.0,),
    )


def test_rows_that_differ_are_unknown() -> None:
    frames = [*regular(3), *regular(1, rows=9)]

    assert isinstance(derived(frames)["rows"], Missing)
    assert derived(frames)["columns"] == (48,)


@pytest.mark.parametrize(
    ("normal", "name"),
    [
        ((0, 0, 1), "axial"),
        ((0, 0, -1), "axial"),
        ((0, 1, 0), "coronal"),
        ((-1, 0, 0), "sagittal"),
        ((0, np.sin(np.radians(36)), np.cos(np.radians(36))), "axial"),
        ((0, np.sin(np.radians(38)), np.cos(np.radians(38))), "oblique"),
        ((0.577, 0.577, 0.577), "oblique"),
    ],
)
def test_the_plane_is_named_by_its_normal(normal: tuple[float, float, float], name: str) -> None:
    assert plane_name(normal) == name


def test_image_type_tells_localizers_and_derived_images() -> None:
    scout = derived(regular(5), mr(ImageType=("ORIGINAL", "PRIMARY", "LOCALIZER")))
    plain = derived(regular(5), mr(ImageType=("DERIVED", "SECONDARY")))

    assert (scout["is_localizer"], scout["is_derived"]) == ((True,), (False,))
    assert (plain["is_localizer"], plain["is_derived"]) == ((False,), (True,))


@pytest.mark.parametrize("image_type", [Missing("absent"), DIFFERS, ()])
def test_without_an_image_type_both_are_unknown(image_type: Value) -> None:
    found = derived(regular(5), mr(ImageType=image_type))

    assert isinstance(found["is_localizer"], Missing)
    assert isinstance(found["is_derived"], Missing)


def test_few_images_in_several_orientations_are_a_localizer() -> None:
    turned = np.eye(3)[[1, 2, 0]]
    few = [*regular(5), *stack_at([0, 3, 6], turned)]
    many = [*regular(20), *stack_at([3.0 * k for k in range(11)], turned)]

    assert derived(few)["is_localizer"] == (True,)
    assert isinstance(derived(many)["is_localizer"], Missing)


def turning(count: int) -> list[Frame]:
    """Projections about the long axis of the patient, one in each orientation."""
    return [
        frame(
            k,
            (0.0, 0.0, 0.0),
            orientation=(float(np.cos(a)), float(np.sin(a)), 0.0, 0.0, 0.0, -1.0),
        )
        for k, a in enumerate(np.linspace(0.0, np.pi, count, endpoint=False))
    ]


@pytest.mark.parametrize("count", [2, 3, 12, 24])
def test_projections_that_turn_about_the_patient_are_no_localizer(count: int) -> None:
    named = mr(ImageType=("DERIVED", "SECONDARY", "PROJECTION IMAGE"))

    assert derived(turning(count), named)["is_localizer"] == (False,)
    if count > 3:
        unnamed = mr(ImageType=("DERIVED", "SECONDARY"))
        assert derived(turning(count), unnamed)["is_localizer"] == (False,)


def test_who_sent_it_is_told_where_the_road_tells() -> None:
    by_dimse = derived(regular(5))
    by_stow = derived(regular(5), origin=Origin(transport=Transport.STOW, association_id="1"))
    unrecorded = derived(regular(5), origin=None)

    names = ("transport", "peer", "calling_ae_title", "called_ae_title")
    assert [told(by_dimse[n]) for n in names] == ["dimse", "PACS", "MAINPACS", "SEGNODE"]
    assert [told(by_stow[n]) for n in names] == ["stow", None, None, None]
    assert [told(unrecorded[n]) for n in names] == [None] * 4


SPIN_ECHO = {"ScanningSequence": "SE"}
INVERSION = {"ScanningSequence": ("SE", "IR")}


@pytest.mark.parametrize(
    ("values", "sequence"),
    [
        ({}, None),
        ({"SeriesDescription": "AX T1 MPRAGE"}, "T1"),
        ({"SeriesDescription": "t2_tse_tra"}, "T2"),
        ({"SeriesDescription": "T2W_TSE"}, "T2"),
        ({"SeriesDescription": "AX T2 FLAIR"}, "FLAIR"),
        ({"SeriesDescription": "t2_tirm_dark-fluid"}, None),
        ({"SeriesDescription": "SAG T1 FLAIR"}, "T1"),
        ({"SeriesDescription": "COR STIR"}, "STIR"),
        ({"SeriesDescription": "AX T2* GRE"}, "T2*"),
        ({"SeriesDescription": "t2star"}, "T2*"),
        ({"SeriesDescription": "ep2d_diff_b1000"}, "DWI"),
        ({"SeriesDescription": "ep2d_diff_ADC"}, "ADC"),
        ({"ProtocolName": "SWI 3D"}, "SWI"),
        ({"SeriesDescription": "3D_TOF_neck"}, "TOF"),
        ({"SeriesDescription": "Ax 3DTOF COW"}, "TOF"),
        ({"SeriesDescription": "tof_fl3d_tra_p2"}, "TOF"),
        ({"SeriesDescription": "Time of Flight T1"}, None),
        ({"AcquisitionContrast": "TIME_OF_FLIGHT", "TimeOfFlightContrast": "YES"}, "TOF"),
        ({"SeriesDescription": "T1 map"}, None),
        ({"SeriesDescription": "T1 subtraction"}, None),
        ({"SeriesDescription": "PD/T2 TSE"}, None),
        ({"SeriesDescription": "PAT123 L1 to S1"}, None),
        ({"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        ({"AcquisitionContrast": "UNKNOWN"}, None),
        ({"ImageType": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "ADC"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "M", "ND")}, None),
        ({"DiffusionBValue": 1000.0}, "DWI"),
        ({"DiffusionBValue": 0.0}, None),
        ({**SPIN_ECHO, "EchoTime": 12.0, "RepetitionTime": 500.0}, "T1"),
        ({**SPIN_ECHO, "EchoTime": 100.0, "RepetitionTime": 4000.0}, "T2"),
        ({**SPIN_ECHO, "EchoTime": 20.0, "RepetitionTime": 3000.0}, "PD"),
        ({**SPIN_ECHO, "EchoTime": 50.0, "RepetitionTime": 3000.0}, None),
        ({**SPIN_ECHO, "EchoTime": 100.0, "RepetitionTime": 500.0}, None),
        ({**SPIN_ECHO, "EchoTime": DIFFERS, "RepetitionTime": 500.0}, None),
        ({**SPIN_ECHO, "EchoTime": 0.0, "RepetitionTime": 500.0}, None),
        (
            {**INVERSION, "EchoTime": 120.0, "RepetitionTime": 9000.0, "InversionTime": 2500.0},
            "FLAIR",
        ),
        (
            {**INVERSION, "EchoTime": 30.0, "RepetitionTime": 4000.0, "InversionTime": 160.0},
            "STIR",
        ),
        ({"ScanningSequence": "EP", "EchoTime": 80.0, "RepetitionTime": 4000.0}, None),
        (
            {
                "ScanningSequence": "GR",
                "SequenceVariant": "SP",
                "EchoTime": 3.0,
                "RepetitionTime": 200.0,
                "FlipAngle": 70.0,
            },
            "T1",
        ),
    ],
)
def test_the_sequence_is_told_by_names_and_times(
    values: dict[str, object], sequence: str | None
) -> None:
    assert told(sequence_of(mr(**values))) == sequence


SPOILED = {
    "ScanningSequence": "GR",
    "SequenceVariant": "SP",
    "EchoTime": 3.0,
    "RepetitionTime": 25.0,
    "FlipAngle": 20.0,
}


@pytest.mark.parametrize(
    "sign",
    [
        {"AngioFlag": "Y"},
        {"AngioFlag": "Y", "SeriesDescription": "T1 FL3D"},
        {"AngioFlag": "Y", "AcquisitionContrast": "T1"},
        {"ImageType": ("DERIVED", "SECONDARY", "PROJECTION IMAGE")},
        {"ImageType": ("DERIVED", "SECONDARY", "PROJECTION IMAGE"), "SeriesDescription": "TOF MIP"},
        {"ImageType": ("DERIVED", "PRIMARY", "ANGIO", "MAXIMUM")},
        {"ImageType": ("DERIVED", "PRIMARY", "MIP")},
        {"PhaseContrast": "YES"},
        {"SeriesDescription": "CE-MRA T1 fl3d"},
        {"SeriesDescription": "MRV t1"},
        {"SeriesDescription": "fl3d_ce_angio_cor"},
        {"SeriesDescription": "Angio-RM TSA"},
        {"SeriesDescription": "ANGIORESONANCIA T1"},
        {"SeriesDescription": "Angiorressonância arterial"},
        {"SeriesDescription": "MR-Angiographie Hals"},
        {"SeriesDescription": "Gefäßdarstellung T1"},
        {"SeriesDescription": "MR Venogram 3D PC"},
        {"SeriesDescription": "TRICKS T1"},
        {"ProtocolName": "TWIST T1 dyn"},
        {"ProtocolName": "3D PCA"},
    ],
    ids=str,
)
def test_an_angiogram_is_never_said_to_be_t1(sign: dict[str, object]) -> None:
    value = sequence_of(mr(**{**SPOILED, **sign}))

    assert isinstance(value, Missing)
    assert sequence_of(mr(**SPOILED)) == ("T1",)


@pytest.mark.parametrize(
    "name",
    ["T1 brain venous sinus thrombosis", "AX T1 post", "T1 arm", "T1 cowden", "T1 panoramic"],
)
def test_a_t1_of_tissue_stays_one(name: str) -> None:
    assert sequence_of(mr(SeriesDescription=name, **SPOILED)) == ("T1",)


def test_names_and_times_that_contradict_each_other_are_unknown() -> None:
    header = mr(SeriesDescription="AX T1", **SPIN_ECHO, EchoTime=100.0, RepetitionTime=4000.0)

    value = sequence_of(header)

    assert isinstance(value, Missing)
    assert value.reason == "names say T1, echo and repetition time say T2"


def test_a_flair_named_so_with_the_times_of_t2_is_a_flair() -> None:
    header = mr(SeriesDescription="FLAIR", **SPIN_ECHO, EchoTime=100.0, RepetitionTime=9000.0)

    assert sequence_of(header) == ("FLAIR",)


def test_only_mr_has_a_sequence() -> None:
    value = sequence_of(Header({"Modality": ("CT",), "SeriesDescription": ("T1 vertebra",)}))

    assert value == Missing("not an MR series")


@pytest.mark.parametrize(
    ("values", "contrast"),
    [
        ({}, None),
        ({"ContrastBolusAgent": ()}, None),
        ({"ContrastBolusAgent": DIFFERS}, None),
        ({"ContrastBolusAgent": "OMNIPAQUE 350"}, True),
        ({"ContrastBolusAgent": "NONE"}, False),
        ({"ContrastBolusAgent": "no"}, False),
        ({"ContrastBolusVolume": 80.0}, True),
        ({"ContrastBolusVolume": 0.0}, None),
        ({"SeriesDescription": "T1 post contrast"}, True),
        ({"SeriesDescription": "T1 mprage +C"}, True),
        ({"SeriesDescription": "T1 +Gd"}, True),
        ({"SeriesDescription": "T1 w/o contrast"}, False),
        ({"SeriesDescription": "Thorax native"}, False),
        ({"SeriesDescription": "pre contrast T1"}, False),
        ({"SeriesDescription": "non-contrast head"}, False),
        ({"SeriesDescription": "with and without contrast"}, None),
        ({"SeriesDescription": "T1 sag"}, None),
        ({"SeriesDescription": "pre contrast", "ContrastBolusAgent": "DOTAREM"}, None),
        ({"SeriesDescription": "post contrast", "ContrastBolusAgent": "DOTAREM"}, True),
    ],
)
def test_contrast_is_told_by_the_agent_and_by_names(
    values: dict[str, object], contrast: bool | None
) -> None:
    assert told(contrast_of(mr(**values))) is contrast


# --- quantity


def measuring(quantity: Quantity, why: str = "") -> StoredValues:
    return StoredValues(quantity=quantity, why=why)


def test_a_quantity_that_all_images_share_is_told() -> None:
    assert derived(regular(5, values=measuring(Quantity.HU)))["quantity"] == ("HU",)


def test_a_quantity_that_is_not_established_is_unknown_with_its_reason() -> None:
    series = regular(5, values=measuring(Quantity.UNSPECIFIED, "Rescale Type US"))

    assert derived(series)["quantity"] == Missing("not established: Rescale Type US")


def test_quantities_that_differ_are_unknown() -> None:
    series = [
        *regular(3, values=measuring(Quantity.HU)),
        *stack_at([7.5, 10.0], values=measuring(Quantity.MGML)),
    ]

    assert derived(series)["quantity"] == Missing("different between images")
