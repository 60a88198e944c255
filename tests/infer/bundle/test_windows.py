"""Windows against MONAI's own sliding window: the same values bit for bit, less memory."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from dataclasses import replace  # noqa: E402

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from monai.data import MetaTensor  # noqa: E402
from monai.inferers import (  # noqa: E402
    SimpleInferer,
    SliceInferer,
    SlidingWindowInferer,
    SlidingWindowInfererAdapt,
)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from node.domain.errors import JobFailed  # noqa: E402
from node.infer.bundle.decide import largest_of_linear_head, take_largest  # noqa: E402
from node.infer.bundle.windows import Windowing, label_windows, plan_windows, windowing_of  # noqa: E402

Tensor = Any
Shape = tuple[int, int, int]


def picture(shape: Shape, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))


def products(maps: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A network of products and sums: the same bits whatever the batch, and no two windows agree."""
    factors = torch.randn((maps, 2), generator=torch.Generator().manual_seed(seed))

    def network(windows: Tensor) -> Tensor:
        own = windows[:, :1, :1, :1, :1]
        ramp = torch.arange(prod(windows.shape[2:])).reshape(windows.shape[2:]) % 7 - 3.0
        shape = (1, maps, 1, 1, 1)
        first, second = factors[:, 0].reshape(shape), factors[:, 1].reshape(shape)
        return windows[:, :1] * first + own * (ramp * second)

    return network


def blended_alike(shape: Shape, maps: int, inferer: Any) -> bool:
    image, network = picture(shape), products(maps)
    expected = inferer(image[None], network)[0]
    plan = windowing_of(inferer)
    return all(
        torch.equal(label_windows(image, network, lambda values, k=k: values[k], plan), expected[k])
        for k in range(maps)
    )


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.625, (0.25, 0.5, 0.625)])
@pytest.mark.parametrize(
    "shape",
    [
        (8, 8, 8),  # exactly one window
        (5, 7, 3),  # smaller on all axes
        (5, 20, 6),  # smaller on two
        (17, 6, 19),  # smaller on one
        (24, 16, 16),
        (13, 19, 11),
        (11, 12, 40),
        (9, 41, 10),
        (37, 9, 9),
    ],
)
def test_blended_values_are_those_of_the_whole_map(
    shape: Shape, overlap: float | tuple[float, ...], mode: str, batch: int
) -> None:
    inferer = SlidingWindowInferer((8, 8, 8), batch, overlap, mode=mode, padding_mode="replicate")

    assert blended_alike(shape, 2, inferer)


@pytest.mark.parametrize("padding_mode", ["constant", "replicate", "reflect", "circular"])
def test_an_image_smaller_than_a_window_is_enlarged_as_the_inferer_says(padding_mode: str) -> None:
    cval = -3.5 if padding_mode == "constant" else 0.0
    inferer = SlidingWindowInferer(
        (8, 9, 10), 2, 0.5, mode="gaussian", padding_mode=padding_mode, cval=cval
    )

    assert blended_alike((7, 5, 25), 3, inferer)


@given(
    shape=st.tuples(*[st.integers(1, 22)] * 3),
    roi=st.tuples(*[st.sampled_from([-1, 4, 5, 7, 8])] * 3),
    overlap=st.tuples(*[st.floats(0, 0.7)] * 3),
    mode=st.sampled_from(["gaussian", "constant"]),
    sigma=st.floats(0.05, 0.5),
    batch=st.integers(1, 5),
    maps=st.integers(1, 3),
)
@settings(max_examples=80)
def test_any_shape_is_blended_as_the_whole_map(
    shape: Shape,
    roi: Shape,
    overlap: tuple[float, ...],
    mode: str,
    sigma: float,
    batch: int,
    maps: int,
) -> None:
    inferer = SlidingWindowInferer(roi, batch, overlap, mode=mode, sigma_scale=sigma)

    assert blended_alike(shape, maps, inferer)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("maps", "shape"), [(2, (20, 31, 18)), (40, (18, 18, 50)), (5, (9, 40, 9))]
)
def test_labels_of_a_convolution_are_the_argmax_of_the_whole_map(
    maps: int, shape: Shape, batch: int
) -> None:
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(2, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(6, maps, 3, padding=1)
    ).eval()
    image = picture(shape, channels=2)
    inferer = SlidingWindowInferer((16, 12, 16), batch, 0.25, mode="gaussian")

    labels = label_windows(image, network, take_largest, windowing_of(inferer))

    with torch.no_grad():
        expected = inferer(image[None], network).argmax(1)[0]
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), expected)


