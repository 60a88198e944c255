"""The patient without table, clothes and lines; the region inside the muscular wall; and bone."""

from __future__ import annotations

import numpy as np

from node.infer.ct_tissue.grid import (
    CoarseGrid,
    Floats32,
    Mask,
    boxes_of,
    plane_components,
    plane_filled,
)

BODY_HU = -300.0
FAT_HU = (-190.0, -30.0)
BONE_HU = 150.0
TRABECULAR_HU = 80.0

_THIN_MM = 4.0  # table shells, blankets and cables are thinner than twice this
_LIMB_SHARE = 0.02  # of the largest part; smaller ones are things
_MUSCLE_HU = (0.0, 120.0)
_SKIN_MM = 5.0
_SEPTUM_MM = 3.0
_WALL_GAP_MM = 12.0

_DENSE_HU = 200.0
_CORTICAL_HU = 450.0  # enhanced vessels and kidneys stay below it in the usual phases
_CORTICAL_SHARE = 0.02
_SMALLEST_ML = 0.2
_GAP_MM = 6.0
_FATTY_MARROW_HU = -20.0


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
    large = sum(size >= _LIMB_SHARE * sizes[0] for size in sizes)
    beside = boxes_of(labels, len(sizes))[1:large] if large > 1 else []
    for number, box in enumerate(beside, 2):
        values = hu[box][labels[box] == number]
        keep[number] = np.mean((values > _MUSCLE_HU[0]) & (values < _MUSCLE_HU[1])) > 0.2
    whole = grid.dilated(keep[labels], _THIN_MM) & tissue
    return grid.filled(whole, grid.filling_axis)


def find_inner_region(hu: Floats32, body: Mask, grid: CoarseGrid) -> Mask:
    """What the muscular wall encloses: fat outside it is subcutaneous, fat inside is not."""
    is_fat = (hu > FAT_HU[0]) & (hu < FAT_HU[1])
    lean = grid.eroded(body, _SKIN_MM) & ~is_fat
    wall = grid.closed(grid.opened(lean, _SEPTUM_MM), _WALL_GAP_MM)
    return grid.filled(wall, grid.axial_axis) & body


def find_bone(hu: Floats32, body: Mask, grid: CoarseGrid) -> tuple[Mask, Mask]:
    """Dense components with a cortex, and the marrow inside; the spinal canal stays out.

    Bone is told from contrast medium by how dense its densest part is.
    """
    labels, sizes = grid.components(body & (hu > _DENSE_HU))
    cortical = np.bincount(labels[hu > _CORTICAL_HU], minlength=len(sizes) + 1)
    voxels = np.array([1, *sizes])
    keep = (cortical >= _CORTICAL_SHARE * voxels) & (voxels * grid.voxel_ml >= _SMALLEST_ML)
    keep[0] = False
    surface: Mask = keep[labels]
    shell = grid.closed(surface, _GAP_MM) & body & (surface | (hu > TRABECULAR_HU))
    return surface, (shell | _marrow_in(hu, shell, grid)) & ~surface


def _marrow_in(hu: Floats32, shell: Mask, grid: CoarseGrid) -> Mask:
    """Holes of the shell that hold marrow by their mean: not the cord, not the brain."""
    planes = np.moveaxis(shell, grid.axial_axis, 0)
    values = np.moveaxis(hu, grid.axial_axis, 0)
    marrow = np.zeros_like(planes)
    for k, plane in enumerate(planes):
        if not plane.any():
            continue
        holes = plane_filled(plane) & ~plane
        if not holes.any():
            continue
        labels = plane_components(holes)
        sums = np.bincount(labels.ravel(), weights=values[k].ravel())
        means = sums / np.maximum(np.bincount(labels.ravel()), 1)
        is_marrow = (means > TRABECULAR_HU) | (means < _FATTY_MARROW_HU)
        is_marrow[0] = False
        marrow[k] = is_marrow[labels]
    return np.moveaxis(marrow, 0, grid.axial_axis)
