"""Four series of one brain become the image that networks trained on BraTS know.

There every image is skull-stripped, registered, and on an axial grid of 240 x 240 x 155 voxels of
1 mm whose axes run to the left, to the back and upwards. The same is made here around the brain of the
series with contrast medium, without an atlas: the other three are registered to it rigidly and each
series is interpolated once. Outside the brain everything is 0; scaling is left to the network's own
preprocessing, which takes what is not 0 for brain.

The brain is found in T1c: there the labels end up, no registration stands in between, and it is
the series that protocols measure finest. The mask is moved to 1 mm by nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.grid import Floats, Grid
from node.infer.brain.brainchop import skull_strip
from node.infer.brain.register import IDENTITY, align, resampled
from node.infer.bundle.image import Prepared
from node.infer.report import Report
from node.infer.volume import Volume

REVISION = 1

CHANNELS = ("t1c", "t1", "t2", "flair")
LEAST_SHAPE = (155, 240, 240)  # slices, rows, columns of 1 mm, as in BraTS
_MARGIN_MM = 2


def prepare(
    volumes: Mapping[str, Volume], files: Mapping[str, Path], device: str, report: Report
) -> Prepared:
    """The four volumes in one skull-stripped image of 1 mm.

    Args:
        volumes: By role: t1c, t1, t2, flair.
        files: The files of the network mindgrab, by their declared paths.
    Raises:
        JobRefused: A role is missing, no brain is found, or a series cannot be registered.
    """
    missing = [role for role in CHANNELS if role not in volumes]
    if missing:
        raise JobRefused(f"no series for {', '.join(missing)}: all four are needed")
    first = volumes[CHANNELS[0]]
    brain = skull_strip(first, files, device=device, report=report)
    with report.stage("register"):
        moves = {role: align(first, volumes[role], role, report) for role in CHANNELS[1:]}
    with report.stage("resample"):
        return gathered(volumes, brain, moves)


def gathered(
    volumes: Mapping[str, Volume], brain: NDArray[np.bool_], moves: Mapping[str, Floats]
) -> Prepared:
    """The image of volumes whose brain and movements are known: T1c, T1, T2, FLAIR.

    The way back gives each voxel of T1c all bits of the nearest voxel, so that nested regions stay
    nested.

    Args:
        brain: On the grid of T1c.
        moves: Role -> matrix from a point of T1c to that point of the series, LPS mm.
    """
    source = volumes[CHANNELS[0]].grid
    grid = _grid_around(brain, source)
    inside = resampled(brain.view(np.uint8), source, grid, way="nearest")

    def channel(role: str) -> Volume:
        volume = volumes[role]
        values = resampled(
            volume.array.astype(np.float32),
            volume.grid,
            grid,
            move=moves.get(role, IDENTITY),
            way="linear",
        )
        return Volume(array=values * inside, grid=grid)

    return Prepared(
        channels=tuple(channel(role) for role in CHANNELS),
        back=lambda labels: resampled(labels, grid, source, way="nearest"),
    )


def _grid_around(brain: NDArray[np.bool_], source: Grid) -> Grid:
    """At least the size of BraTS, larger where the brain is, with the brain in the middle."""
    index = [np.flatnonzero(brain.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    corners = np.array(
        np.meshgrid(*[(int(at[0]) - 0.5, int(at[-1]) + 0.5) for at in index])
    ).reshape(3, -1)
    points_mm = source.affine_lps[:3, :3] @ corners + source.affine_lps[:3, 3:]
    low, high = points_mm.min(axis=1), points_mm.max(axis=1)
    needed = np.ceil(high - low).astype(int)[::-1] + 2 * _MARGIN_MM  # z, y, x: slice, row, column
    slices, rows, columns = (
        max(least, int(n)) for least, n in zip(LEAST_SHAPE, needed, strict=True)
    )
    x, y, z = (low + high) / 2 - (np.array([columns, rows, slices]) - 1) / 2
    return Grid(
        shape=(slices, rows, columns),
        origin_mm=(float(x), float(y), float(z)),
        steps_mm=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        frame_of_reference_uid=source.frame_of_reference_uid,
    )
