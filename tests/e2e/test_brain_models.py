"""Real weights on real heads over the whole road: C-STORE in, a SEG in Orthanc out.

What is compared stands in no label of the network: it knows no left and right. Volumes of each
structure and of its half on the patient's left, as an independent reader finds them in the returned
object, are held against the published recipe in plain torch (tests/infer/brain/direct.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from node.infer.volume import Volume
from tests.infer.brain.heads import HeadSeries, acquired, t1_image
from tests.support.cases import Cases
from tests.support.peers import Node, Orthanc, store
from tests.support.phantoms import stack_of
from tests.support.waiting import wait_for

pytest.importorskip("torch")

from tests.infer.brain.direct import direct_labels

pytestmark = pytest.mark.long

MODEL = "brain_t1_meshnet"
REAL = ("mr_brain_t1_sag_hfs", "mr_brain_t1_sag_hfdl")
STRUCTURES = 17
AGREEMENT = 0.01
# in the white matter of the left hemisphere: index (left, inferior, anterior)
MARK = (slice(146, 162), slice(70, 86), slice(112, 128))

Halves = dict[str, tuple[float, float]]  # structure -> ml, ml on the patient's left


@dataclass(frozen=True)
class Case:
    """A series as files, and its voxels as an independent program reads them."""

    files: list[bytes]
    array: NDArray[np.float64]
    affine_lps: NDArray[np.float64]

    @property
    def series_uid(self) -> str:
        return str(dcmread(BytesIO(self.files[0]), stop_before_pixels=True).SeriesInstanceUID)

    @property
    def middle_x(self) -> float:
        """The left-right middle of the head: of what is brighter than a tenth of the brightest."""
        head = np.argwhere(self.array > 0.1 * np.percentile(self.array, 99.9))
        x = head @ self.affine_lps[0, :3] + self.affine_lps[0, 3]
        return float(x.min() + x.max()) / 2


def wrapped(volume: Volume, name: str) -> Case:
    series = HeadSeries(volume=volume, series=name, study=name)
    return Case(series.files(), volume.array.astype(np.float64), volume.grid.affine_lps)


def real(folder: Path) -> Case:
    """Every slice decoded by pydicom; the grid as the test's own stack finds it."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix == ".dcm"]
    instances = [dcmread(path) for path in paths]
    stack = stack_of(instances)
    planes = {str(instance.SOPInstanceUID): instance.pixel_array for instance in instances}
    array = np.stack([planes[frame.sop_instance_uid] for frame in stack.frames])
    files = [path.read_bytes() for path in paths]
    return Case(files, array.astype(np.float64), stack.grid.affine_lps)


@pytest.fixture(scope="module")
def cases(shared_models: Cases, shared_data: Cases) -> Mapping[str, Case]:
    array, affine = t1_image(shared_models)
    marked = array.copy()
    marked[MARK] = 0
    return {
        "axial": wrapped(acquired(array, affine, "axial"), "axial"),
        "coronal": wrapped(acquired(array, affine, "coronal"), "coronal"),
        "sagittal": wrapped(acquired(array, affine, "sagittal"), "sagittal"),
        "marked": wrapped(acquired(marked, affine, "sagittal"), "marked"),
        **{name: real(shared_data / name) for name in REAL},
    }


@pytest.fixture(scope="module")
def results(
    cases: Mapping[str, Case], shared_models: Cases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, bytes]]:
    """The SEG of each case, as it lies in Orthanc."""
    folder = tmp_path_factory.mktemp("brain-models")
    weights = folder / "weights"
    shutil.copytree(shared_models / "brainchop" / "model18cls", weights / MODEL)
    with Orthanc(folder / "orthanc") as orthanc:
        node = Node(
            folder / "node",
            config={
                "weights_dir": str(weights),
                "peers": {
                    "PACS": {
                        "ae_title": "ORTHANC",
                        "host": "127.0.0.1",
                        "port": orthanc.dicom_port,
                        "allow_from": ["127.0.0.0/8"],
                    }
                },
                "destinations": {"pacs": {"kind": "dimse", "peer": "PACS"}},
                "rules": [
                    {"name": "brain", "when": {"Modality": "MR"}, "run": MODEL, "send": ["pacs"]}
                ],
            },
            environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        )
        with node:
            for case in cases.values():
                assert set(store(node.dicom_port, case.files, calling="ORTHANC")) == {0x0000}
            wait_for("a result for each series", lambda: all_sent(node, len(cases)), 3600)
        objects = [(dcmread(BytesIO(data)), data) for data in orthanc.segmentations()]
        by_series = {
            str(each.ReferencedSeriesSequence[0].SeriesInstanceUID): data for each, data in objects
        }
        assert len(objects) == len(cases)
        yield {name: by_series[case.series_uid] for name, case in cases.items()}


