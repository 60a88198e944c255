"""The patient without table, clothes and lines; and the region inside the muscular wall."""

from __future__ import annotations

import numpy as np

from node.infer.ct_tissue.grid import CoarseGrid, Floats32, Mask

BODY_HU = -300.0
FAT_HU = (-190.0, -30.0)

_THIN_MM = 4.0  # table shells, blankets and cables are thinner than twice this
_LIMB_SHARE = 0.02  # of the largest part; smaller ones are things
_MUSCLE_HU = (0.0, 120.0)
_SKIN_MM = 5.0
_SEPTUM_MM = 3.0
_WALL_GAP_MM = 12.0


def find_body(hu: Floats32, grid: CoarseGrid) -> Mask:
    """The largest body and the limbs beside it, holes filled.

    A part beside the largest counts as a limb when a fifth of it is as dense as muscle: foam,
    plastic and cloth are not.
    """
    tissue = hu > BODY_HU
    thick = grid.opened(tissue, _THIN_MM)
    labels, sizes = grid.components(thick)
    if not sizes:
        return np.zeros(grid.shape, bool)
    keep = np.zeros(len(sizes) + 1, bool)
    keep[1] = True
    for number, size in enumerate(sizes[1:], 2):
        if size < _LIMB_SHARE * sizes[0]:
            break
        values = hu[labels == number]
        keep[number] = np.mean((values > _MUSCLE_HU[0]) & (values < _MUSCLE_HU[1])) > 0.2
    whole = grid.dilated(keep[labels], _THIN_MM) & tissue
    return grid.filled(whole, grid.filling_axis)


def find_inner_region(hu: Floats32, body: Mask, grid: CoarseGrid) -> Mask:
    """What the muscular wall encloses: fat outside it is subcutaneous, fat inside is not."""
    is_fat = (hu > FAT_HU[0]) & (hu < FAT_HU[1])
    lean = grid.eroded(body, _SKIN_MM) & ~is_fat
    wall = grid.closed(grid.opened(lean, _SEPTUM_MM), _WALL_GAP_MM)
    return grid.filled(wall, grid.axial_axis) & body
