"""Resampling along the axes of a volume, to the same voxels as MONAI's, in a fraction of its memory.

``SpatialResample`` writes down where each output voxel comes from: three float64 numbers per voxel,
2.5 GB for 512 x 512 x 400, beside a float64 copy of the image. Between two grids with parallel
axes, which is what ``Spacing`` and its inverse ask for, the place along one axis does not depend on
the others: three short lists say it all. Where axes are not quite parallel (an oblique series whose
affine is rounded to float32) and it might matter, voxels get places of their own, some planes at a
time. ``Lean`` takes the place of MONAI's resampler inside a bundle's own ``Spacing``; splines and
reflected borders go MONAI's way.

Places are computed by the same steps as MONAI's, because with a ratio of two every second voxel lies
half-way between two labels and rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.networks.utils import to_norm_affine
from monai.transforms.compose import Compose
from monai.transforms.inverse import TraceableTransform
from monai.transforms.spatial.array import Spacing, SpatialResample
from monai.transforms.spatial.dictionary import Spacingd
from monai.transforms.utils_pytorch_numpy_unification import allclose
from monai.utils.enums import TraceKeys
from monai.utils.misc import fall_back_tuple
from torch import Tensor

_UNCHANGED = 1e-3  # MONAI's AFFINE_TOL: grids that differ by less are one
_NOTHING = 1e-9  # voxels; a rounding error
_CHUNK_BYTES = 1 << 26


def make_lean(transform: object) -> None:
    """Let every ``Spacing`` in a transform resample leanly; nothing else about it changes."""
    if isinstance(transform, Compose):
        for part in transform.transforms:
            make_lean(part)
    elif isinstance(transform, Spacingd):
        make_lean(transform.spacing_transform)
    elif isinstance(transform, Spacing) and type(transform.sp_resample) is SpatialResample:
        own = transform.sp_resample
        transform.sp_resample = Lean(
            mode=own.mode,
            padding_mode=own.padding_mode,
            align_corners=own.align_corners,
            dtype=own.dtype,
            lazy=own.lazy,
        )


class Lean(SpatialResample):
    """MONAI's resampler, axis by axis where that gives the same voxels.

    Nearest neighbours keep the type of what they are taken from, so that labels stay labels.
    """

    def __call__(
        self,
        img: Tensor,
        dst_affine: Any = None,
        spatial_size: Any = None,
        mode: Any = None,
        padding_mode: Any = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> Tensor:
        """Resample onto ``dst_affine``; arguments as MONAI's."""
        job = _job(
            img,
            dst_affine,
            spatial_size,
            _name_of(mode or self.mode),
            _name_of(padding_mode or self.padding_mode),
            bool(self.align_corners if align_corners is None else align_corners),
        )
        if job is None or (self.lazy if lazy is None else lazy):
            return super().__call__(
                img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy
            )
        meta = TraceableTransform.track_transform_meta(
            img,
            sp_size=torch.tensor(job.size),
            affine=job.xform,
            extra_info={
                "dtype": "float64",
                "mode": job.mode,
                "padding_mode": job.padding_mode,
                "align_corners": job.align_corners,
                "src_affine": job.src_affine,
            },
            orig_size=img.shape[1:],
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        resampled = MetaTensor(job.run(img.as_subclass(Tensor)))
        resampled.copy_meta_from(meta)  # type: ignore[no-untyped-call]
        return resampled

    def inverse(self, data: Tensor) -> Tensor:
        """Resample back onto the grid that ``data`` was made from."""
        transform = self.pop_transform(data)
        given = dict(transform[TraceKeys.EXTRA_INFO])
        align_corners = given.get("align_corners")
        with self.trace_transform(False):
            return self(
                data,
                dst_affine=given["src_affine"],
                spatial_size=transform[TraceKeys.ORIG_SIZE],
                mode=given["mode"],
                padding_mode=given["padding_mode"],
                align_corners=False if align_corners == TraceKeys.NONE else align_corners,
                dtype=torch.float64,
            )


def _name_of(choice: Any) -> str:
    return str(getattr(choice, "value", choice))


def _job(
    img: Tensor,
    dst_affine: Any,
    spatial_size: Any,
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> _Resampling | None:
    """What to do, where it can be done axis by axis and changes anything at all."""
    if not isinstance(img, MetaTensor) or img.ndim != 4 or img.pending_operations:
        return None
    if dst_affine is None or spatial_size is None or mode not in ("bilinear", "nearest"):
        return None
    if padding_mode not in ("border", "zeros"):
        return None
    source = torch.as_tensor(img.affine, dtype=torch.float64)
    target = torch.as_tensor(np.asarray(dst_affine), dtype=torch.float64)
    if source.shape != (4, 4) or target.shape != (4, 4):
        return None
    src_size = tuple(img.shape[1:])
    size = tuple(int(n) for n in fall_back_tuple(tuple(spatial_size), src_size, lambda n: n >= 0))
    xform = torch.as_tensor(np.linalg.solve(source.cpu().numpy(), target.cpu().numpy()))
    if size == src_size and (
        allclose(source, target, atol=_UNCHANGED) or allclose(xform, torch.eye(4), atol=_UNCHANGED)
    ):
        return None
    return _Resampling(source, xform, src_size, size, mode, padding_mode, align_corners)


@dataclass(frozen=True)
class _Resampling:
    """One resampling between grids with parallel axes.

    Args:
        xform: Output index -> input index, (4, 4).
    """

    src_affine: Tensor
    xform: Tensor
    src_size: Sequence[int]
    size: Sequence[int]
    mode: str
    padding_mode: str
    align_corners: bool

    def run(self, img: Tensor) -> Tensor:
        """Voxels of shape (C, X, Y, Z) on the other grid."""
        places = [self._places(axis).to(img.device) for axis in range(3)]
        drift = self._drift()
        way: Callable[[Tensor], Tensor]
        if self.mode == "bilinear":
            way = self._blend_voxels if drift >= _NOTHING else partial(self._blend, places=places)
        elif drift > 0.0 and any(
            (((each % 1) - 0.5).abs() <= drift + _NOTHING).any() for each in places
        ):
            way = self._pick_voxels
        else:
            way = partial(self._pick, places=places)
        return torch.stack([way(channel) for channel in img])

    @cached_property
    def _theta(self) -> Tensor:
        """Output place -> input place in [-1, 1], axes counted from the last, (3, 4)."""
        theta = to_norm_affine(
            affine=self.xform[None].to(torch.float64),
            src_size=self.src_size,
            dst_size=self.size,
            align_corners=self.align_corners,
            zero_centered=False,
        )
        turned = [2, 1, 0, 3]  # as grid_sample counts axes
        return theta[0, turned][:, turned][:3]

    def _drift(self) -> float:
        """How far the other axes move a place along one axis, at most, in voxels."""
        square = self.xform[:3, :3].abs()
        across = square - torch.diag(torch.diagonal(square))
        return float((across @ torch.tensor(self.size, dtype=torch.float64)).max())

    def _places(self, axis: int) -> Tensor:
        """Where the output planes of an axis lie in the input, in voxels."""
        row = self._theta[2 - axis]
        return self._in_voxels(self._base(axis) * row[2 - axis] + row[3], axis)

    def _base(self, axis: int) -> Tensor:
        """The planes of an output axis in [-1, 1], as ``affine_grid`` counts them."""
        n = self.size[axis]
        base = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1).double()
        return base if self.align_corners else base * (n - 1) / n

    def _in_voxels(self, grid: Tensor, axis: int) -> Tensor:
        n = self.src_size[axis]
        if self.align_corners:
            return (grid + 1) / 2 * (n - 1)
        return ((grid + 1) * n - 1) / 2

    def _pick(self, channel: Tensor, places: Sequence[Tensor]) -> Tensor:
        for axis in sorted(range(3), key=lambda a: self.size[a] / self.src_size[a]):
            nearest = places[axis].round()
            last = self.src_size[axis] - 1
            channel = channel.index_select(axis, nearest.clamp(0, last).long())
            if self.padding_mode == "zeros":
                outside = ((nearest < 0) | (nearest > last)).nonzero().ravel()
                channel = channel.index_fill(axis, outside, 0)
        return channel

    def _pick_voxels(self, channel: Tensor) -> Tensor:
        """Every voxel's own place, some planes at a time."""
        out = channel.new_empty(tuple(self.size))
        flat = channel.reshape(-1)
        for start, stop in self._chunks(self.size[1] * self.size[2] * 8 * 8):
            places = self._voxel_places(start, stop, channel.device)
            index = torch.zeros_like(places[0], dtype=torch.long)
            inside = torch.ones_like(index, dtype=torch.bool)
            for axis, place in enumerate(places):
                nearest = place.round_()
                last = self.src_size[axis] - 1
                if self.padding_mode == "zeros":
                    inside &= (nearest >= 0) & (nearest <= last)
                index += nearest.clamp_(0, last).long() * self._stride(axis)
            picked = flat[index.ravel()].reshape(index.shape)
            out[start:stop] = picked if self.padding_mode == "border" else picked * inside
        return out

    def _blend_voxels(self, channel: Tensor) -> Tensor:
        """Linear between the eight neighbours of every voxel's own place, some planes at a time."""
        out = torch.empty(tuple(self.size), dtype=torch.float32, device=channel.device)
        flat = channel.reshape(-1)
        for start, stop in self._chunks(self.size[1] * self.size[2] * 8 * 16):
            places = self._voxel_places(start, stop, channel.device)
            axes = [self._neighbours(place, axis) for axis, place in enumerate(places)]
            total = torch.zeros_like(places[0])
            for corner in range(8):
                index = torch.zeros_like(total, dtype=torch.long)
                weight = torch.ones_like(total)
                for axis, (below, above, share) in enumerate(axes):
                    is_above = bool(corner >> axis & 1)
                    index += (above if is_above else below) * self._stride(axis)
                    weight *= share if is_above else 1 - share
                total += weight * flat[index.ravel()].reshape(index.shape).double()
            if self.padding_mode == "zeros":
                for axis, place in enumerate(places):
                    total *= self._inside(place, axis)
            out[start:stop] = total
        return out

    def _stride(self, axis: int) -> int:
        return math.prod(self.src_size[axis + 1 :])

    def _voxel_places(self, start: int, stop: int, device: torch.device) -> list[Tensor]:
        """Where some output planes lie, from the grid that ``affine_grid`` would make of the whole."""
        x, y, z = self._base(0)[start:stop], self._base(1), self._base(2)
        shape = (len(x), len(y), len(z))
        base = torch.ones((*shape, 4), dtype=torch.float64)
        base[..., 0], base[..., 1], base[..., 2] = z, y[:, None], x[:, None, None]
        grid = (base.view(-1, 4) @ self._theta.T).view(*shape, 3).to(device)
        return [self._in_voxels(grid[..., 2 - axis], axis) for axis in range(3)]

    def _blend(self, channel: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Linear along each axis, in float64, some planes at a time."""
        out = torch.empty(tuple(self.size), dtype=torch.float32, device=channel.device)
        for start, stop in self._chunks(self.src_size[1] * self.src_size[2] * 8 * 3):
            part = self._along(channel, places[0][start:stop], 0)
            for axis in (1, 2):
                part = self._along(part, places[axis], axis)
            out[start:stop] = part
        return out

    def _along(self, part: Tensor, places: Tensor, axis: int) -> Tensor:
        below, above, share = self._neighbours(places, axis)
        shape = [-1 if other == axis else 1 for other in range(3)]
        low = part.index_select(axis, below).double()
        low += (part.index_select(axis, above).double() - low) * share.view(shape)
        if self.padding_mode == "zeros":
            low *= self._inside(places, axis).view(shape)
        return low

    def _neighbours(self, places: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        last = self.src_size[axis] - 1
        held = places.clamp(0, last)
        below = held.floor()
        return below.long(), (below + 1).clamp(max=last).long(), held - below

    def _inside(self, places: Tensor, axis: int) -> Tensor:
        """How much of a linear neighbourhood lies in the image; what does not counts as zero."""
        last = self.src_size[axis] - 1
        return (places + 1).clamp(0, 1) * (last + 1 - places).clamp(0, 1)

    def _chunks(self, plane_bytes: int) -> Iterator[tuple[int, int]]:
        step = max(1, _CHUNK_BYTES // plane_bytes)
        for start in range(0, self.size[0], step):
            yield start, min(start + step, self.size[0])