def test_equal_values_go_to_the_class_to_which_the_whole_map_gives_them() -> None:
    def coarse(windows: Tensor) -> Tensor:
        return torch.cat([windows.round(), windows.abs().round(), -windows.round()], 1)

    image = picture((12, 13, 30))
    inferer = SlidingWindowInferer((8, 8, 8), 1, 0.5, mode="gaussian")

    labels = label_windows(image, coarse, take_largest, windowing_of(inferer))

    assert torch.equal(labels.long(), inferer(image[None], coarse).argmax(1)[0])


def test_more_than_255_label_values_take_two_bytes() -> None:
    network, image = products(300), picture((6, 7, 12))
    inferer = SlidingWindowInferer((6, 6, 6), 1, 0.25)

    labels = label_windows(image, network, take_largest, windowing_of(inferer))

    assert labels.dtype == torch.int16
    assert labels.int().max() > 255
    assert torch.equal(labels.long(), inferer(image[None], network).argmax(1)[0])


@pytest.mark.parametrize(
    ("size", "axis"),
    [((20, 20, 20), 0), ((20, 20, 90), 2), ((20, 90, 20), 1), ((8, 30, 30), 1), ((8, 8, 30), 2)],
)
def test_rows_follow_the_axis_that_holds_least(size: Shape, axis: int) -> None:
    assert plan_windows(size, (8, 8, 8), (0.25,) * 3).axis == axis


@pytest.mark.parametrize("size", [(20, 20, 90), (20, 90, 20), (90, 20, 20), (8, 30, 31)])
def test_each_plane_is_finished_once_and_only_after_its_last_window(size: Shape) -> None:
    plan = plan_windows(size, (8, 8, 8), (0.625, 0.5, 0.625))

    ends = [first + plan.finished(row) for row, first in enumerate(plan.rows)]

    assert plan.rows[0] == 0
    assert list(plan.rows[1:]) == ends[:-1]
    assert ends[-1] == size[plan.axis]
    assert sorted(plan.windows()) == sorted(product(*plan.starts))


def test_a_meta_tensor_is_labelled_as_a_plain_one() -> None:
    image, network = picture((10, 9, 17)), products(3)
    windowing = Windowing(roi_size=8, overlap=0.5, mode="gaussian")

    labels = label_windows(MetaTensor(image), network, take_largest, windowing)

    assert type(labels) is torch.Tensor
    assert torch.equal(labels, label_windows(image, network, take_largest, windowing))


def test_the_image_is_left_as_it_was_even_where_the_network_answers_with_its_input() -> None:
    image = picture((10, 9, 17), channels=2)
    before = image.clone()

    label_windows(
        image, lambda windows: windows, take_largest, Windowing(roi_size=8, mode="gaussian")
    )

    assert torch.equal(image, before)


@pytest.mark.parametrize("where", [(0, 0, 0), (19, 8, 8), (9, 3, 4)])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_numbers_fail_the_job_for_good(wrong: float, where: Shape) -> None:
    image = picture((20, 9, 9))
    image[(0, *where)] = wrong

    def network(windows: Tensor) -> Tensor:
        return torch.cat([windows, torch.zeros_like(windows)], 1)

    with pytest.raises(JobFailed, match="not numbers") as failure:
        label_windows(image, network, take_largest, Windowing(roi_size=8, mode="gaussian"))

    assert failure.value.permanent


@pytest.mark.parametrize(
    "network",
    [
        lambda windows: windows[:, :, ::2],
        lambda windows: windows[:, 0],
        lambda windows: {"logits": windows},
        lambda windows: windows[:1],
    ],
)
def test_an_answer_that_does_not_fit_its_window_fails_the_job_for_good(network: Any) -> None:
    with pytest.raises(JobFailed, match="strict mode") as failure:
        label_windows(picture((20, 9, 9)), network, take_largest, Windowing(roi_size=8, batch=2))

    assert failure.value.permanent


def test_the_inferer_of_a_bundle_decides() -> None:
    inferer = SlidingWindowInfererAdapt(
        roi_size=[96, 96, 64],
        sw_batch_size=3,
        overlap=0.5,
        mode="gaussian",
        sigma_scale=0.25,
        padding_mode="replicate",
        cval=-1.0,
    )

    assert windowing_of(inferer) == Windowing(
        roi_size=[96, 96, 64],
        batch=3,
        overlap=0.5,
        mode="gaussian",
        sigma_scale=0.25,
        padding_mode="replicate",
        cval=-1.0,
    )


