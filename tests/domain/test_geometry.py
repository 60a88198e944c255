"""Geometry: where a voxel lies, and values that cannot be built wrong."""

from __future__ import annotations

import numpy as np
import pytest

from node.domain.frames import Frame
from node.domain.grid import Grid, Stack

STEPS = ((0.0, 0.0, 3.0), (0.0, 0.8, 0.0), (0.7, 0.0, 0.0))


def grid(**values: object) -> Grid:
    settings: dict[str, object] = {
        "shape": (2, 5, 7),
        "origin_mm": (-10.0, 20.0, 30.0),
        "steps_mm": STEPS,
        "frame_of_reference_uid": "1.2.9",
        **values,
    }
    return Grid(**settings)  # type: ignore[arg-type]


def test_the_affine_maps_slice_row_column_to_lps() -> None:
    place = grid().affine_lps @ np.array([1, 2, 3, 1.0])

    np.testing.assert_allclose(place, [-10 + 3 * 0.7, 20 + 2 * 0.8, 30 + 3.0, 1.0])


def test_spacing_is_between_slices_then_rows_then_columns() -> None:
    assert grid().spacing_mm == pytest.approx((3.0, 0.8, 0.7))


def test_the_volume_of_a_voxel_is_positive_in_a_left_handed_stack() -> None:
    mirrored = grid(steps_mm=((0.0, 0.0, -3.0), *STEPS[1:]))

    assert mirrored.voxel_ml == pytest.approx(grid().voxel_ml)
    assert grid().voxel_ml == pytest.approx(3.0 * 0.8 * 0.7 / 1000)


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7), (2, 5, -1)])
def test_an_empty_volume_cannot_be_built(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="empty volume"):
        grid(shape=shape)


@pytest.mark.parametrize(
    "values",
    [
        {"steps_mm": (STEPS[0], STEPS[0], STEPS[2])},
        {"steps_mm": ((0.0, 0.0, 0.0), *STEPS[1:])},
        {"steps_mm": ((0.0, 0.0, float("nan")), *STEPS[1:])},
        {"origin_mm": (float("inf"), 0.0, 0.0)},
    ],
    ids=["parallel", "zero", "nan", "infinite origin"],
)
def test_steps_that_span_no_volume_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="span"):
        grid(**values)


def test_a_stack_has_one_frame_per_slice() -> None:
    frame = Frame(sop_instance_uid="1.2.3", rows=5, columns=7)

    assert len(Stack(frames=(frame, frame), grid=grid()).frames) == 2
    with pytest.raises(ValueError, match="1 frames for 2 slices"):
        Stack(frames=(frame,), grid=grid())
