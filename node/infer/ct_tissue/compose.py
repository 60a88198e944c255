"""The labels of the source grid: each voxel by its own Hounsfield units inside coarse shapes."""

from __future__ import annotations

from enum import IntEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from node.infer.ct_tissue.body import BODY_HU, BONE_HU, FAT_HU, TRABECULAR_HU
from node.infer.ct_tissue.grid import CoarseGrid, Mask
from node.infer.volume import VoxelArray

_SLAB_SLICES = 16
_REACH = 2  # how far, in voxels, what decides of one may lie from it within its slice
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


def compose(
    array: VoxelArray,
    grid: CoarseGrid,
    *,
    body: Mask,
    inner: Mask,
    bone: Mask,
    marrow: Mask,
    left_lung: Mask,
    right_lung: Mask,
    airways: Mask,
    airway_limit_hu: float,
) -> NDArray[np.uint8]:
    """Label every voxel, the particular over the general, from shapes on the coarse grid.

    A few slices at a time, so that memory does not grow with the series, and of those what the body
    lies in.
    """
    # shapes with the blocks beside them that their surfaces may pass through, and without
    near_body, body_core = grid.bordered(body), grid.cored(body)
    inner_surface = grid.signed_image(inner)
    near_bone, near_marrow = grid.bordered(bone), grid.bordered(marrow) & bone
    near_right = grid.bordered(right_lung) & ~left_lung
    near_left = grid.bordered(left_lung) & ~near_right
    lung_core = grid.cored(left_lung | right_lung)
    near_airways = grid.bordered(airways)
    has_seams = max(grid.full.spacing_mm[1:]) <= _SEAM_MM
    composed = np.zeros(array.shape, np.uint8)
    for first in range(0, len(array), _SLAB_SLICES):
        last = min(first + _SLAB_SLICES, len(array))
        window = grid.window(near_body, first, last, _REACH)
        if window is None:
            continue
        of_full = (slice(first, last), *grid.full_window(window))
        labels, hu = composed[of_full], array[of_full]
        full = partial(grid.full_blocks, first=first, last=last, window=window)
        in_body = full(body_core) | (full(near_body) & (hu > BODY_HU))
        labels[in_body] = Tissue.OTHER_BODY
        soft, fat = _without_speckle(
            in_body & (hu > FAT_HU[1]), in_body & (hu >= FAT_HU[0]) & (hu <= FAT_HU[1])
        )
        labels[soft] = Tissue.SOFT_TISSUE
        if has_seams:
            fat &= ~_partial_volume(fat, hu)
        is_inner = (grid.full_values(inner_surface, first, last) <= 0)[:, *of_full[1:]]
        labels[fat & is_inner] = Tissue.INNER_FAT
        labels[fat & ~is_inner] = Tissue.SUBCUTANEOUS_FAT
        is_bone = (full(near_bone) & (hu > BONE_HU)) | full(marrow)
        is_bone |= full(near_marrow) & (hu > TRABECULAR_HU)
        labels[in_body & is_bone] = Tissue.BONE
        is_lung = (hu < _LUNG_HU) | full(lung_core)
        labels[full(near_left) & is_lung] = Tissue.LEFT_LUNG
        labels[full(near_right) & is_lung] = Tissue.RIGHT_LUNG
        in_airways = full(airways) & (hu < _AIRWAY_WALL_HU)
        in_airways |= full(near_airways) & (hu < airway_limit_hu)
        labels[in_airways] = Tissue.AIRWAYS
    return composed


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
