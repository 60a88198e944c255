"""What comes back lies where it belongs: each voxel, read by two programs that are not ours (A4).

The truth is a formula in patient space. Voxels are taken where the returned object itself says they
are; nothing of the node's own geometry is used to compare.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from numpy.typing import NDArray

from tests.support.peers import Node, store
from tests.support.phantoms import PLANES, TRANSFER_SYNTAXES, Phantom, Region, region_at
from tests.support.waiting import wait_for

DCMQI = Path(sys.executable).with_name("segimage2itkimage")
THRESHOLD_HU = 170  # between soft tissue with its noise and the marker
BRIGHT = (Region.BONE, Region.MARKER)
LEFT_LUNG, RIGHT_LUNG = "7771000", "24028007"  # SNOMED CT: Left, Right
LEAST_DICE = 0.95

PHANTOMS: Mapping[str, Phantom] = {
    **{plane: Phantom(plane=plane, study=plane) for plane in PLANES},
    "oblique, odd rows and columns": Phantom(
        plane="oblique", shape=(40, 53, 67), spacing_mm=(6.1, 4.7, 4.9), study="odd"
    ),
    "reversed": Phantom(order="reversed", study="reversed"),
    "shuffled": Phantom(order="shuffled", study="shuffled"),
    "feet first prone": Phantom(position="FFP", study="FFP"),
    "feet first supine, coronal": Phantom(position="FFS", plane="coronal", study="FFS"),
    "decubitus left": Phantom(position="HFDL", study="HFDL"),
    "decubitus right, shuffled": Phantom(position="HFDR", order="shuffled", study="HFDR"),
    "enhanced": Phantom(enhanced=True, study="enhanced"),
    "enhanced, sagittal, shuffled": Phantom(
        plane="sagittal", order="shuffled", enhanced=True, study="enhanced sagittal"
    ),
    **{
        syntax.name: Phantom(transfer_syntax=syntax, study=syntax.name)
        for syntax in TRANSFER_SYNTAXES[1:]
    },
}


@dataclass(frozen=True)
class Placed:
    """Voxels of one segment, each with its place by the object's own affine."""

    inside: NDArray[np.bool_]
    points_mm: NDArray[np.float64]


@dataclass(frozen=True)
class Returned:
    """Where the node laid the results of all phantoms."""

    folder: Path

    def of(self, case: str, model: str) -> Path:
        return self.folder / PHANTOMS[case].uid("study") / f"{model}.dcm"


@pytest.fixture(scope="module")
def returned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Returned]:
    """One node that was sent every phantom."""
    folder = tmp_path_factory.mktemp("voxel-truth")
    shelf = folder / "shelf"
    shelf.mkdir()
    bright = {"method": "above", "threshold": THRESHOLD_HU}
    node = Node(
        folder / "node",
        config={
            "destinations": {
                "shelf": {
                    "kind": "folder",
                    "path": str(shelf),
                    "layout": "{StudyInstanceUID}/{model}.{ext}",
                }
            },
            "models_dirs": [str(Path(__file__).parent.parent / "support" / "models_probe")],
            "rules": [
                {
                    "name": "tissue",
                    "when": {"Modality": "CT"},
                    "run": "ct_tissue",
                    "send": ["shelf"],
                },
                {
                    "name": "bright",
                    "when": {"Modality": "CT"},
                    "run": "probe",
                    "parameters": bright,
                    "send": ["shelf"],
                },
            ],
        },
    )
    with node:
        for phantom in PHANTOMS.values():
            statuses = store(node.dicom_port, phantom.files())
            assert set(statuses) == {0x0000}
        wait_for(
            "two results for each phantom",
            lambda: node.api("/deliveries?state=sent&limit=1")["total"] == 2 * len(PHANTOMS),
            120,
        )
        yield Returned(shelf)


@pytest.fixture(params=PHANTOMS)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


def test_dcmqi_reads_the_truth_at_every_voxel(
    case: str, returned: Returned, tmp_path: Path
) -> None:
    (bright,) = _read_by_dcmqi(returned.of(case, "probe"), tmp_path)

    truth = np.isin(region_at(bright.points_mm), BRIGHT)

    assert np.array_equal(bright.inside, truth)
    assert np.count_nonzero(truth) == np.isin(PHANTOMS[case].regions, BRIGHT).sum()


def test_highdicom_reads_the_truth_at_every_voxel(case: str, returned: Returned) -> None:
    volume = hd.seg.segread(returned.of(case, "probe")).get_volume(combine_segments=True)
    index = np.stack(np.indices(volume.spatial_shape), axis=-1)

    truth = np.isin(region_at(_points(index, volume.affine)), BRIGHT)

    assert np.array_equal(volume.array != 0, truth)
    assert np.count_nonzero(truth) == np.isin(PHANTOMS[case].regions, BRIGHT).sum()


def test_the_left_lung_is_the_patients_left(case: str, returned: Returned, tmp_path: Path) -> None:
    path = returned.of(case, "ct_tissue")
    segments = hd.seg.segread(path).SegmentSequence
    sides = [
        item.SegmentedPropertyTypeCodeSequence[0]
        .get("SegmentedPropertyTypeModifierCodeSequence", [{}])[0]
        .get("CodeValue")
        for item in segments
    ]
    placed = list(_read_by_dcmqi(path, tmp_path))
    left, right = placed[sides.index(LEFT_LUNG)], placed[sides.index(RIGHT_LUNG)]

    # x grows to the patient's left
    assert left.points_mm[left.inside][:, 0].mean() > right.points_mm[right.inside][:, 0].mean()
    assert _dice(left, Region.LEFT_LUNG, PHANTOMS[case]) > LEAST_DICE
    assert _dice(right, Region.RIGHT_LUNG, PHANTOMS[case]) > LEAST_DICE


def _dice(placed: Placed, region: Region, phantom: Phantom) -> float:
    found = np.count_nonzero(placed.inside)
    right = np.count_nonzero(region_at(placed.points_mm[placed.inside]) == region)
    return 2 * right / (found + np.count_nonzero(phantom.regions == region))


def _read_by_dcmqi(path: Path, folder: Path) -> Iterator[Placed]:
    """The segments by number."""
    subprocess.run(
        [DCMQI, "--inputDICOM", path, "--outputDirectory", folder, "-p", "s", "-t", "nrrd"],
        check=True,
        capture_output=True,
    )
    for number in range(1, len(list(folder.glob("s-*.nrrd"))) + 1):
        image = sitk.ReadImage(folder / f"s-{number}.nrrd")
        affine = np.eye(4)
        directions = np.array(image.GetDirection()).reshape(3, 3)
        affine[:3, :3] = directions * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        inside = sitk.GetArrayFromImage(image).T != 0  # (column, row, slice), as the affine has it
        index = np.stack(np.indices(inside.shape), axis=-1)
        yield Placed(inside, _points(index, affine))


def _points(index: NDArray[np.int_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return index @ affine[:3, :3].T + affine[:3, 3]
