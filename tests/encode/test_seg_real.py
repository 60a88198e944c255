"""SEGs of phantoms and of real series under Debian's validators, and read back by dcmqi.

``dciodvfy`` may complain only of what the copied patient and study attributes have in the source
already: in the real cases that is a Study ID beyond 16 characters, and nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from pydicom import dcmread

from tests.support.cases import Cases
from tests.support.phantoms import PLANES, Phantom, stack_of
from tests.support.segmentations import IDENTITY, Segmentation, gated, of_phantom, of_series

DCMQI = Path(sys.executable).with_name("segimage2itkimage")
COPIED_FAULT = re.compile(
    r"Error - </StudyID\(0020,0010\)\[1\]> - Value invalid for this VR \[SH\] = <IBSI_1_STS_001_\w+>"
    r" - Length invalid for this VR = <\d\d> - expected <= 16"
)

STS = "derived_ct_sts_001"
SOUND = [
    "ct_abdomen_crlm-ct-1004",
    "mr_brain_t1_sag_hfs",
    "mr_brain_t1_sag_hfdl",
    "mr_enhanced_philips_phantom/classic",
    "mr_enhanced_philips_phantom/enhanced",
    "pet_uneven_spacing_slope",
    "ct_legacy_converted_enhanced/image",
    "ct_legacy_converted_enhanced/multiframe",
    f"{STS}/names_empty",
]
STUDY_ID_TOO_LONG = [
    "study_ct_mr_pet_sts_001/ct",
    "study_ct_mr_pet_sts_001/mr_t1",
    "study_ct_mr_pet_sts_001/pet",
    f"{STS}/plain",
    f"{STS}/exact_duplicates",
    f"{STS}/shuffled_no_instance_order",
    f"{STS}/no_body_part_no_description",
    f"{STS}/flipped_x_ffp",
    f"{STS}/private_tags",
    f"{STS}/coronal_reslice",
    f"{STS}/sagittal_reslice",
    f"{STS}/names_utf8",
    f"{STS}/names_iso2022jp",
    f"{STS}/names_gb18030",
    f"{STS}/ts_rle",
    f"{STS}/ts_jpegls",
    f"{STS}/ts_j2k",
    f"{STS}/ts_deflated",
    f"{STS}/ts_big_endian",
    f"{STS}/ts_jpeg_lossless_sv1",
]


def _validator_errors(path: Path) -> list[str]:
    done = subprocess.run(
        ["/usr/bin/dciodvfy", "-new", path], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in lines  # it knew what it looked at
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def _inconsistencies(seg: Path, sources: list[Path]) -> list[str]:
    """What dcentvfy says of the SEG among its source files."""
    done = subprocess.run(
        ["/usr/bin/dcentvfy", seg, *sources], capture_output=True, text=True, check=False
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]


def _source_paths(folder: Path) -> list[Path]:
    """One path per instance; what has no position or no Part 10 form is no input."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            header = dcmread(path, stop_before_pixels=True)
            if "Rows" in header and header.get("Modality") not in ("SEG", "RTSTRUCT"):
                paths.setdefault(str(header.SOPInstanceUID), path)
    assert paths, f"no image in {folder.name}"
    return list(paths.values())


def _written(case: Segmentation, path: Path) -> Path:
    data = case.encoded()
    case.verify(data)
    path.write_bytes(data)
    return path


@dataclass(frozen=True, kw_only=True)
class Real:
    """A real series, encoded and verified once for all tests of this file."""

    name: str
    paths: list[Path]
    case: Segmentation
    seg: Path


@pytest.fixture(scope="module", params=[*SOUND, *STUDY_ID_TOO_LONG])
def real(
    request: pytest.FixtureRequest, shared_data: Cases, tmp_path_factory: pytest.TempPathFactory
) -> Real:
    paths = _source_paths(shared_data / request.param)
    case = of_series([dcmread(path, stop_before_pixels=True) for path in paths])
    seg = _written(case, tmp_path_factory.mktemp("real") / "seg.dcm")
    return Real(name=request.param, paths=paths, case=case, seg=seg)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_a_phantoms_seg_is_valid_and_consistent(
    tmp_path: Path, plane: str, *, enhanced: bool
) -> None:
    phantom = Phantom(plane=plane, enhanced=enhanced)

    seg = _written(of_phantom(phantom), tmp_path / "seg.dcm")

    assert _validator_errors(seg) == []
    assert _inconsistencies(seg, phantom.write(tmp_path / "source")) == []


def test_a_revisions_seg_is_valid(tmp_path: Path) -> None:
    revised = of_phantom(Phantom()).revised(2, IDENTITY.uid("sop"))

    assert _validator_errors(_written(revised, tmp_path / "seg.dcm")) == []


def test_a_seg_of_a_source_without_patient_is_valid(tmp_path: Path) -> None:
    names = ("PatientName", "PatientID", "StudyID", "PatientBirthDate", "AccessionNumber")
    phantom = Phantom(attributes=tuple((name, None) for name in names))

    assert _validator_errors(_written(of_phantom(phantom), tmp_path / "seg.dcm")) == []


def test_dcentvfy_would_notice_another_patient(tmp_path: Path) -> None:
    phantom = Phantom()
    seg = dcmread(BytesIO(of_phantom(phantom).encoded()))
    seg.PatientBirthDate = "19800101"
    seg.save_as(tmp_path / "seg.dcm")

    assert _inconsistencies(tmp_path / "seg.dcm", phantom.write(tmp_path / "source"))


def test_a_real_seg_has_no_error_but_those_copied_from_its_source(real: Real) -> None:
    expected = 1 if real.name in STUDY_ID_TOO_LONG else 0

    errors = _validator_errors(real.seg)

    assert len(errors) == expected
    assert all(COPIED_FAULT.fullmatch(line) for line in errors)


def test_a_real_seg_is_consistent_with_its_source(real: Real) -> None:
    of_the_source_alone = _inconsistencies(real.paths[0], real.paths)

    assert set(_inconsistencies(real.seg, real.paths)) <= set(of_the_source_alone)


def test_dcmqi_finds_every_voxel_of_a_real_seg(real: Real, tmp_path: Path) -> None:
    case = real.case

    subprocess.run(
        [DCMQI, "--inputDICOM", real.seg, "--outputDirectory", tmp_path, "--outputType", "nrrd"],
        check=True,
        capture_output=True,
    )

    to_lattice = np.linalg.inv(case.volume.stack.grid.affine_lps)
    for number, label_value in case.encode().summary["segments"].items():
        image = sitk.ReadImage(tmp_path / f"{number}.nrrd")
        columns = np.argwhere(sitk.GetArrayFromImage(image).T)
        direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        points = columns @ direction.T + image.GetOrigin()
        places = points @ to_lattice[:3, :3].T + to_lattice[:3, 3]
        # slices of a real series lie up to 5 % off the grid
        assert np.abs(places - np.rint(places)).max() < 0.1
        placed = np.zeros(case.volume.labels.shape, np.bool_)
        placed[tuple(np.rint(places).astype(int).T)] = True
        assert np.array_equal(placed, case.volume.labels == label_value)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_the_gate_stacks_a_phantom_as_its_formula_does(plane: str, *, enhanced: bool) -> None:
    phantom = Phantom(plane=plane, order="shuffled", enhanced=enhanced)

    stack = gated(phantom.headers())

    assert stack.frames == stack_of(phantom.headers()).frames
    assert np.allclose(stack.grid.affine_lps, phantom.grid.affine_lps, atol=1e-4)
