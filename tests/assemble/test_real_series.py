"""Every image series of the real cases: what the gate and the derived attributes say of it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from node.assemble.gate import MinimumSize, judge_geometry
from node.domain.derived import derive
from node.domain.frames import Frame, frames_of
from node.domain.grid import GateVerdict
from node.domain.header import HeaderMerger, Missing
from node.domain.phase_hints import phase_hints_of
from node.words import tell
from tests.support.cases import Cases

# real headers break length limits (Study ID); the node reads them all the same
pytestmark = pytest.mark.filterwarnings("ignore:The value length:UserWarning:pydicom")

MINIMUM = MinimumSize(slices=3, rows=20, columns=20)
INPUTS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "converted CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}

# case -> class -> its own findings beside "no Frame of Reference"; [] is one volume
NO_FRAME_OF_REFERENCE = {
    "ct_gantry_tilt",
    "ct_missing_slice",
    "ct_not_a_volume",
    "mr_enhanced_hyperfine",
    "mr_hitachi_implicit",
    "mr_mixed_orientations",
    "mr_single_slice_series",
}
OWN_FINDINGS: dict[str, dict[str, list[str]]] = {
    "ct_abdomen_crlm-ct-1004": {"CT": []},
    "mr_brain_t1_sag_hfs": {"MR": []},
    "mr_brain_t1_sag_hfdl": {"MR": []},
    "study_ct_mr_pet_sts_001": {"CT": [], "MR": [], "PT": []},
    "pet_uneven_spacing_slope": {"PT": []},
    "mr_mosaic_dwi_hfs": {"MR": ["two images at one position"]},
    "mr_multiphase_same_positions_ucsf_06": {
        "MR": [
            "18 images, 3 images at each of 6 positions: "
            "could be split into 3 phases by ContentTime"
        ]
    },
    "mr_abdomen_adc_cmb": {"MR": []},
    "mr_enhanced_philips_phantom": {"MR": [], "Enhanced MR": []},
    "ct_enhanced": {"Enhanced CT": ["2 slices, the model needs 3"]},
    "ct_legacy_converted_enhanced": {"CT": [], "converted CT": []},
    "mr_enhanced_hyperfine": {"Enhanced MR": []},
    "mr_hitachi_implicit": {"MR": []},
    "ct_gantry_tilt": {
        "CT": [
            "shear 14 degrees: slices drift sideways by 8.68 pixels over the stack (gantry tilt)"
        ]
    },
    "ct_missing_slice": {"CT": ["gap: 1 slice missing after slice 3 (steps 5/5/10 mm)"]},
    "ct_not_a_volume": {"CT": ["two images at one position"]},
    "mr_mixed_orientations": {"MR": ["two orientations in one series (2/2 images)"]},
    "mr_single_slice_series": {"MR": ["one slice: not a volume"]},
    "derived_ct_sts_001/plain": {"CT": []},
    "derived_ct_sts_001/shuffled_no_instance_order": {"CT": []},
    "derived_ct_sts_001/no_body_part_no_description": {"CT": []},
    "derived_ct_sts_001/flipped_x_ffp": {"CT": []},
    "derived_ct_sts_001/private_tags": {"CT": []},
    "derived_ct_sts_001/names_utf8": {"CT": []},
    "derived_ct_sts_001/names_empty": {"CT": []},
    "derived_ct_sts_001/coronal_reslice": {"CT": []},
    "derived_ct_sts_001/sagittal_reslice": {"CT": []},
    "derived_ct_sts_001/ts_big_endian": {"CT": []},
    "derived_ct_sts_001/ts_deflated": {"CT": []},
    "derived_ct_sts_001/ts_rle": {"CT": []},
    "derived_ct_sts_001/exact_duplicates": {"CT": []},
    "derived_ct_sts_001/same_position_other_uid": {
        "CT": ["two images at one position: at slice 5 of 10"]
    },
    "derived_ct_sts_001/uneven_spacing": {
        "CT": [
            "uneven spacing after slice 5: up to 52.0% off "
            "(steps 3.27/3.27/3.27/3.27/4.97/3.27/3.27/3.27/3.27 mm)"
        ]
    },
    "derived_ct_sts_001/missing_slice": {
        "CT": [
            "gap: 1 slice missing after slice 6 (steps 3.27/3.27/3.27/3.27/3.27/6.54/3.27/3.27 mm)"
        ]
    },
}


def series_of(folder: Path) -> dict[str, list[Dataset]]:
    """Input instances by class, each SOP instance once."""
    found: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                instance = dcmread(path, stop_before_pixels=True)
            except InvalidDicomError:
                continue
        name = INPUTS.get(str(instance.get("SOPClassUID")))
        if name:
            found[name][str(instance.SOPInstanceUID)] = instance
    return {name: list(instances.values()) for name, instances in found.items()}


def sentences(verdict: GateVerdict) -> list[str]:
    return [tell(finding) for finding in verdict.findings]


def frames_and_hints(instances: list[Dataset]):
    return (
        [frame for instance in instances for frame in frames_of(instance)],
        [hints for instance in instances for hints in phase_hints_of(instance)],
    )


@pytest.mark.parametrize("case", OWN_FINDINGS)
def test_each_case_has_the_findings_that_are_expected(shared_data: Cases, case: str) -> None:
    series = series_of(shared_data / case)
    first = ["no Frame of Reference"] if case in NO_FRAME_OF_REFERENCE else []

    found = {}
    for name, instances in series.items():
        frames, hints = frames_and_hints(instances)
        found[name] = sentences(judge_geometry(frames, MINIMUM, phase_hints=hints))

    assert found == {name: [*first, *own] for name, own in OWN_FINDINGS[case].items()}


@pytest.mark.parametrize("case", sorted(NO_FRAME_OF_REFERENCE & OWN_FINDINGS.keys()))
def test_copies_with_a_frame_of_reference_park_for_their_own_finding_alone(
    shared_data: Cases, case: str
) -> None:
    for name, instances in series_of(shared_data / case).items():
        for instance in instances:
            instance.FrameOfReferenceUID = "1.2.3.4"
        frames, hints = frames_and_hints(instances)

        verdict = judge_geometry(frames, MINIMUM, phase_hints=hints)

        assert sentences(verdict) == OWN_FINDINGS[case][name]


def test_mixed_transfer_syntaxes_lack_only_a_frame_of_reference(shared_data: Cases) -> None:
    for folder in sorted(p for p in (shared_data / "mr_mixed_transfer_syntaxes").iterdir()):
        if not folder.is_dir():
            continue
        frames, _ = frames_and_hints(series_of(folder)["MR"])

        assert sentences(judge_geometry(frames, MINIMUM)) == ["no Frame of Reference"]


def test_tiny_series_are_below_the_minimum_and_one_has_a_gap(shared_data: Cases) -> None:
    by_series: dict[str, list[Frame]] = defaultdict(list)
    for instance in series_of(shared_data / "ct_tiny_series")["CT"]:
        by_series[str(instance.SeriesInstanceUID)] += frames_of(instance)

    found = sorted(sentences(judge_geometry(frames, MINIMUM)) for frames in by_series.values())

    small = "16 x 16 pixels, the model needs 20 x 20"
    gap = "gap: 161 slices missing after slice 1 (steps 202.5/1.25/1.25 mm)"
    assert found == [[small], [gap, small]]


def test_instances_without_positions_are_said_to_have_none(shared_data: Cases) -> None:
    (instance,) = series_of(shared_data / "mr_enhanced_small_transfer_syntaxes")["Enhanced MR"]
    frames, _ = frames_and_hints([instance])

    assert sentences(judge_geometry(frames, MINIMUM))[0].startswith("no positions at all: ")


def test_the_jitter_of_a_real_pet_is_noted(shared_data: Cases) -> None:
    frames, _ = frames_and_hints(series_of(shared_data / "pet_uneven_spacing_slope")["PT"])

    verdict = judge_geometry(frames, MINIMUM)

    assert [tell(note).split(":")[0] for note in verdict.notes] == ["spacing jitter 0.6%"]
    assert len({frame.slope for frame in frames}) == 80


def test_classic_and_converted_images_are_the_same_volume(shared_data: Cases) -> None:
    series = series_of(shared_data / "ct_legacy_converted_enhanced")
    classic, converted = (
        judge_geometry(frames_and_hints(series[name])[0], MINIMUM).stack
        for name in ("CT", "converted CT")
    )

    assert classic is not None
    assert converted is not None
    assert converted.grid == replace(
        classic.grid, frame_of_reference_uid=converted.grid.frame_of_reference_uid
    )


# case -> what the headers tell; None is unknown
ATTRIBUTES = {
    "ct_abdomen_crlm-ct-1004": {
        "slices": 36,
        "rows": 512,
        "spacing_mm": 5.0,
        "orientation": "axial",
        "is_localizer": False,
        "is_derived": False,
        "is_volume": True,
        "has_gaps": False,
        "sequence": None,
        "contrast": True,
    },
    "mr_brain_t1_sag_hfs": {
        "slices": 35,
        "orientation": "sagittal",
        "sequence": "T1",
        "contrast": None,
    },
    "mr_brain_t1_sag_hfdl": {"orientation": "sagittal", "sequence": "T1"},
    "mr_abdomen_adc_cmb": {"sequence": "ADC", "is_derived": True, "spacing_mm": 7.0},
    "mr_mosaic_dwi_hfs": {"sequence": "DWI", "is_volume": False, "spacing_mm": None},
    "mr_hitachi_implicit": {"sequence": "PD", "is_volume": False},
    "mr_enhanced_hyperfine": {"sequence": "FLAIR", "spacing_mm": 5.0, "is_volume": False},
    "mr_multiphase_same_positions_ucsf_06": {
        "slices": 18,
        "sequence": None,
        "contrast": False,
        "has_gaps": False,
        "orientation": "sagittal",
    },
    "ct_missing_slice": {"has_gaps": True, "is_volume": False},
    "ct_not_a_volume": {"has_gaps": None, "spacing_mm": None},
    "mr_mixed_orientations": {"is_localizer": True, "orientation": None, "sequence": None},
    "derived_ct_sts_001/localizer_two_slices": {"is_localizer": True},
    "derived_ct_sts_001/coronal_reslice": {
        "orientation": "coronal",
        "is_derived": True,
        "spacing_mm": 3.27,
    },
    "derived_ct_sts_001/sagittal_reslice": {"orientation": "sagittal"},
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_derived_attributes_tell_what_the_headers_tell(shared_data: Cases, case: str) -> None:
    (instances,) = series_of(shared_data / case).values()
    merger = HeaderMerger()
    for instance in instances:
        merger.add(instance)
    frames, _ = frames_and_hints(instances)

    found = derive(merger.header(), frames, judge_geometry(frames, MINIMUM), None)

    told = {n: None if isinstance(v, Missing) else v[0] for n, v in found.items()}
    assert {name: told[name] for name in ATTRIBUTES[case]} == ATTRIBUTES[case]