def test_a_network_that_sees_the_whole_image_is_asked_once() -> None:
    asked: list[Shape] = []

    def network(windows: Tensor) -> Tensor:
        asked.append(tuple(windows.shape))
        return products(3)(windows)

    image = picture((9, 10, 11))
    labels = label_windows(image, network, take_largest, windowing_of(SimpleInferer()))

    assert asked == [(1, 1, 9, 10, 11)]
    assert torch.equal(labels.long(), products(3)(image[None]).argmax(1)[0])


@pytest.mark.parametrize(
    "inferer",
    [
        SliceInferer(roi_size=(8, 8), spatial_dim=0),
        SlidingWindowInferer((8, 8, 8), with_coord=True),
        object(),
    ],
)
def test_an_inferer_of_another_kind_is_refused(inferer: object) -> None:
    with pytest.raises(JobFailed, match="strict mode"):
        windowing_of(inferer)


@pytest.mark.parametrize("wrong", [{"overlap": 1.0}, {"overlap": (0.1, -0.1, 0.5)}, {"batch": 0}])
def test_a_windowing_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(JobFailed, match="mend the inferer"):
        Windowing(roi_size=8, **wrong)


@pytest.mark.parametrize(("shape", "roi"), [((1, 8, 8), 8), ((1, 8, 8, 8), (8, 8))])
def test_a_network_of_two_dimensions_is_refused(shape: Any, roi: Any) -> None:
    with pytest.raises(JobFailed, match="2 dimensions"):
        label_windows(torch.zeros(shape), products(2), take_largest, Windowing(roi_size=roi))


def test_features_may_be_blended_before_a_linear_head_instead_of_its_classes() -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn((30, 6), generator=generator), torch.randn(30, generator=generator)
    features, image = products(6), picture((13, 12, 30))
    inferer = SlidingWindowInferer((8, 8, 8), 1, 0.25, mode="gaussian")

    def classes(windows: Tensor) -> Tensor:
        maps = torch.einsum("cf,bfxyz->bcxyz", weight, features(windows))
        return maps + bias[None, :, None, None, None]

    labels = label_windows(
        image, features, largest_of_linear_head(weight, bias, above=3.0), windowing_of(inferer)
    )

    maps = inferer(image[None], classes)[0]
    first, second = maps.topk(2, dim=0).values
    clear = ((first - second) > 1e-4) & ((first - 3.0).abs() > 1e-4)
    wanted = torch.where(first > 3.0, maps.argmax(0) + 1, 0)
    assert clear.double().mean() > 0.99
    assert 0.001 < (wanted == 0).double().mean() < 0.5
    assert torch.equal(labels.long()[clear], wanted[clear])


def test_half_precision_is_close_and_only_where_asked_for() -> None:
    types: set[Any] = set()
    convolution = torch.nn.Conv3d(1, 4, 3, padding=1)

    def network(windows: Tensor) -> Tensor:
        answer = convolution(windows)
        types.add(answer.dtype)
        return answer

    image = picture((20, 19, 33))
    exact = Windowing(roi_size=16, overlap=0.25, mode="gaussian")
    half = replace(exact, autocast=torch.bfloat16)

    wanted = label_windows(image, network, take_largest, exact)
    assert types == {torch.float32}
    labels = label_windows(image, network, take_largest, half)

    assert types == {torch.float32, torch.bfloat16}
    assert 0.9 < (labels == wanted).double().mean() < 1


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at once, by the storage they share."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if self._holders[pointer] == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._holders[pointer] += 1
        weakref.finalize(tensor, self._drop, pointer, size)

    def _drop(self, pointer: int, size: int) -> None:
        self._holders[pointer] -= 1
        if self._holders[pointer] == 0:
            self.now -= size


@pytest.mark.parametrize(
    ("shape", "overlap"),
    [((120, 20, 20), 0.25), ((20, 120, 20), 0.25), ((20, 20, 160), 0.25), ((20, 20, 160), 0.5)],
)
def test_what_is_held_is_the_slab_not_the_whole_map(shape: Shape, overlap: float) -> None:
    maps, roi, batch = 30, 12, 1
    image, network = picture(shape), products(maps)
    inferer = SlidingWindowInferer((roi,) * 3, batch, overlap, mode="gaussian")
    plan = plan_windows(shape, (roi,) * 3, (overlap,) * 3)
    whole = 4 * maps * prod(shape)

    with _Alive() as ours:
        label_windows(image, network, take_largest, windowing_of(inferer))
    with _Alive() as theirs:
        inferer(image[None], network)

    slab = 4 * maps * plan.voxels_held()
    answers = 3 * 4 * maps * batch * roi**3  # what the network above holds while it adds
    one_map = 4 * prod(shape)
    assert theirs.peak >= whole
    assert slab <= ours.peak <= slab + answers + 4 * one_map
    assert ours.peak < whole / 2
