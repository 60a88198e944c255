"""A head network end to end, on a piece of a real head with a small real network.

Skull stripping hands on the largest piece that the network calls brain, on the source grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.infer.brain.heads import Plane, acquired, as_lia, t1_image
from tests.infer.brain.networks import Written, model_json, write_network
from tests.support.cases import Cases

pytest.importorskip("torch")

from node.infer.brain.brainchop import SKULL_STRIP, Crop, head_labels, skull_strip
from tests.infer.brain.direct import direct_labels

NETWORK = "model5_gw_ae"  # grey and white matter
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
# a piece of the middle of the head, so that a run takes a second
PIECE = (slice(70, 190), slice(60, 130), slice(100, 180))
MARK = (slice(95, 107), slice(30, 42), slice(34, 46))


@pytest.fixture(scope="module")
def piece(shared_models: Cases) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    array, affine = t1_image(shared_models)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start for part in PIECE]
    return array[PIECE], moved


def labels_of(
    volume: Volume, shared_models: Cases, report: Stopwatch | None = None
) -> NDArray[np.uint8]:
    return head_labels(
        volume,
        shared_models / "brainchop" / NETWORK,
        crop=Crop(above=0.0, margin_mm=0),
        device="cpu",
        report=report or Stopwatch(),
    )


@pytest.fixture(scope="module")
def expected(
    piece: tuple[NDArray[np.uint8], NDArray[np.float64]], shared_models: Cases
) -> NDArray[np.generic]:
    """The labels by the published recipe, axes LIA."""
    volume = acquired(*piece, "axial")
    labels = direct_labels(
        volume.array.astype(np.float64),
        volume.grid.affine_lps,
        shared_models / "brainchop" / NETWORK,
        above=0.0,
        margin=0,
    )
    return as_lia(labels, "axial")


@pytest.mark.parametrize("plane", PLANES)
def test_labels_equal_the_published_recipe_in_every_plane(
    plane: Plane,
    piece: tuple[NDArray[np.uint8], NDArray[np.float64]],
    expected: NDArray[np.generic],
    shared_models: Cases,
) -> None:
    labels = labels_of(acquired(*piece, plane), shared_models)

    assert np.unique(expected).tolist() == [0, 1, 2]
    # a tie of two classes, broken by rounding
    assert np.count_nonzero(as_lia(labels, plane) != expected) <= 2


def test_a_mark_in_the_left_hemisphere_shows_in_the_left_half(
    piece: tuple[NDArray[np.uint8], NDArray[np.float64]],
    expected: NDArray[np.generic],
    shared_models: Cases,
) -> None:
    array, affine = piece
    marked = array.copy()
    marked[MARK] = 0  # the first axis runs to the left

    volume = acquired(marked, affine, "sagittal")
    labels = labels_of(volume, shared_models)

    changed = labels != acquired(expected.astype(np.uint8), affine, "sagittal").array
    places = np.argwhere(changed)
    x = (places @ volume.grid.affine_lps[:3, :3].T + volume.grid.affine_lps[:3, 3])[:, 0]
    middle = volume.grid.affine_lps @ np.append((np.array(changed.shape) - 1) / 2, 1)
    assert np.mean(as_lia(changed, "sagittal")[MARK]) > 0.5
    assert np.mean(x > middle[0]) > 0.9  # x grows to the patient's left


def test_what_lies_outside_the_cube_is_told_and_stays_without_labels(shared_models: Cases) -> None:
    array, affine = t1_image(shared_models)
    thin = acquired(array[110:150, ::4, ::4], affine @ np.diag([1, 1.5 * 4, 4, 1]), "axial")
    report = Stopwatch()

    labels = labels_of(thin, shared_models, report)

    # 384 mm from head to foot: 64 of them at each end are not seen
    assert report.notes == [
        "64 mm at each end between head and foot lie outside the 256 mm cube around the centre of"
        " the series and stay without labels"
    ]
    assert not labels[:10].any()
    assert not labels[-10:].any()


def test_a_series_without_contrast_is_refused(shared_models: Cases) -> None:
    array, affine = t1_image(shared_models)
    flat = acquired(np.full_like(array[::8, ::8, ::8], 7), affine)

    with pytest.raises(JobFailed, match="no contrast") as caught:
        labels_of(flat, shared_models)

    assert caught.value.permanent


@pytest.mark.parametrize(("above", "margin_mm"), [(-0.1, 0), (1.0, 0), (0.5, -1)])
def test_a_crop_that_makes_no_box_cannot_be_written_down(above: float, margin_mm: int) -> None:
    with pytest.raises(ValueError, match="no box"):
        Crop(above=above, margin_mm=margin_mm)


THICK = Grid(
    shape=(60, 50, 90),
    origin_mm=(-90.0, 60.0, -70.0),
    steps_mm=((0.0, 0.0, 3.0), (0.0, -2.5, 0.0), (2.0, 0.0, 0.0)),
    frame_of_reference_uid="2.25.3",
)


@pytest.fixture
def bright_is_brain(tmp_path: Path) -> dict[str, Path]:
    """A network that calls brain what is brighter than half of the brightest."""
    kernel = np.array([0.0, 1.0], np.float32).reshape(1, 1, 1, 1, 2)
    layer = Written(kernel, np.array([0.0, -0.5], np.float32))
    return {SKULL_STRIP: write_network(tmp_path / "network", *model_json([layer])) / "model.json"}


def ellipsoid(middle_mm: tuple[float, float, float], half_mm: float) -> NDArray[np.bool_]:
    index = np.stack(np.indices(THICK.shape), -1)
    places = index @ THICK.affine_lps[:3, :3].T + THICK.affine_lps[:3, 3]
    return np.sum((places - np.array(middle_mm)) ** 2, -1) < half_mm**2


def bright(where: NDArray[np.bool_]) -> Volume:
    return Volume(array=np.where(where, 1000, 100).astype(np.int16), grid=THICK)


def test_the_mask_lies_on_the_source_grid_without_what_is_apart(
    bright_is_brain: dict[str, Path],
) -> None:
    brain, eye = ellipsoid((10.0, 0.0, 20.0), 45.0), ellipsoid((-60.0, 20.0, 60.0), 12.0)

    mask = skull_strip(bright(brain | eye), bright_is_brain, device="cpu", report=Stopwatch())

    assert mask.dtype == np.bool_
    assert not (mask & eye).any()
    dice = 2 * np.count_nonzero(mask & brain) / (mask.sum() + brain.sum())
    assert dice > 0.98


def test_too_little_brain_ends_the_job(bright_is_brain: dict[str, Path]) -> None:
    with pytest.raises(JobFailed, match="is this a series of a head") as caught:
        skull_strip(
            bright(ellipsoid((0, 0, 20), 25.0)), bright_is_brain, device="cpu", report=Stopwatch()
        )

    assert caught.value.permanent


def test_a_model_that_declares_no_network_is_refused(tmp_path: Path) -> None:
    files = {"models/model.pt": tmp_path / "m.pt"}

    with pytest.raises(JobFailed, match=r"names no skull_strip/model\.json"):
        skull_strip(bright(ellipsoid((0, 0, 0), 9.0)), files, device="cpu", report=Stopwatch())
