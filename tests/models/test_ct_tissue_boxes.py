"""What ct_tissue decides in the box of a part is what it would decide in the whole volume.

The references here work on whole volumes, part by part, as slowly as they are simple.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.domain.grid import Grid
from node.infer.ct_tissue import label_tissues, lungs
from node.infer.ct_tissue.compose import Tissue
from node.infer.ct_tissue.grid import CoarseGrid, Mask, Window, boxes_of
from node.infer.report import Stopwatch
from node.infer.volume import Volume

# a multiple of 1.7, 2.1 or 2.4 is no number of single precision; 12 is 5 x 2.4
SPACINGS_MM = (1.5, 1.7, 2.0, 2.1, 2.390625, 2.4, 5.0)


def coarse(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> CoarseGrid:
    a, b, c = spacing_mm
    full = Grid(
        shape=shape,
        origin_mm=(-13.1, 7.3, 211.9),
        steps_mm=((0, 0, a), (0, b, 0), (c, 0, 0)),
        frame_of_reference_uid="2.25.1",
    )
    grid = CoarseGrid.over(full)
    assert grid.shape == shape
    return grid


@st.composite
def grids(draw: st.DrawFn) -> CoarseGrid:
    sides = st.tuples(*[st.integers(1, 18)] * 3)
    return coarse(draw(sides), draw(st.tuples(*[st.sampled_from(SPACINGS_MM)] * 3)))


@st.composite
def shapes(draw: st.DrawFn, grid: CoarseGrid) -> NDArray[np.bool_]:
    """Blocks anywhere, at borders and beside each other, and voxels alone; sometimes nothing."""
    mask = np.zeros(grid.shape, bool)
    for _ in range(draw(st.integers(0, 5))):
        ends = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in grid.shape]
        mask[tuple(slice(low, high) for low, high in ends)] = True
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask ^= random.random(grid.shape) < draw(st.sampled_from([0.0, 0.01, 0.2]))
    return mask


@given(st.data())
def test_a_box_holds_its_component_and_touches_it_on_every_side(data: st.DataObject) -> None:
    grid = data.draw(grids())
    labels, sizes = grid.components(data.draw(shapes(grid)))

    boxes = boxes_of(labels, len(sizes))

    assert len(boxes) == len(sizes)
    for number, box in enumerate(boxes, 1):
        voxels = np.argwhere(labels == number)
        ends = [(axis.start, axis.stop - 1) for axis in box]
        assert ends == list(zip(voxels.min(0), voxels.max(0), strict=True))


def aerated(hu: NDArray[np.float32], part: NDArray[np.bool_], grid: CoarseGrid) -> bool:
    core = grid.eroded(part, max(grid.spacing_mm))
    return bool(np.median(hu[core if core.any() else part]) > -960.0)


@settings(max_examples=25)
@given(st.data())
def test_a_part_is_aerated_in_its_box_where_it_is_in_the_volume(data: st.DataObject) -> None:
    grid = data.draw(grids())
    labels, sizes = grid.components(data.draw(shapes(grid)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # many medians lie at the limit, so that every voxel of a core counts
    hu = random.choice(np.array([-961, -960, -959], np.float32), grid.shape)

    for number, box in enumerate(boxes_of(labels, len(sizes)), 1):
        part = lungs._Part.of(labels, number, box, grid)

        assert lungs._is_aerated(hu, part, grid) == aerated(hu, labels == number, grid)


def sides(
    air: NDArray[np.bool_], body: NDArray[np.bool_], grid: CoarseGrid
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    left, right = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    midline_mm = lungs._midline_mm(air, body, grid)
    labels, sizes = grid.components(air)
    for number in range(1, len(sizes) + 1):
        part = labels == number
        share_left = np.mean(grid.lps_mm(part)[:, 0] > midline_mm)
        if 0.1 < share_left < 0.9:
            half = cut(part, midline_mm, grid)
            left |= half
            right |= part & ~half
        elif share_left > 0.5:
            left |= part
        else:
            right |= part
    return left, right


def cut(part: NDArray[np.bool_], midline_mm: float, grid: CoarseGrid) -> NDArray[np.bool_]:
    for radius_mm in (2.0, 4.0, 6.0, 9.0, 12.0):
        labels, sizes = grid.components(grid.eroded(part, radius_mm))
        large = [n for n, size in enumerate(sizes, 1) if size > 0.1 * sum(sizes)]
        middles = {n: float(grid.lps_mm(labels == n)[:, 0].mean()) for n in large}
        lefts = [n for n in large if middles[n] > midline_mm]
        rights = [n for n in large if n not in lefts]
        if lefts and rights:
            to_left = grid.distance_mm(np.isin(labels, lefts))
            return part & (to_left < grid.distance_mm(np.isin(labels, rights)))
    halved = np.zeros_like(part)
    voxels = np.argwhere(part)
    halved[tuple(voxels[grid.points_mm(voxels)[:, 0] > midline_mm].T)] = True
    return halved


@given(st.data())
def test_lungs_are_parted_in_their_boxes_as_in_the_volume(data: st.DataObject) -> None:
    grid = data.draw(grids())
    air = data.draw(shapes(grid))
    body = data.draw(shapes(grid)) | air
    if not air.any():
        return

    found = lungs._sides(air, body, grid)

    assert np.array_equal(found, sides(air, body, grid))


@pytest.mark.parametrize("spacing_mm", [2.0, 2.1, 2.390625, 2.4])
def test_two_balls_that_touch_are_parted_in_their_box_as_in_the_volume(spacing_mm: float) -> None:
    grid = coarse((30, 34, 61), (spacing_mm, 2.0, spacing_mm))
    z, y, x = np.indices(grid.shape)
    air = ((x - 21) ** 2 + (y - 17) ** 2 + (z - 13) ** 2 < 110) | (
        (x - 39) ** 2 + (y - 17) ** 2 + (z - 15) ** 2 < 100
    )
    body = np.ones(grid.shape, bool)

    left, right = lungs._sides(air, body, grid)

    assert left.any()
    assert right.any()
    assert np.array_equal((left, right), sides(air, body, grid))


# --- labels of the source grid -------------------------------------------------------------------


def whole_plane(grid: CoarseGrid, _mask: Mask, _first: int, _last: int, _margin: int) -> Window:
    return slice(0, grid.shape[1]), slice(0, grid.shape[2])


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Blocks of every tissue at any place, also across borders, with voxels of another one in them."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)))
    between, rows, columns = draw(st.tuples(*[st.sampled_from([0.45, 0.8, 1.0, 1.7, 3.0])] * 3))
    values = np.array([-1000, -870, -400, -260, -190, -100, -31, 40, 160, 500], np.int16)
    array = np.full(shape, -1000, np.int16)
    for _ in range(draw(st.integers(0, 7))):
        ends = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
        array[tuple(slice(low, high) for low, high in ends)] = draw(st.sampled_from(values))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    is_noise = random.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3]))
    array[is_noise] = random.choice(values, int(is_noise.sum()))
    grid = Grid(
        shape=shape,
        origin_mm=(-13.1, 7.3, 211.9),
        steps_mm=((0, 0, between), (0, rows, 0), (columns, 0, 0)),
        frame_of_reference_uid="2.25.1",
    )
    return Volume(array=array, grid=grid)


@given(volumes())
def test_labels_are_those_of_whole_planes(volume: Volume) -> None:
    labels = label_tissues(volume, Stopwatch())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoarseGrid, "window", whole_plane)
        assert np.array_equal(labels, label_tissues(volume, Stopwatch()))


def test_a_seam_at_the_edge_of_what_is_looked_at_is_no_fat() -> None:
    array = np.full((8, 80, 80), -1000, np.int16)
    array[:, 16:56, 16:64] = 40
    array[:, 58:60, 16:64] = -100  # the outer half of the last blocks that the body may reach
    grid = Grid(
        shape=array.shape,
        origin_mm=(-13.1, 7.3, 211.9),
        steps_mm=((0, 0, 2.0), (0, 0.45, 0), (0.45, 0, 0)),
        frame_of_reference_uid="2.25.1",
    )

    labels = label_tissues(Volume(array=array, grid=grid), Stopwatch())

    assert set(np.unique(labels[:, 58:60, 16:64])) == {Tissue.OTHER_BODY}
