"""What is done for a card, as far as a CPU shows it; see test_cuda for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from node.infer.bundle.card import Recorder, as_asked  # noqa: E402
from node.infer.bundle.decide import take_largest  # noqa: E402
from node.infer.bundle.fast import turned, turned_by_torch  # noqa: E402
from node.infer.bundle.windows import Windowing, label_windows  # noqa: E402


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64]),
    largest=st.sampled_from([1, 255, 256, 32767, 32768, 65535]),
    seed=st.integers(0, 9),
)
@settings(max_examples=120)
def test_labels_are_turned_alike_on_both_roads(
    shape: tuple[int, int, int], dtype: Any, largest: int, seed: int
) -> None:
    values = torch.randint(0, largest + 1, shape, generator=torch.Generator().manual_seed(seed))
    values = (values % 256 if dtype is torch.uint8 else values).to(dtype)
    wanted = np.uint8 if values.max() < 256 else np.uint16

    for labels in (turned(values, wanted), turned_by_torch(values, wanted)):
        assert labels.dtype == wanted
        assert labels.flags.c_contiguous
        if dtype is not torch.int16 or largest < 1 << 15:
            np.testing.assert_array_equal(labels, values.numpy().transpose())


def test_labels_that_do_not_lie_together_are_turned_alike() -> None:
    values = torch.arange(8 * 9 * 10).reshape(8, 9, 10).flip(0)[:, ::2, 1:]

    for labels in (turned(values, np.uint16), turned_by_torch(values, np.uint16)):
        assert labels.flags.c_contiguous
        np.testing.assert_array_equal(labels, values.numpy().transpose())


@pytest.mark.parametrize(
    ("precision", "is_tf32"), [("fp32", False), ("tf32", True), ("bf16", True)]
)
def test_what_was_asked_for_holds_for_the_run_alone(precision: str, *, is_tf32: bool) -> None:
    def flags() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        matmul = torch.backends.cuda.matmul
        return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32

    def fails() -> None:
        with as_asked(precision):
            within.append(flags())
            raise KeyError

    before, within = flags(), []
    with pytest.raises(KeyError):
        fails()

    assert within == [(is_tf32, False, True, False)]
    assert flags() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card can record")
def test_what_cannot_be_recorded_is_told_to_each_run_and_asked_as_before() -> None:
    torch.manual_seed(1)
    network = torch.nn.Conv3d(1, 5, 3, padding=1).eval()
    image = torch.randn(1, 12, 12, 40)
    windowing, told = Windowing(roi_size=8, overlap=0.5, mode="gaussian"), []
    recorder = Recorder()

    labels = [
        label_windows(image, asked, take_largest, windowing)
        for asked in (network, *(recorder.of(network, "fp32", told.append) for _ in range(2)))
    ]

    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])
    sentence = "windows are launched one by one: the network cannot be recorded"
    assert [note.partition(" (")[0] for note in told] == [sentence] * 2  # once for each run
    assert recorder.is_empty