def all_sent(node: Node, expected: int) -> bool:
    failed = node.api("/jobs?state=failed&limit=10")
    assert not failed["total"], failed
    return bool(node.api("/deliveries?state=sent&limit=1")["total"] == expected)


@pytest.mark.parametrize("name", ["axial", "coronal", "sagittal", *REAL])
def test_volumes_and_their_left_halves_are_those_of_the_published_recipe(
    name: str,
    cases: Mapping[str, Case],
    results: Mapping[str, bytes],
    expected: Callable[[str], Halves],
) -> None:
    truth = expected(name)

    found = halves(results[name], cases[name].middle_x)

    print(f"\n{name}: " + ", ".join(f"{k} {a:.2f}/{b:.2f}" for k, (a, b) in found.items()))
    assert len(truth) >= STRUCTURES - 2  # a very small one may be missed on thick slices
    assert set(found) == set(truth)
    for structure, (whole_ml, left_ml) in truth.items():
        assert found[structure][0] == pytest.approx(whole_ml, rel=AGREEMENT, abs=0.01), structure
        assert found[structure][1] == pytest.approx(left_ml, rel=AGREEMENT, abs=0.01), structure
        assert left_ml <= whole_ml


def test_a_mark_in_the_left_hemisphere_shows_in_the_left_half(
    cases: Mapping[str, Case], results: Mapping[str, bytes]
) -> None:
    plain, marked = (combined(results[name]) for name in ("sagittal", "marked"))
    middle_x = cases["sagittal"].middle_x

    changed = np.argwhere(plain.array != marked.array)

    x = changed @ plain.affine[0, :3] + plain.affine[0, 3]
    share = float(np.mean(x > middle_x))
    print(f"\n{len(changed)} voxels changed, {share:.3f} of them in the left half")
    assert len(changed) > 1000
    assert share > 0.9  # what a network sees reaches 46 mm, across the middle too


def combined(data: bytes) -> hd.Volume:
    return hd.seg.segread(BytesIO(data)).get_volume(combine_segments=True)


def halves(data: bytes, middle_x: float) -> Halves:
    """Volumes in ml by the object's own segment labels and its own affine."""
    segmentation = hd.seg.segread(BytesIO(data))
    volume = segmentation.get_volume(combine_segments=True)
    names = {item.SegmentNumber: str(item.SegmentLabel) for item in segmentation.SegmentSequence}
    return {
        key_of(names[number]): ml
        for number, ml in measured(volume.array, volume.affine, middle_x).items()
    }


@pytest.fixture(scope="module")
def expected(cases: Mapping[str, Case], shared_models: Cases) -> Callable[[str], Halves]:
    """Volumes by the published recipe, computed once for the three planes of one image."""
    network = shared_models / "brainchop" / "model18cls"
    names = json.loads((network / "colormap.json").read_text())["labels"]

    @cache
    def of(name: str) -> Halves:
        case = cases[name]
        labels = direct_labels(case.array, case.affine_lps, network, above=0.2, margin=0)
        found = measured(labels, case.affine_lps, case.middle_x)
        return {key_of(names[value]): ml for value, ml in found.items()}

    return lambda name: of(name if name in REAL else "axial")


def key_of(name: str) -> str:
    return name.lower().replace("-", " ")


def measured(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], middle_x: float
) -> dict[int, tuple[float, float]]:
    """Label -> ml, and ml where x, which grows to the patient's left, is beyond the middle."""
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    place = np.argwhere(labels)
    value = labels[tuple(place.T)]
    is_left = place @ affine[0, :3] + affine[0, 3] > middle_x
    return {
        int(n): (
            float(np.count_nonzero(value == n)) * voxel_ml,
            float(np.count_nonzero(is_left & (value == n))) * voxel_ml,
        )
        for n in np.unique(value)
    }
