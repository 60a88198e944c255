"""Skull stripping hands on the largest piece that the network calls brain, on the source grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.brain.skull import FILE, skull_strip
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.infer.brain.networks import Written, model_json, write_network

pytest.importorskip("torch")

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
    return {FILE: write_network(tmp_path / "network", *model_json([layer])) / "model.json"}


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
