"""Labels from blended answers, against the same rule applied to everything at once."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from node.infer.bundle.decide import (  # noqa: E402
    largest_of_linear_head,
    mark_regions,
    take_largest,
)

Tensor = Any


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers: their products and sums are exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "uint8"), (2, "uint8"), (256, "uint8"), (257, "uint16")]
)
def test_the_largest_wins_and_of_equal_ones_the_first(classes: int, dtype: str) -> None:
    maps = whole_numbers(classes, 3, 4, 5)

    labels = take_largest(maps)

    assert labels.dtype == getattr(torch, dtype)
    assert torch.equal(labels.long(), maps.argmax(0))


def test_planes_that_do_not_lie_together_in_memory_are_decided_alike() -> None:
    maps = whole_numbers(5, 6, 7, 8)[:, 1:4, 2:, ::2]

    assert torch.equal(take_largest(maps).long(), maps.argmax(0))


@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("regions", [1, 3, 8, 9, 16])
def test_each_region_is_a_bit_of_its_own(regions: int, threshold: float) -> None:
    maps = torch.randn((regions, 3, 4, 5), generator=torch.Generator().manual_seed(3))

    labels = mark_regions(threshold)(maps)

    assert labels.dtype == (torch.uint8 if regions <= 8 else torch.uint16)
    for number in range(regions):
        wanted = 1 / (1 + (-maps[number].double()).exp()) > threshold
        assert torch.equal(labels.int() >> number & 1 == 1, wanted)


def test_more_regions_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="17 regions"):
        mark_regions()(torch.zeros(17, 1, 1, 1))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("above", [None, 0.0, 5.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("classes", [2, 117, 300])
def test_a_linear_head_decides_as_its_maps_of_all_classes_would(
    classes: int, with_bias: bool, above: float | None, chunk: int
) -> None:
    features, weight = whole_numbers(6, 4, 5, 6), whole_numbers(classes, 6, seed=1)
    bias = whole_numbers(classes, seed=2) if with_bias else None

    labels = largest_of_linear_head(weight, bias, above=above, chunk=chunk)(features)

    maps = torch.einsum("cf,fxyz->cxyz", weight, features)
    if bias is not None:
        maps += bias[:, None, None, None]
    wanted = maps.argmax(0)
    if above is not None:
        wanted = torch.where(maps.amax(0) > above, wanted + 1, 0)
    assert labels.dtype == (torch.uint8 if classes < 256 else torch.uint16)
    assert torch.equal(labels.long(), wanted)


def test_a_linear_head_reads_half_precision_features_in_single_precision() -> None:
    features = whole_numbers(6, 4, 5, 6).half()
    weight = whole_numbers(9, 6, seed=1) + 1 / 4096  # lost in half precision

    labels = largest_of_linear_head(weight)(features)

    maps = torch.einsum("cf,fxyz->cxyz", weight, features.float())
    assert torch.equal(labels.long(), maps.argmax(0))
