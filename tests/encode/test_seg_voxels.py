"""A SEG read by programs that did not write it says the truth at every voxel of patient space."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

from tests.support.phantoms import ORDERS, PLANES, POSITIONS, Phantom
from tests.support.segmentations import LABELS, SEGMENTS, of_phantom

DCMQI = Path(sys.executable).with_name("segimage2itkimage")
LATTICE = {"shape": (24, 40, 56), "spacing_mm": (8.25, 5.5, 6.0)}

PHANTOMS = [
    *(
        Phantom(plane=plane, position=position, **LATTICE)
        for plane in PLANES
        for position in POSITIONS
    ),
    *(Phantom(plane=plane, order=order, **LATTICE) for plane in PLANES for order in ORDERS[1:]),
    *(
        Phantom(plane=plane, order=order, enhanced=True, **LATTICE)
        for plane, order in zip(
            PLANES, ("forward", "reversed", "shuffled", "shuffled"), strict=True
        )
    ),
    Phantom(shape=(24, 37, 53), spacing_mm=(8.25, 5.9, 6.3)),  # frames end within a byte
    Phantom(plane="sagittal", enhanced=True, shape=(29, 37, 53), spacing_mm=(8.25, 5.9, 6.3)),
]


def _name(phantom: Phantom) -> str:
    kind = "enhanced" if phantom.enhanced else "classic"
    rows, columns = phantom.grid.shape[1:]
    return f"{phantom.plane}-{phantom.position}-{phantom.order}-{kind}-{rows}x{columns}"


@pytest.fixture(params=PHANTOMS, ids=_name)
def phantom(request: pytest.FixtureRequest) -> Phantom:
    return request.param


@pytest.fixture
def seg_path(phantom: Phantom, tmp_path: Path) -> Path:
    path = tmp_path / "seg.dcm"
    path.write_bytes(of_phantom(phantom).encoded())
    return path


def _on_lattice(phantom: Phantom, values: np.ndarray, index_to_lps: np.ndarray) -> np.ndarray:
    """Values placed by their own affine, resampled to nothing: voxel centres must coincide."""
    index = np.argwhere(values)
    points = index @ index_to_lps[:3, :3].T + index_to_lps[:3, 3]
    to_lattice = np.linalg.inv(phantom.grid.affine_lps)
    places = points @ to_lattice[:3, :3].T + to_lattice[:3, 3]
    assert np.abs(places - np.rint(places)).max() < 1e-3
    placed = np.zeros(phantom.grid.shape, values.dtype)
    placed[tuple(np.rint(places).astype(int).T)] = values[tuple(index.T)]
    return placed


def _read_by_dcmqi(path: Path, folder: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Segment number, voxels as (column, row, slice), and the affine of that index."""
    subprocess.run(
        [
            DCMQI,
            "--inputDICOM",
            path,
            "--outputDirectory",
            folder,
            "--prefix",
            "p",
            "--outputType",
            "nrrd",
        ],
        check=True,
        capture_output=True,
    )
    for number in (1, 2, 3):
        image = sitk.ReadImage(folder / f"p-{number}.nrrd")
        affine = np.eye(4)
        direction = np.array(image.GetDirection()).reshape(3, 3)
        affine[:3, :3] = direction * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        yield number, sitk.GetArrayFromImage(image).T, affine


def test_dcmqi_reads_the_truth(phantom: Phantom, seg_path: Path, tmp_path: Path) -> None:
    truth = phantom.truth(LABELS)
    label_values = [s.label_value for s in SEGMENTS if s.label_value in LABELS.values()]

    for number, voxels, affine in _read_by_dcmqi(seg_path, tmp_path):
        placed = _on_lattice(phantom, voxels, affine)

        assert np.array_equal(placed != 0, truth == label_values[number - 1])


def test_highdicom_reads_the_truth(phantom: Phantom, seg_path: Path) -> None:
    truth = phantom.truth(LABELS)
    label_values = np.array([0, 7, 2, 4], np.uint8)

    volume = hd.seg.segread(seg_path).get_volume(combine_segments=True)
    placed = _on_lattice(phantom, volume.array, volume.affine)

    assert np.array_equal(label_values[placed], truth)


def test_the_left_lung_lies_on_the_patients_left(
    phantom: Phantom, seg_path: Path, tmp_path: Path
) -> None:
    middles = {}
    for number, voxels, affine in _read_by_dcmqi(seg_path, tmp_path):
        index = np.argwhere(voxels).mean(axis=0)
        middles[number] = (affine[:3, :3] @ index + affine[:3, 3])[0]

    left_lung, right_lung, marker = middles[1], middles[2], middles[3]

    assert right_lung < left_lung < marker  # x grows to the patient's left
