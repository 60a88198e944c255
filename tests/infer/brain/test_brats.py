"""Four series of one head meet on one grid, and regions find their way back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.brain import brats
from node.infer.brain.brats import CHANNELS, gathered, prepare
from node.infer.report import Report, Stopwatch
from node.infer.volume import Volume

BRAIN_MM = np.array([12.0, -20.0, 35.0])  # LPS of its middle
HALF_MM = np.array([62.0, 80.0, 55.0])
SIGNAL = {"t1c": 100.0, "t1": 200.0, "t2": 300.0, "flair": 400.0}
FRAME = "2.25.5"

LATTICES = {
    "t1c": Grid(  # sagittal, thick
        shape=(50, 150, 160),
        origin_mm=(-88.0, -130.0, 140.0),
        steps_mm=((4.0, 0.0, 0.0), (0.0, 0.0, -1.5), (0.0, 1.5, 0.0)),
        frame_of_reference_uid=FRAME,
    ),
    "t1": Grid(
        shape=(40, 110, 90),
        origin_mm=(-80.0, -130.0, -50.0),
        steps_mm=((0.0, 0.0, 4.5), (0.0, 2.0, 0.0), (2.0, 0.0, 0.0)),
        frame_of_reference_uid=FRAME,
    ),
}
LATTICES["t2"] = LATTICES["flair"] = LATTICES["t1"]


def places_of(grid: Grid) -> NDArray[np.float64]:
    index = np.stack(np.indices(grid.shape), -1).astype(float)
    return index @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]


def brain_at(points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.sum(((points_mm - BRAIN_MM) / HALF_MM) ** 2, axis=-1) < 1


def series(role: str, moved_mm: NDArray[np.float64] | None = None) -> Volume:
    """A head of one brightness, brighter towards the left, with a skull around it."""
    grid = LATTICES[role]
    points = places_of(grid) - (0 if moved_mm is None else moved_mm)
    values = SIGNAL[role] + points[..., 0] / 10
    head = np.sum(((points - BRAIN_MM) / (HALF_MM + 14)) ** 2, axis=-1) < 1
    return Volume(array=np.where(head, values, 0).astype(np.float32), grid=grid)


VOLUMES = {role: series(role) for role in CHANNELS}
BRAIN = brain_at(places_of(LATTICES["t1c"]))


def test_the_lattice_is_that_of_brats_around_the_brain() -> None:
    prepared = gathered(VOLUMES, BRAIN, {})

    grid = prepared.channels[0].grid
    assert grid.shape == (155, 240, 240)
    assert grid.steps_mm == (
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
    )  # upwards, to the back, to the left
    assert grid.frame_of_reference_uid == FRAME
    middle = grid.affine_lps @ np.append((np.array(grid.shape) - 1) / 2, 1)
    assert np.allclose(middle[:3], BRAIN_MM, atol=2.5)


def test_a_brain_larger_than_brats_is_not_cut() -> None:
    everything = np.ones(LATTICES["t1c"].shape, np.bool_)

    grid = gathered(VOLUMES, everything, {}).channels[0].grid

    # 50 x 4 mm to the left, 160 x 1.5 mm to the back, 150 x 1.5 mm upwards
    assert grid.shape == (229, 244, 240)


def test_every_channel_shows_its_series_inside_the_brain_and_nothing_outside() -> None:
    prepared = gathered(VOLUMES, BRAIN, {})

    points = places_of(prepared.channels[0].grid)
    truth = brain_at(points)
    for role, channel in zip(CHANNELS, prepared.channels, strict=True):
        inside = channel.array != 0
        dice = 2 * np.count_nonzero(inside & truth) / (inside.sum() + truth.sum())
        assert dice > 0.97, role  # the mask was drawn on slices of 4 mm
        core = np.sum(((points - BRAIN_MM) / (HALF_MM - 8)) ** 2, axis=-1) < 1
        expected = SIGNAL[role] + points[core][:, 0] / 10
        assert np.allclose(channel.array[core], expected, atol=0.05), role


def test_a_moved_series_is_taken_from_where_it_is() -> None:
    shift = np.array([6.0, -4.0, 9.0])
    move = np.eye(4)
    move[:3, 3] = shift
    volumes = {**VOLUMES, "flair": series("flair", shift)}

    still, moved = (gathered(v, BRAIN, m) for v, m in ((VOLUMES, {}), (volumes, {"flair": move})))

    difference = still.channels[3].array - moved.channels[3].array
    points = places_of(still.channels[0].grid)
    core = np.sum(((points - BRAIN_MM) / (HALF_MM - 8)) ** 2, axis=-1) < 1
    assert np.abs(difference[core]).max() < 0.05


def test_regions_come_back_nested_and_where_they_were() -> None:
    prepared = gathered(VOLUMES, BRAIN, {})
    left_mm = BRAIN_MM + np.array([30.0, 5.0, -10.0])

    def ball(points: NDArray[np.float64], radius_mm: float) -> NDArray[np.bool_]:
        return np.sum((points - left_mm) ** 2, axis=-1) < radius_mm**2

    points = places_of(prepared.channels[0].grid)
    bits = sum(ball(points, radius) << n for n, radius in enumerate((25.0, 18.0, 11.0)))

    back = prepared.back(bits.astype(np.uint8))

    assert back.shape == LATTICES["t1c"].shape
    source = places_of(LATTICES["t1c"])
    for n, radius in enumerate((25.0, 18.0, 11.0)):
        found, truth = (back >> n) & 1 == 1, ball(source, radius)
        dice = 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())
        assert dice > 0.94  # the smallest has a radius of 11 mm, on slices of 4 mm
    assert set(np.unique(back)) == {0, 1, 3, 7}


def test_prepare_takes_brain_and_movements_from_the_series(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, Mapping[str, Path]]] = []

    def ellipsoid(
        volume: Volume, given: Mapping[str, Path], *, device: str, report: Report
    ) -> object:
        asked.append((device, given))
        return brain_at(places_of(volume.grid))

    # learned weights have tests of their own: here the brain is a formula
    monkeypatch.setattr(brats, "skull_strip", ellipsoid)
    files = {"skull_strip/model.json": tmp_path / "pulled" / "model.json"}
    report = Stopwatch()
    in_one_go = dict.fromkeys(("t1", "t2"), VOLUMES["t1c"])

    prepared = prepare({**VOLUMES, **in_one_go}, files, "cpu", report)

    assert asked == [("cpu", files)]
    assert [note.split(",")[0] for note in report.notes] == [
        "t1: not registered",
        "t2: not registered",
        "flair: registered",
    ]
    assert prepared.back(np.zeros(prepared.channels[0].grid.shape, np.uint8)).shape == BRAIN.shape


@pytest.mark.parametrize(
    ("volumes", "files", "sentence"),
    [
        ({k: v for k, v in VOLUMES.items() if k in ("t1c", "t2")}, {}, "no series for t1, flair"),
        (VOLUMES, {}, r"names no skull_strip/model\.json"),
    ],
)
def test_what_is_missing_is_named(
    volumes: Mapping[str, Volume], files: Mapping[str, Path], sentence: str
) -> None:
    with pytest.raises(JobFailed, match=sentence) as caught:
        prepare(volumes, files, "cpu", Stopwatch())

    assert caught.value.permanent
