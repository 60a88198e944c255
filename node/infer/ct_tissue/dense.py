"""Bone with its marrow, told from contrast medium by how dense its densest part is."""

from __future__ import annotations

import numpy as np

from node.infer.ct_tissue.grid import CoarseGrid, Floats32, Mask, plane_components, plane_filled

BONE_HU = 150.0
TRABECULAR_HU = 80.0

_DENSE_HU = 200.0
_CORTICAL_HU = 450.0  # enhanced vessels and kidneys stay below it in the usual phases
_CORTICAL_SHARE = 0.02
_SMALLEST_ML = 0.2
_GAP_MM = 6.0
_FATTY_MARROW_HU = -20.0


def find_bone(hu: Floats32, body: Mask, grid: CoarseGrid) -> tuple[Mask, Mask]:
    """Dense components with a cortex, and the marrow inside; the spinal canal stays out."""
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
