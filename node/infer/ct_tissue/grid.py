"""The coarse grid on which shapes are decided, and morphology in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from node.domain.grid import Grid
from node.infer.volume import VoxelArray

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint32]
Floats32 = NDArray[np.float32]
Box = tuple[slice, slice, slice]  # a block of a coarse array
Window = tuple[slice, slice]  # rows and columns of a coarse array

_ITK: Any = SimpleITK  # its functions carry no types

COARSE_MM = 2.0
_AIR_HU = -1024.0  # below it lies only the padding outside the field of view


@dataclass(frozen=True, kw_only=True)
class CoarseGrid:
    """Every voxel stands for a block of ``factors`` source voxels.

    Args:
        shape: Of the coarse grid; the last block of an axis may hang over the edge.
        full: The source grid.
    """

    full: Grid
    factors: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, full: Grid) -> CoarseGrid:
        """The grid whose voxels come closest to 2 mm; coarser axes stay as they are."""
        factors = [max(1, round(COARSE_MM / spacing)) for spacing in full.spacing_mm]
        shape = [-(-n // factor) for n, factor in zip(full.shape, factors, strict=True)]
        return cls(full=full, factors=_triple(factors), shape=_triple(shape))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a coarse voxel along each axis."""
        a, b, c = (s * f for s, f in zip(self.full.spacing_mm, self.factors, strict=True))
        return (a, b, c)

    @property
    def voxel_ml(self) -> float:
        """Volume of a coarse voxel."""
        return self.full.voxel_ml * float(np.prod(self.factors))

    @cached_property
    def axial_axis(self) -> int:
        """The array axis closest to the patient's long axis."""
        steps = np.array(self.full.steps_mm)
        directions = steps / np.linalg.norm(steps, axis=1, keepdims=True)
        return int(np.argmax(np.abs(directions[:, 2])))

    @cached_property
    def filling_axis(self) -> int:
        """The axis across whose planes holes are closed: axial, or the acquisition's in a slab.

        The front and back of a coronal slab cut the lungs open; within its planes they are whole.
        """
        extents_mm = [n * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        thinnest = int(np.argmin(extents_mm))
        return thinnest if extents_mm[thinnest] < 100.0 else self.axial_axis

    def ml(self, mask: Mask) -> float:
        """Volume of a mask of this grid."""
        return float(np.count_nonzero(mask)) * self.voxel_ml

    def lps_mm(self, mask: Mask, box: Box | None = None) -> NDArray[np.float64]:
        """Patient coordinates of the voxels of a mask, which may fill a box alone; shape (n, 3)."""
        index = np.argwhere(mask)
        return self.points_mm(index if box is None else index + [axis.start for axis in box])

    def points_mm(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Patient coordinates of coarse voxel indices, shape (n, 3)."""
        factors = np.array(self.factors)
        affine = self.full.affine_lps
        centres = index * factors + (factors - 1) / 2
        lps: NDArray[np.float64] = centres @ affine[:3, :3].T + affine[:3, 3]
        return lps

    def shrunk(self, array: VoxelArray) -> Floats32:
        """The mean of each block, with padding outside the field of view taken for air."""
        coarse = np.empty(self.shape, np.float32)
        slices, rows, columns = self.factors
        over = [
            (0, n * f - m) for n, f, m in zip(self.shape, self.factors, array.shape, strict=True)
        ]
        for k in range(self.shape[0]):
            block = np.maximum(array[k * slices : (k + 1) * slices], _AIR_HU).mean(
                axis=0, dtype=np.float32
            )
            block = np.pad(block, over[1:], mode="edge")
            tiles = block.reshape(self.shape[1], rows, self.shape[2], columns)
            coarse[k] = tiles.mean(axis=(1, 3))
        return coarse

    # --- boxes -----------------------------------------------------------------------------------

    def around(self, box: Box) -> Box:
        """The box and one voxel more on each side, as far as the grid goes.

        What lies nearest to a voxel of the mask in a box, and is not of the mask, lies in there.
        """
        a, b, c = (
            slice(max(axis.start - 1, 0), min(axis.stop + 1, n))
            for axis, n in zip(box, self.shape, strict=True)
        )
        return a, b, c

    def measurable(self, box: Box) -> Box:
        """The box, whole along axes where distances in it would be rounded otherwise than in the grid.

        ITK multiplies index and spacing in single precision.
        """
        a, b, c = (
            axis if _is_exact(spacing, n) else slice(0, n)
            for axis, spacing, n in zip(box, self.spacing_mm, self.shape, strict=True)
        )
        return a, b, c

    # --- morphology ----------------------------------------------------------------------------

    def distance_mm(self, mask: Mask) -> Floats32:
        """Distance of each voxel centre to the nearest voxel centre of the mask."""
        if not mask.any():
            return np.full(mask.shape, np.inf, np.float32)
        distance = _ITK.SignedMaurerDistanceMap(
            self.image(mask), squaredDistance=False, useImageSpacing=True
        )
        outside: Floats32 = np.maximum(_ITK.GetArrayFromImage(distance), np.float32(0))
        return outside

    def dilated(self, mask: Mask, radius_mm: float) -> Mask:
        """The mask and everything within the radius."""
        return self.distance_mm(mask) <= radius_mm

    def eroded(self, mask: Mask, radius_mm: float) -> Mask:
        """What lies deeper than the radius; the edge of the volume is no surface."""
        return mask & (self.distance_mm(~mask) > radius_mm)

    def opened(self, mask: Mask, radius_mm: float) -> Mask:
        """The mask without what is thinner than twice the radius."""
        return self.dilated(self.eroded(mask, radius_mm), radius_mm) & mask

    def closed(self, mask: Mask, radius_mm: float) -> Mask:
        """The mask with its gaps narrower than twice the radius."""
        return self.eroded(self.dilated(mask, radius_mm), radius_mm) | mask

    def bordered(self, mask: Mask) -> Mask:
        """The mask and the blocks next to it, along the axes where a block is several voxels.

        A surface can lie a block further out on the source grid only where blocks are coarser.
        """
        wide = mask
        for axis, factor in enumerate(self.factors):
            if factor == 1:
                continue
            narrow = np.moveaxis(wide, axis, 0)
            grown = narrow.copy()
            grown[1:] |= narrow[:-1]
            grown[:-1] |= narrow[1:]
            wide = np.moveaxis(grown, 0, axis)
        return wide

    def cored(self, mask: Mask) -> Mask:
        """The mask without the blocks that its surface may pass through."""
        return ~self.bordered(~mask)

    def components(self, mask: Mask) -> tuple[Labels, list[int]]:
        """Connected components numbered from 1, the largest first, and their sizes in voxels."""
        found = _ITK.RelabelComponent(_ITK.ConnectedComponent(self.image(mask)))
        labels = _ITK.GetArrayFromImage(found).astype(np.uint32, copy=False)
        return labels, np.bincount(labels.ravel())[1:].tolist()

    def filled(self, mask: Mask, axis: int) -> Mask:
        """The mask with its holes filled, plane by plane across the axis."""
        filled = [plane_filled(plane) for plane in np.moveaxis(mask, axis, 0)]
        return np.stack(filled, axis)

    def image(self, values: Mask | Floats32) -> Any:
        """A mask or values as an ITK image whose axes are millimetres along the array's own axes."""
        image = _ITK.GetImageFromArray(values.view(np.uint8) if values.dtype == bool else values)
        image.SetSpacing(self.spacing_mm[::-1])
        return image

    # --- back to the source grid ---------------------------------------------------------------

    def window(self, mask: Mask, first: int, last: int, margin: int) -> Window | None:
        """Rows and columns that hold a mask on source slices ``first`` to ``last`` (not included).

        Args:
            margin: How many source voxels lie around it at least, as far as the grid goes.
        Returns:
            None where nothing of the mask lies there.
        """
        slices, *factors = self.factors
        planes = mask[first // slices : -(-last // slices)]
        seen: Mask = np.logical_or.reduce(planes, axis=0)
        if not seen.any():
            return None
        rows, columns = (
            slice(max(held[0] - wide, 0), held[-1] + 1 + wide)
            for held, wide in zip(
                (np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))),
                (-(-margin // factor) for factor in factors),
                strict=True,
            )
        )
        return rows, columns

    def full_window(self, window: Window) -> Window:
        """The same rows and columns of the source grid."""
        rows, columns = (
            slice(axis.start * factor, min(axis.stop * factor, n))
            for axis, factor, n in zip(window, self.factors[1:], self.full.shape[1:], strict=True)
        )
        return rows, columns

    def full_blocks(self, mask: Mask, first: int, last: int, window: Window) -> Mask:
        """The mask on source slices ``first`` to ``last`` (not included), block by block."""
        slices, rows, columns = self.factors
        index = np.arange(first, last) // slices
        blocks = mask[:, *window][index].repeat(rows, axis=1).repeat(columns, axis=2)
        held = [axis.stop - axis.start for axis in self.full_window(window)]
        return blocks[:, : held[0], : held[1]]

    def full_values(self, values: Any, first: int, last: int) -> Floats32:
        """Values between coarse voxel centres on source slices ``first`` to ``last``, linear."""
        spacing = self.full.spacing_mm
        start = [-(f - 1) / 2 * s for f, s in zip(self.factors, spacing, strict=True)]
        start[0] += first * spacing[0]
        size = (last - first, *self.full.shape[1:])
        resampled = _ITK.Resample(
            values,
            size[::-1],
            _ITK.Transform(),
            _ITK.sitkLinear,
            start[::-1],
            spacing[::-1],
            values.GetDirection(),
            0.0,
            _ITK.sitkFloat32,
        )
        between: Floats32 = _ITK.GetArrayFromImage(resampled)
        return between

    def signed_image(self, mask: Mask, limit_mm: float = 20.0) -> Any:
        """An ITK image of the signed distance to the surface, negative inside, for ``full_values``."""
        inside, outside = self.distance_mm(~mask), self.distance_mm(mask)
        return self.image(np.clip(outside - inside, -limit_mm, limit_mm))


def boxes_of(labels: Labels, number: int) -> list[Box]:
    """The least block that holds each component, from 1 to ``number``, in one pass."""
    least = np.full((number + 1, 3), max(labels.shape))
    beyond = np.zeros((number + 1, 3), np.int64)
    for k, plane in enumerate(labels):
        rows, columns = np.nonzero(plane)
        component = plane[rows, columns]
        for axis, index in enumerate((np.full_like(rows, k), rows, columns)):
            np.minimum.at(least[:, axis], component, index)
            np.maximum.at(beyond[:, axis], component, index + 1)
    ends = zip(least[1:].tolist(), beyond[1:].tolist(), strict=True)
    return [
        (slice(a, stop_a), slice(b, stop_b), slice(c, stop_c))
        for (a, b, c), (stop_a, stop_b, stop_c) in ends
    ]


def plane_filled(plane: Mask) -> Mask:
    """A mask of one plane with its holes filled."""
    image = _ITK.GetImageFromArray(plane.astype(np.uint8))
    filled: Mask = _ITK.GetArrayFromImage(_ITK.BinaryFillhole(image)) > 0
    return filled


def plane_components(plane: Mask) -> Labels:
    """Connected components of one plane, numbered from 1."""
    image = _ITK.GetImageFromArray(plane.astype(np.uint8))
    labels: Labels = _ITK.GetArrayFromImage(_ITK.ConnectedComponent(image))
    return labels


def _is_exact(spacing_mm: float, voxels: int) -> bool:
    """Whether each multiple of a spacing, up to so many, is a number of single precision."""
    single = np.float32(spacing_mm)
    index = np.arange(voxels)
    return bool(np.all(index.astype(np.float32) * single == index * np.float64(single)))


def _triple(values: list[int]) -> tuple[int, int, int]:
    a, b, c = values
    return (a, b, c)
