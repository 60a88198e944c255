"""Networks that were taught something: small ones, in minutes, on volumes made by formula.

What they learn is what phantoms show, so a label map that comes back from a node has a truth at every
point of the patient, and a mask that is mirrored, shifted or lost is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.phantoms import CENTRE_MM, HOUNSFIELD, Phantom, Region, region_at

Floats = NDArray[np.float64]

# --- organs of the torso -------------------------------------------------------------------------

# Every border lies between two labels that are neighbours in brightness, and half way across it is
# far from every tissue: what is to be learnt leaves no room for luck.
_LUNGS = (Region.LEFT_LUNG, Region.RIGHT_LUNG)
_TISSUE = (Region.FAT, Region.SOFT_TISSUE, Region.AIRWAY, Region.BONE, Region.MARKER)
ORGANS = dict.fromkeys(_LUNGS, 1) | dict.fromkeys(_TISSUE, 2)
"""Region -> label. The lungs are of different size, so a mirrored mask is far from the truth."""

_CHANGED_HU = dict.fromkeys(_LUNGS, 2400) | {Region.AIRWAY: HOUNSFIELD[Region.SOFT_TISSUE]}
_SHOWN_HU = np.array([(HOUNSFIELD | _CHANGED_HU)[region] for region in Region], np.float32)


@dataclass(frozen=True, kw_only=True)
class BrightTorso(Phantom):
    """The torso with bright lungs and filled airways."""

    @cached_property
    def hu_volume(self) -> NDArray[np.int16]:
        """Hounsfield units as stored, shape (slice, row, column)."""
        noise = np.random.default_rng(7).normal(0, self.noise_hu, self.grid.shape)
        return np.rint(_SHOWN_HU[self.regions] + noise).astype(np.int16)


# --- a tumour and its parts ----------------------------------------------------------------------

WHOLE, CORE, ENHANCING = 1, 2, 3
TUMOUR_MM = {WHOLE: 42.0, CORE: 30.0, ENHANCING: 19.0}  # radii of nested balls
SERIES = ("t1c", "t1", "t2", "flair")
_TUMOUR_CENTRE_MM = CENTRE_MM + np.array([48.0, -12.0, 25.0])  # left, front, up
# what each series shows: outside, head, oedema, core, enhancing part
_SHADES = {
    "t1c": (0, 300, 280, 260, 700),
    "t1": (0, 300, 260, 200, 200),
    "t2": (0, 250, 500, 650, 600),
    "flair": (0, 260, 620, 480, 470),
}


def depth_at(points_mm: Floats) -> NDArray[np.uint8]:
    """How deep in the tumour a point lies: 0 outside, 1 head, 2 oedema, 3 core, 4 enhancing."""
    x, y, z = np.moveaxis(points_mm - CENTRE_MM, -1, 0)
    depth: NDArray[np.uint8] = ((x / 110) ** 2 + (y / 85) ** 2 + (z / 100) ** 2 < 1).astype("u1")
    away = np.linalg.norm(points_mm - _TUMOUR_CENTRE_MM, axis=-1)
    for radius in TUMOUR_MM.values():
        depth += (away < radius).astype(np.uint8)
    return depth


@dataclass(frozen=True, kw_only=True)
class TumourSeries(Phantom):
    """One series of a head with a tumour; all of a study lie on one grid."""

    shows: str = "t1c"

    @cached_property
    def regions(self) -> NDArray[np.uint8]:
        """The depth at each voxel centre."""
        return depth_at(_points(self.grid.shape, self.grid.affine_lps))

    @cached_property
    def hu_volume(self) -> NDArray[np.int16]:
        """What this series shows, shape (slice, row, column)."""
        noise = np.random.default_rng(11).normal(0, 8, self.grid.shape)
        shades = np.array(_SHADES[self.shows], np.float64)[self.regions]
        return np.clip(np.rint(shades + noise), -1024, 3071).astype(np.int16)


def tumour_study(**resampling: Any) -> Mapping[str, TumourSeries]:
    """The four series by role."""
    return {
        role: TumourSeries(
            shows=role,
            series=role,
            attributes=(("SeriesDescription", role), ("FrameOfReferenceUID", "2.25.77")),
            **resampling,
        )
        for role in SERIES
    }


# what is worth looking at, from the middle: lungs, their ends, the skin, the air around
_SIGHTS_MM = np.array(
    [
        *((56, 5, 10), (-58, -3, 5), (60, 30, -50), (-60, 20, 70), (0, 10, 0), (60, -30, 60)),
        *((110, 0, 20), (-80, 50, -90), (0, -80, 100), (140, 70, 0), (-130, -80, -100)),
    ]
)
_TUMOUR_SIGHTS_MM = (
    _TUMOUR_CENTRE_MM
    - CENTRE_MM
    + np.array([(0, 0, 0), (0, 30, 0), (30, 0, 20), (-30, -20, 0), (-95, 10, -60)])
)

# --- teaching ------------------------------------------------------------------------------------


def teach(
    network: Any,
    example: Callable[[np.random.Generator], tuple[Any, Any]],
    loss: Any,
    *,
    steps: int,
    fixed_after: int | None = None,
    seed: int,
) -> Any:
    """The network's weights after some steps over images and their truth, two at a time.

    Args:
        fixed_after: Until this step batch norms go by the pair at hand. Then they go by what they
            have seen, as they do once the network is taught, and the rest of it adapts to that.
    """
    import torch

    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    network.train()
    optimiser = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for step in range(steps):
        if step == fixed_after:
            for module in network.modules():
                module.train(not isinstance(module, torch.nn.BatchNorm3d))
        pair = [example(chance) for _ in range(2)]
        image, truth = (torch.as_tensor(np.stack(part)) for part in zip(*pair, strict=True))
        optimiser.zero_grad()
        loss(network(image), truth).backward()
        optimiser.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def organ_example(spacing_mm: float, side: int) -> Callable[..., tuple[Any, Any]]:
    """Cubes of the torso in RAS order, acquired on another grid and resampled, as a bundle sees them.

    Every mixture of two tissues comes as often as it does in a resampled series, so that a network
    learns where between them the border lies.
    """
    labels = np.zeros(len(Region), np.int64)
    for region, value in ORGANS.items():
        labels[region] = value

    def example(chance: np.random.Generator) -> tuple[Any, Any]:
        points_mm = _some_cube(chance, spacing_mm, side, _SIGHTS_MM)
        hu = _resampled(points_mm, chance)
        return hu.astype(np.float32)[None] / 1000, labels[region_at(points_mm)][None]

    return example


def _resampled(points_mm: Floats, chance: np.random.Generator) -> Floats:
    """Hounsfield units at points of a cube, linear between those of some finer or coarser grid."""
    step_mm = chance.uniform(2.1, 2.7, 3)
    low_mm = points_mm.min((0, 1, 2)) - step_mm * chance.uniform(1, 2, 3)
    shape = np.ceil((points_mm.max((0, 1, 2)) - low_mm) / step_mm).astype(int) + 1
    acquired = np.moveaxis(np.indices(shape), 0, -1) * step_mm + low_mm
    hu = _SHOWN_HU[region_at(acquired)] + chance.normal(0, 4, shape)
    return _linear(hu, (points_mm - low_mm) / step_mm)


def _linear(values: Floats, index: Floats) -> Floats:
    """Values between the points of a grid, by the eight around each."""
    low = np.floor(index).astype(int)
    share = index - low
    found = np.zeros(index.shape[:-1])
    for corner in product((0, 1), repeat=3):
        weight = np.where(corner, share, 1 - share).prod(-1)
        found += weight * values[tuple(np.moveaxis(low + corner, -1, 0))]
    return found


def tumour_example(spacing_mm: float, side: int) -> Callable[..., tuple[Any, Any]]:
    """Cubes of the head: four channels and three nested regions."""

    def example(chance: np.random.Generator) -> tuple[Any, Any]:
        resampling = _some_cube(chance, spacing_mm, side, _TUMOUR_SIGHTS_MM)
        depth = depth_at(resampling)
        shades = [np.array(_SHADES[role], np.float32)[depth] for role in SERIES]
        image = [each + chance.normal(0, 8, depth.shape).astype(np.float32) for each in shades]
        truth = [depth >= 1 + region for region in (WHOLE, CORE, ENHANCING)]
        return np.stack(image) / 500, np.stack(truth).astype(np.float32)

    return example


def _some_cube(
    chance: np.random.Generator, spacing_mm: float, side: int, sights_mm: Floats
) -> Floats:
    """Points of a cube around some sight, axes in RAS order, shape (side, side, side, 3)."""
    middle = CENTRE_MM + chance.choice(sights_mm) + chance.uniform(-25, 25, 3)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = middle - affine[:3, :3] @ np.full(3, (side - 1) / 2)
    return _points((side, side, side), affine)


def _points(shape: tuple[int, ...], affine: Floats) -> Floats:
    index = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    points: Floats = index @ affine[:3, :3].T + affine[:3, 3]
    return points
