"""Networks that know what they look at: what they find lies where it is, whole road, every plane.

A small network is taught on volumes made by formula and written as a bundle. Its results come back
from a real Orthanc, and are compared with the formula where the object itself says its voxels are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from tests.support.bundles import (
    ARGMAX,
    LOAD,
    ORIENT,
    SOFTMAX,
    BundleModel,
    Recipe,
    inference,
    inverted,
    on_answer,
    seg_resnet,
    spacing,
    transform,
    windows,
    write_bundle_model,
)
from tests.support.peers import Node, Orthanc, store
from tests.support.phantoms import Phantom, region_at
from tests.support.rooms import labels_of
from tests.support.training import (
    CORE,
    ENHANCING,
    ORGANS,
    SERIES,
    WHOLE,
    BrightTorso,
    depth_at,
    organ_example,
    teach,
    tumour_example,
    tumour_study,
)
from tests.support.waiting import wait_for

torch = pytest.importorskip("torch")
monai = pytest.importorskip("monai")
pytestmark = [
    pytest.mark.long,
    # what MONAI and a bundle's parts warn of is told to nobody where they run
    pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch"),
]

LEAST_DICE = 0.95
SURE_DICE = LEAST_DICE + 0.02  # what is taught must pass whatever a machine rounds
KEEPS_SHADES = {"norm": "BATCH"}  # the others forget how bright a whole window is
ORGAN_MM = 2.5
FINE = {"spacing_mm": (2.6, 2.2, 2.3)}
ACQUIRED = {
    "axial": BrightTorso(plane="axial", shape=(84, 96, 124), study="t-axial", **FINE),
    "sagittal": BrightTorso(plane="sagittal", shape=(110, 104, 96), study="t-sagittal", **FINE),
    "oblique": BrightTorso(
        plane="oblique", shape=(96, 112, 128), order="shuffled", study="t-oblique", **FINE
    ),
}
STUDY = tumour_study(shape=(60, 88, 96), spacing_mm=(3.0, 2.4, 2.6), study="t-tumour")


def organs(seed: int = 3) -> Recipe:
    """One channel, resampled: lungs, and the tissue around them.

    Probabilities come back to the grid of the series before the largest is taken. Labels that come
    back by the nearest would have a perfect network agree by no more than 0.978 with the truth, and
    how a network is taught depends on rounding and threads by more than what that leaves.
    """
    recipe = inference(
        seg_resnet(1, 3) | KEEPS_SHADES | {"blocks_down": [1, 1], "blocks_up": [1]},
        [*LOAD, ORIENT, spacing([ORGAN_MM] * 3), _scaled(1000.0)],
        windows(64, 0.25, mode="gaussian", padding_mode="replicate"),
        [SOFTMAX, inverted(nearest=False), ARGMAX],
    )
    network = _network(recipe, seed)
    example = organ_example(ORGAN_MM, side=32)
    taught = teach(network, example, _entropy, steps=720, fixed_after=240, seed=seed)
    return Recipe(config=recipe, weights={"models/model.pt": taught}, labels=2)


def tumour() -> Recipe:
    """Four channels, three regions one in the other."""
    recipe = inference(
        seg_resnet(4, 3) | KEEPS_SHADES,
        [transform("LoadImaged"), _scaled(500.0)],
        windows(64, 0.5),
        [on_answer("Activationsd", sigmoid=True), on_answer("AsDiscreted", threshold=0.5)],
    )
    network = _network(recipe, 5)
    loss = monai.losses.DiceCELoss(sigmoid=True, batch=True)
    taught = teach(network, tumour_example(2.6, side=24), loss, steps=300, seed=3)
    return Recipe(
        config=recipe,
        weights={"models/model.pt": taught},
        roles=SERIES,
        labels=3,
        outputs="regions",
        runner={"region_channels": [0, 1, 2]},
    )


def _entropy(answer: Any, truth: Any) -> Any:
    """Cross entropy: unlike Dice it is least where the border lies right, however small a part is."""
    return torch.nn.functional.cross_entropy(answer, truth[:, 0])


def _scaled(by: float) -> dict[str, Any]:
    return transform("ScaleIntensityRanged", a_min=0.0, a_max=by, b_min=0.0, b_max=1.0, clip=False)


def _network(config: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    return monai.bundle.ConfigParser(dict(config)).get_parsed_content("network_def")


@dataclass(frozen=True)
class Hospital:
    """An Orthanc that every result came back to."""

    orthanc: Orthanc

    def segmentation(self, study_instance_uid: str) -> Any:
        """The one SEG of a study, as Orthanc hands it out."""
        (found,) = self.orthanc.post(
            "/tools/find",
            {
                "Level": "Instance",
                "Query": {"StudyInstanceUID": study_instance_uid, "Modality": "SEG"},
            },
        )
        return hd.seg.Segmentation.from_dataset(
            dcmread(BytesIO(self.orthanc.get(f"/instances/{found}/file")))
        )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A node with both models between C-STORE and an Orthanc."""
    folder = tmp_path_factory.mktemp("trained")
    made = [
        write_bundle_model(folder, "organs", organs()),
        write_bundle_model(folder, "tumour", tumour()),
    ]
    orthanc = Orthanc(folder / "orthanc")
    roles = {role: {"SeriesDescription": role} for role in SERIES}
    node = Node(
        folder / "node",
        config={
            "models_dirs": [str(each.folder) for each in made],
            "weights_dir": str(made[0].weights_dir),
            "peers": {
                "ORTHANC": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port},
                "SCANNER": {"ae_title": "STORESCU", "host": "127.0.0.1"},
            },
            "destinations": {"orthanc": {"kind": "dimse", "peer": "ORTHANC"}},
            "rules": [
                {
                    "name": "organs",
                    "when": {"Modality": "CT", "not": {"SeriesDescription": list(SERIES)}},
                    "run": "organs",
                    "send": ["orthanc"],
                },
                {"name": "tumour", "study": roles, "run": "tumour", "send": ["orthanc"]},
            ],
        },
    )
    with orthanc, node:
        for phantom in (*ACQUIRED.values(), *STUDY.values()):
            assert set(store(node.dicom_port, phantom.files())) == {0x0000}
        wait_for(
            "a result for each series and the study",
            lambda: node.api("/deliveries?state=sent&limit=1")["total"] == len(ACQUIRED) + 1,
            600,
        )
        yield Hospital(orthanc)


