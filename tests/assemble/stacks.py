"""Frames with known places, for tests of the gate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.domain.frames import Frame

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN_MM = np.array([-120.5, 33.25, -412.75])


def frame(number: int, place_mm: Sequence[float], **values: object) -> Frame:
    settings: dict[str, object] = {
        "sop_instance_uid": f"1.2.3.{number}",
        "rows": 64,
        "columns": 48,
        "position_mm": tuple(float(v) for v in place_mm),
        "orientation": AXIAL,
        "pixel_spacing_mm": (0.8, 0.7),
        "frame_of_reference_uid": "1.2.9",
        **values,
    }
    return Frame(**settings)  # type: ignore[arg-type]


def stack_at(
    depths_mm: Sequence[float], rotation: NDArray[np.float64] | None = None, **values: object
) -> list[Frame]:
    """One frame per depth along the normal; the whole grid turned by the rotation."""
    turn = np.eye(3) if rotation is None else rotation
    row, column, normal = (turn @ axis for axis in np.eye(3))
    orientation = tuple(float(v) for v in (*row, *column))
    return [
        frame(k, ORIGIN_MM + depth * normal, **{"orientation": orientation, **values})
        for k, depth in enumerate(depths_mm)
    ]


def regular(count: int = 10, spacing_mm: float = 2.5, **values: object) -> list[Frame]:
    return stack_at([k * spacing_mm for k in range(count)], **values)
