"""A head network end to end, on a piece of a real head with a small real network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.infer.brain.heads import Plane, acquired, t1_image

pytest.importorskip("torch")

from node.infer.brain.whole_head import Crop, head_labels
from tests.infer.brain.direct import direct_labels

NETWORK = "model5_gw_ae"  # grey and white matter
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
# a piece of the middle of the head, so that a run takes a second
PIECE = (slice(70, 190), slice(60, 150), slice(90, 190))


@pytest.fixture(scope="module")
def piece(shared_models: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    array, affine = t1_image(shared_models)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start for part in PIECE]
    return array[PIECE], moved


def labels_of(volume: Volume, shared_models: Path, report: Stopwatch | None = None) -> object:
    return head_labels(
        volume,
        shared_models / "brainchop" / NETWORK,
        crop=Crop(above=0.0, margin_mm=0),
        device="cpu",
        report=report or Stopwatch(),
    )


@pytest.mark.parametrize("plane", PLANES)
def test_labels_equal_the_published_recipe_in_every_plane(
    plane: Plane, piece: tuple[NDArray[np.uint8], NDArray[np.float64]], shared_models: Path
) -> None:
    volume = acquired(*piece, plane)
    expected = direct_labels(
        volume.array.astype(np.float64),
        volume.geometry.affine_lps,
        shared_models / "brainchop" / NETWORK,
        above=0.0,
        margin=0,
    )

    labels = labels_of(volume, shared_models)

    assert np.unique(expected).tolist() == [0, 1, 2]
    assert np.count_nonzero(labels != expected) <= 2  # a tie of two classes, broken by rounding


def test_a_mark_in_the_left_hemisphere_shows_in_the_left_half(
    piece: tuple[NDArray[np.uint8], NDArray[np.float64]], shared_models: Path
) -> None:
    array, affine = piece
    marked = array.copy()
    marked[85:97, 30:42, 40:52] = 0  # the first axis runs to the left
    volumes = [acquired(each, affine, "sagittal") for each in (array, marked)]

    plain, changed = (np.asarray(labels_of(volume, shared_models)) for volume in volumes)

    geometry = volumes[0].geometry
    places = np.argwhere(plain != changed)
    x = (places @ geometry.affine_lps[:3, :3].T + geometry.affine_lps[:3, 3])[:, 0]
    middle = geometry.affine_lps @ np.append((np.array(geometry.shape) - 1) / 2, 1)
    assert len(places) > 500
    assert np.all(x > middle[0])  # x grows to the patient's left


def test_what_lies_outside_the_cube_is_told_and_stays_without_labels(shared_models: Path) -> None:
    array, affine = t1_image(shared_models)
    thin = acquired(array[:, ::4, ::4], affine @ np.diag([1, 1.5 * 4, 4, 1]), "axial")
    report = Stopwatch()

    labels = np.asarray(labels_of(thin, shared_models, report))

    # 384 mm from head to foot: 64 of them at each end are not seen
    assert report.notes == [
        "64 mm at each end between head and foot lie outside the 256 mm cube around the centre of"
        " the series and stay without labels"
    ]
    assert not labels[:10].any()
    assert not labels[-10:].any()


def test_a_series_without_contrast_is_refused(shared_models: Path) -> None:
    array, affine = t1_image(shared_models)
    flat = acquired(np.full_like(array[::8, ::8, ::8], 7), affine)

    with pytest.raises(JobFailed, match="no contrast") as caught:
        labels_of(flat, shared_models)

    assert caught.value.permanent


@pytest.mark.parametrize(("above", "margin_mm"), [(-0.1, 0), (1.0, 0), (0.5, -1)])
def test_a_crop_that_makes_no_box_cannot_be_written_down(above: float, margin_mm: int) -> None:
    with pytest.raises(ValueError, match="no box"):
        Crop(above=above, margin_mm=margin_mm)