@pytest.mark.parametrize("plane", ACQUIRED)
def test_organs_are_found_where_they_are(plane: str, hospital: Hospital) -> None:
    phantom = ACQUIRED[plane]
    volume = hospital.segmentation(phantom.uid("study")).get_volume()

    truth = region_at(_places(volume))

    for label in sorted(set(ORGANS.values())):
        members = [int(region) for region, value in ORGANS.items() if value == label]
        found = volume.array[..., label - 1] != 0
        assert _dice(found, np.isin(truth, members)) > LEAST_DICE


def test_a_tumour_and_its_parts_are_found_where_they_are(hospital: Hospital) -> None:
    volume = hospital.segmentation(STUDY["t1c"].uid("study")).get_volume()

    depth = depth_at(_places(volume))

    for region in (WHOLE, CORE, ENHANCING):
        assert _dice(volume.array[..., region - 1] != 0, depth >= 1 + region) > LEAST_DICE


def test_the_parts_of_a_tumour_overlap_and_say_so(hospital: Hospital) -> None:
    seg = hospital.segmentation(STUDY["t1c"].uid("study"))
    whole, core, enhancing = np.moveaxis(seg.get_volume().array != 0, -1, 0)

    assert seg.SegmentsOverlap == "YES"
    assert np.count_nonzero(whole & core) > 0.99 * np.count_nonzero(core)
    assert np.count_nonzero(core & enhancing) > 0.99 * np.count_nonzero(enhancing)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_organs_are_taught_well_by_any_seed_and_threads(
    seed: int, threads: int, tmp_path: Path
) -> None:
    with _threads(threads):
        made = write_bundle_model(tmp_path, "organs", organs(seed))
        found = {plane: _organ_dices(made, ACQUIRED[plane]) for plane in ACQUIRED}

    print(f"seed {seed}, {threads} threads:", found)  # the table of a run with -s
    assert min(min(dices) for dices in found.values()) >= SURE_DICE


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _organ_dices(made: BundleModel, phantom: Phantom) -> list[float]:
    """Lungs and tissue, where no node is around the model."""
    labels = labels_of(made.spec, phantom, weights_dir=made.weights_dir)
    truth = np.vectorize(ORGANS.get)(phantom.regions, 0)
    return [float(_dice(labels == label, truth == label)) for label in (1, 2)]


def _places(volume: Any) -> NDArray[np.float64]:
    index = np.stack(np.indices(volume.spatial_shape), axis=-1)
    places: NDArray[np.float64] = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return places


def _dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    both = np.count_nonzero(found & truth)
    return 2 * both / (np.count_nonzero(found) + np.count_nonzero(truth))
