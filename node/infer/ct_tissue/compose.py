"""The labels of the source grid: each voxel by its own Hounsfield units inside coarse shapes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from node.infer.ct_tissue.body import BODY_HU, FAT_HU
from node.infer.ct_tissue.dense import BONE_HU, TRABECULAR_HU
from node.infer.ct_tissue.grid import CoarseGrid, Mask
from node.infer.volume import VoxelArray

_SLAB_SLICES = 16
_LUNG_HU = -300.0
_AIRWAY_WALL_HU = -700.0
_GAS_HU = -250.0
_SEAM_MM = 1.5  # in larger voxels two of them may be a real layer of fat


class Tissue(IntEnum):
    """Label values of models/ct_tissue/labels.csv."""

    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    AIRWAYS = 3
    BONE = 4
    SOFT_TISSUE = 5
    SUBCUTANEOUS_FAT = 6
    INNER_FAT = 7
    OTHER_BODY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What was found on the coarse grid."""

    body: Mask
    inner: Mask
    bone: Mask
    marrow: Mask
    left_lung: Mask
    right_lung: Mask
    airways: Mask
    airway_limit_hu: float


def compose(array: VoxelArray, shapes: Shapes, grid: CoarseGrid) -> NDArray[np.uint8]:
    """Label every voxel; a few slices at a time, so that memory does not grow with the series."""
    near = {
        name: grid.bordered(mask)
        for name, mask in (
            ("body", shapes.body),
            ("bone", shapes.bone),
            ("left", shapes.left_lung),
            ("right", shapes.right_lung),
            ("airways", shapes.airways),
            ("marrow", shapes.marrow),
        )
    }
    near["right"] &= ~shapes.left_lung
    near["left"] &= ~(shapes.right_lung | near["right"]) | shapes.left_lung
    core = grid.cored(shapes.body)
    lung_core = grid.cored(shapes.left_lung | shapes.right_lung)
    inner = grid.signed_image(shapes.inner)
    has_thin_voxels = max(grid.full.spacing_mm[1:]) <= _SEAM_MM
    labels = np.zeros(array.shape, np.uint8)
    for first in range(0, array.shape[0], _SLAB_SLICES):
        last = min(first + _SLAB_SLICES, array.shape[0])

        def full(mask: Mask, first: int = first, last: int = last) -> Mask:
            return grid.full_blocks(mask, first, last)

        hu = array[first:last]
        slab = labels[first:last]
        in_body = full(core) | (full(near["body"]) & (hu > BODY_HU))
        slab[in_body] = Tissue.OTHER_BODY
        soft, fat = _without_speckle(
            in_body & (hu > FAT_HU[1]), in_body & (hu >= FAT_HU[0]) & (hu <= FAT_HU[1])
        )
        slab[soft] = Tissue.SOFT_TISSUE
        if has_thin_voxels:
            fat &= ~_partial_volume(fat, hu)
        is_inner = grid.full_values(inner, first, last) <= 0
        slab[fat & is_inner] = Tissue.INNER_FAT
        slab[fat & ~is_inner] = Tissue.SUBCUTANEOUS_FAT
        bone = (full(near["bone"]) & (hu > BONE_HU)) | full(shapes.marrow)
        bone |= full(near["marrow"] & shapes.bone) & (hu > TRABECULAR_HU)
        slab[in_body & bone] = Tissue.BONE
        is_lung = (hu < _LUNG_HU) | full(lung_core)
        slab[full(near["left"]) & is_lung] = Tissue.LEFT_LUNG
        slab[full(near["right"]) & is_lung] = Tissue.RIGHT_LUNG
        airways = full(shapes.airways) & (hu < _AIRWAY_WALL_HU)
        airways |= full(near["airways"]) & (hu < shapes.airway_limit_hu)
        slab[airways] = Tissue.AIRWAYS
    return labels


def _without_speckle(soft: Mask, fat: Mask) -> tuple[Mask, Mask]:
    """Soft tissue and fat after single noisy voxels have joined their surroundings."""
    count = _neighbourhood(fat)
    lonely, enclosed = fat & (count <= 2), soft & (count >= 7)
    around = _neighbourhood(soft)
    lonely &= around >= 6
    return (soft & ~enclosed) | lonely, (fat & ~lonely) | enclosed


def _neighbourhood(mask: Mask) -> NDArray[np.uint8]:
    """How many of the nine voxels around each, within its slice, belong to the mask."""
    single = mask.view(np.uint8)
    column = single.copy()
    column[:, 1:] += single[:, :-1]
    column[:, :-1] += single[:, 1:]
    square = column.copy()
    square[:, :, 1:] += column[:, :, :-1]
    square[:, :, :-1] += column[:, :, 1:]
    return square


def _partial_volume(fat: Mask, hu: VoxelArray) -> Mask:
    """Seams of one or two voxels between air and tissue, which only look like fat."""
    thin = fat & ~_grown(~_grown(~fat))
    return thin & _grown(_grown(hu < _GAS_HU))


def _grown(mask: Mask) -> Mask:
    """The mask and its neighbours within each slice, a square of three by three."""
    grown = mask.copy()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    wide = grown.copy()
    wide[:, :, 1:] |= grown[:, :, :-1]
    wide[:, :, :-1] |= grown[:, :, 1:]
    return wide
