"""Axis by axis or by a grid of every voxel: the same image, and the same labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")
monai = pytest.importorskip("monai")
resample = pytest.importorskip("node.infer.bundle.resample")

Compose, Invertd = monai.transforms.Compose, monai.transforms.Invertd
Orientationd, Spacingd = monai.transforms.Orientationd, monai.transforms.Spacingd
SpatialResample, MetaTensor = monai.transforms.SpatialResample, monai.data.MetaTensor
Lean, make_lean = resample.Lean, resample.make_lean

ROTATION = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.3], [0.35, -0.2, 0.9]]))[0]
AXIAL = np.diag([-1.0, -1.0, 1.0])


def affine_of(directions: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = (17.3, -80.1, 44.7)
    return affine.astype(np.float32).astype(np.float64)


def image_of(
    shape: tuple[int, ...], affine: np.ndarray, dtype: torch.dtype = torch.float32
) -> MetaTensor:
    values = np.random.default_rng(1).integers(-900, 1200, (1, *shape))
    return MetaTensor(torch.as_tensor(values, dtype=dtype), affine=torch.as_tensor(affine))


def chain(pixdim: Sequence[float]) -> Compose:
    return Compose(
        [
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=pixdim, mode="bilinear"),
        ]
    )


CASES = [
    pytest.param(AXIAL, (0.75, 0.75, 1.5), (1.5, 1.5, 1.5), id="every second voxel lies on a tie"),
    pytest.param(AXIAL, (0.84, 0.84, 1.5), (3.0, 3.0, 3.0), id="coarser"),
    pytest.param(AXIAL, (4.0, 3.1, 5.0), (1.5, 1.5, 2.0), id="finer"),
    pytest.param(AXIAL[:, [1, 2, 0]], (1.0, 0.75, 3.0), (1.5, 1.5, 1.5), id="sagittal"),
    pytest.param(ROTATION, (0.75, 0.75, 1.5), (1.5, 1.5, 1.5), id="oblique with ties"),
    pytest.param(ROTATION, (0.8, 0.7, 2.3), (1.5, 1.5, 1.5), id="oblique"),
]


@pytest.mark.parametrize(("directions", "spacing", "pixdim"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16], ids=["float32", "int16"])
def test_images_are_those_of_monai_and_labels_come_back_to_the_same_voxels(
    directions: np.ndarray, spacing: Sequence[float], pixdim: Sequence[float], dtype: torch.dtype
) -> None:
    affine = affine_of(directions, spacing)
    theirs, ours = chain(pixdim), chain(pixdim)
    make_lean(ours)

    there = theirs({"image": image_of((41, 36, 22), affine)})
    here = ours({"image": image_of((41, 36, 22), affine, dtype)})
    values = np.random.default_rng(2).integers(0, 105, there["image"].shape)
    back = [
        Invertd(keys="pred", transform=transform, orig_keys="image", nearest_interp=True)(
            {"image": given["image"], "pred": MetaTensor(torch.as_tensor(values, dtype=kind))}
        )["pred"]
        for transform, given, kind in (
            (theirs, there, torch.float32),
            (ours, here, torch.uint8),
        )
    ]

    assert here["image"].shape == there["image"].shape
    assert here["image"].dtype == torch.float32
    assert torch.allclose(here["image"], there["image"], rtol=1.2e-7, atol=1e-9)
    assert torch.allclose(here["image"].affine, there["image"].affine, rtol=0, atol=0)
    assert back[1].dtype == torch.uint8
    assert back[1].shape == back[0].shape == (1, 41, 36, 22)
    assert torch.equal(back[0].to(torch.uint8), back[1])


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_outside_is_as_monai_makes_it(
    padding_mode: str, mode: str, align_corners: bool
) -> None:
    image = image_of((12, 9, 10), affine_of(AXIAL, (2.0, 2.0, 3.0)))
    target = affine_of(AXIAL, (1.3, 1.7, 2.0))
    target[:3, 3] += (6.0, -5.0, -7.0)
    given = {"padding_mode": padding_mode, "mode": mode, "align_corners": align_corners}

    ours, theirs = (
        resampler(**given)(image, dst_affine=target, spatial_size=(24, 20, 22))
        for resampler in (Lean, SpatialResample)
    )

    assert torch.allclose(ours, theirs, rtol=1.2e-7, atol=1e-9)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_lattice_that_is_turned_is_resampled_voxel_by_voxel(mode: str) -> None:
    image = image_of((12, 9, 10), affine_of(AXIAL, (2.0, 2.0, 3.0)))
    target = affine_of(ROTATION, (2.0, 2.0, 2.0))

    ours, theirs = (
        resampler(mode=mode, padding_mode="zeros")(
            image, dst_affine=target, spatial_size=(14, 14, 14)
        )
        for resampler in (Lean, SpatialResample)
    )

    assert theirs.any()
    assert torch.allclose(ours, theirs, rtol=1.2e-7, atol=1e-9)
