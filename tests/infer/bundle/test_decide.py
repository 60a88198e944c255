"""Labels from blended answers, against the same rule applied to everything at once.

Features are blended in place of classes where a network ends with a matrix, and only there.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from monai.inferers.inferer import SlidingWindowInferer  # noqa: E402
from monai.networks.nets.segresnet import SegResNet  # noqa: E402
from torch import nn  # noqa: E402

from node.domain.errors import JobFailed  # noqa: E402
from node.infer.bundle.decide import (  # noqa: E402
    Headless,
    largest_of_linear_head,
    mark_regions,
    take_largest,
)
from node.infer.bundle.windows import label_windows, windowing_of  # noqa: E402

Tensor = Any
FEATURES, CLASSES = 8, 30
INFERER = SlidingWindowInferer((16, 16, 16), 1, 0.25, mode="gaussian")


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers: their products and sums are exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "uint8"), (2, "uint8"), (256, "uint8"), (257, "int16")]
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

    wide = torch.int16 if regions < 16 else torch.int32
    assert labels.dtype == (torch.uint8 if regions <= 8 else wide)
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
    assert labels.dtype == (torch.uint8 if classes < 256 else torch.int16)
    assert torch.equal(labels.long(), wanted)


def test_a_linear_head_reads_half_precision_features_in_single_precision() -> None:
    features = whole_numbers(6, 4, 5, 6).half()
    weight = whole_numbers(9, 6, seed=1) + 1 / 4096  # lost in half precision

    labels = largest_of_linear_head(weight)(features)

    maps = torch.einsum("cf,fxyz->cxyz", weight, features.float())
    assert torch.equal(labels.long(), maps.argmax(0))


def seg_res_net() -> Any:
    torch.manual_seed(3)
    return SegResNet(3, FEATURES, 1, CLASSES, blocks_down=(1, 1), blocks_up=(1,)).eval()


class After(nn.Module):
    """A convolution of one voxel, and a step after it."""

    def __init__(self, step: Any, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Conv3d(1, FEATURES, 3, padding=1)
        self.head = nn.Conv3d(FEATURES, classes, 1)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.head(self.body(x)))


class Twice(After):
    """Its head is used twice: what is before the last use was made with it."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features + self.head(features)[:, :FEATURES])


class Spoilt(After):
    """The features are written over once the head has seen them."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        answer = self.head(features)
        features.zero_()
        return answer


class Wavering(After):
    """It answers its second window in another way."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        answer = self.head(self.body(x))
        return answer if self.asked == 1 else answer + 0


class Scaled(nn.Conv3d):
    """Looks like a matrix, and is one with something after it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OfOwnKind(After):
    """Its last step is a class of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.head = Scaled(FEATURES, CLASSES, 1)


class Hooked(After):
    """What its last step gives is changed by a hook."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.head.register_forward_hook(lambda module, given, output: output * 2)


class Greedy(After):
    """It writes over what it is asked about, or does the same without."""

    writes_over = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2) if self.writes_over else x * 2)


def picture(shape: tuple[int, ...] = (20, 24, 40)) -> Tensor:
    return torch.rand((1, *shape), generator=torch.Generator().manual_seed(1))


def widths_held(network: Any) -> tuple[Tensor, set[int]]:
    """Labels, and how many maps were blended."""
    held: set[int] = set()
    headless = Headless(network)

    def decided(maps: Tensor) -> Tensor:
        held.add(len(maps))
        return headless.decide(maps)

    return label_windows(picture(), headless, decided, windowing_of(INFERER)), held


def assert_same_but_for_ties(labels: Tensor, network: Any) -> None:
    with torch.no_grad():
        maps = INFERER(picture()[None], network)[0]
    first, second = maps.topk(2, dim=0).values
    clear = first - second > 1e-5 * (maps.amax() - maps.amin())
    assert clear.double().mean() > 0.999
    assert len(maps.argmax(0).unique()) > 3
    assert torch.equal(labels.long()[clear], maps.argmax(0)[clear])


@pytest.mark.parametrize("make", [seg_res_net, lambda: After(nn.Identity())])
def test_labels_are_those_of_the_whole_maps_but_for_ties(make: Any) -> None:
    network = make()

    labels, held = widths_held(network)

    assert held == {FEATURES}
    assert labels.dtype == torch.uint8
    assert_same_but_for_ties(labels, network)


@pytest.mark.parametrize(
    "network",
    [
        After(nn.ReLU()),
        After(nn.ReLU(inplace=True)),
        After(lambda answer: answer.clamp_(min=-1e9)),  # changes nothing, and might have
        After(lambda answer: answer[:, :20]),
        After(nn.Identity(), classes=FEATURES),
        Twice(nn.Identity()),
        Spoilt(nn.Identity()),
        OfOwnKind(),
        Hooked(),
    ],
)
def test_a_network_that_does_not_end_with_its_matrix_is_blended_as_it_answers(
    network: Any,
) -> None:
    labels, held = widths_held(network.eval())

    with torch.no_grad():
        maps = INFERER(picture()[None], network)[0]
    assert held == {len(maps)}
    assert torch.equal(labels.long(), maps.argmax(0))


def test_a_network_may_write_over_what_it_is_asked_about() -> None:
    greedy, polite = (Greedy(nn.Identity()).eval() for _ in range(2))
    polite.writes_over = False

    labels = [widths_held(each)[0] for each in (greedy, polite)]

    assert len(labels[0].unique()) > 3
    assert torch.equal(*labels)


def test_the_network_is_left_as_it_was() -> None:
    network, windows = seg_res_net(), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = network(windows)

    widths_held(network)

    with torch.no_grad():
        assert torch.equal(network(windows), before)
    assert not any(each._forward_hooks for each in network.modules())


def test_a_network_that_changes_its_mind_fails_and_is_left_as_it_was() -> None:
    network = Wavering(nn.Identity()).eval()

    with pytest.raises(JobFailed, match="strict mode"):
        widths_held(network)

    with torch.no_grad():
        assert network(torch.rand(1, 1, 8, 8, 8)).shape[1] == CLASSES


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_is_no_matrix_of_numbers_fails_the_job(part: str, wrong: float) -> None:
    network = After(nn.Identity()).eval()
    with torch.no_grad():
        getattr(network.head, part)[5] = wrong

    with pytest.raises(JobFailed, match="not numbers"):
        widths_held(network)
