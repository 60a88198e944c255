"""On a card: recorded windows answer as plain calls, labels are those of a CPU, memory goes back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from monai.networks.nets.segresnet import SegResNet  # noqa: E402

from node.domain.result import LabelArray  # noqa: E402
from node.infer.assets import Kept  # noqa: E402
from node.infer.bundle.card import Recorder, as_asked  # noqa: E402
from node.infer.bundle.decide import Headless, take_largest  # noqa: E402
from node.infer.bundle.fast import turned, turned_by_torch  # noqa: E402
from node.infer.bundle.windows import Windowing, label_windows  # noqa: E402
from node.infer.child import _give_card_back  # noqa: E402
from node.infer.report import Stopwatch  # noqa: E402
from node.infer.run_context import ModelOutput, run_model, warm  # noqa: E402
from tests.support.bundles import MADE_BUNDLES, BundleModel, write_bundle_model  # noqa: E402
from tests.support.phantoms import Phantom  # noqa: E402
from tests.support.rooms import given_files, room  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch"),
]

Tensor = Any


def _reserved() -> int:
    """Bytes of the card that are not given back."""
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved())


LARGE = Phantom(plane="oblique", shape=(40, 72, 80), spacing_mm=(5.0, 4.0, 4.5))
WINDOWING = Windowing(roi_size=32, overlap=0.25, mode="gaussian")


@pytest.fixture(autouse=True)
def _emptied() -> Iterator[None]:
    _reserved()
    yield
    _reserved()


def network_of(classes: int, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return SegResNet(3, 16, 1, classes, blocks_down=(1, 2), blocks_up=(1,)).eval().cuda()


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)).cuda()


def labels_of(network: Any, recorder: Recorder | None, windowing: Windowing, seed: int = 0) -> Any:
    """Labels, and what was told; recorded where there is a recorder."""
    told: list[str] = []
    headless = Headless(network)
    asked = recorder.of(headless, "fp32", told.append) if recorder else headless
    labels = label_windows(picture(50, 61, 90, seed=seed), asked, headless.decide, windowing)
    return labels, told


# --- recorded windows ---


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_recorded_windows_are_labelled_as_plain_ones_to_the_last_bit(
    precision: str, batch: int
) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    windowing = replace(WINDOWING, batch=batch, autocast=dtype)
    network, image = network_of(60), picture(50, 61, 90)
    headless, recorder, told = Headless(network), Recorder(), []
    blended: dict[str, list[Tensor]] = {"plain": [], "recorded": [], "again": []}

    with as_asked(precision):
        for name, values in blended.items():
            recorded = recorder.of(headless, precision, told.append)

            def keep(maps: Tensor, values: list[Tensor] = values) -> Tensor:
                values.append(maps.clone())
                return headless.decide(maps)

            label_windows(image, headless if name == "plain" else recorded, keep, windowing)

    assert told == []
    assert not recorder.is_empty
    for name in ("recorded", "again"):
        assert all(map(torch.equal, blended["plain"], blended[name]))


def test_windows_whose_rows_are_not_those_of_the_scan_are_recorded_alike() -> None:
    network, recorder = network_of(6), Recorder()
    image = picture(40, 41, 120)

    labels = [
        label_windows(image, asked, take_largest, WINDOWING)
        for asked in (network, *(recorder.of(network, "fp32", pytest.fail) for _ in range(2)))
    ]

    assert len(labels[0].unique()) > 3
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])


def test_sums_in_main_memory_are_those_of_recorded_windows_too() -> None:
    network, recorder = network_of(6), Recorder()
    image, aside = picture(40, 41, 120), replace(WINDOWING, slab_device="cpu")

    plain = label_windows(image, network, take_largest, aside)
    recorded = label_windows(image, recorder.of(network, "fp32", pytest.fail), take_largest, aside)

    assert torch.equal(plain, recorded)


class Looking(torch.nn.Module):
    """It looks at its values on the host, which a recording cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network_of(5)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.body(x)
        return answer + 1 if bool(x.mean() > 0) else answer - answer.flip(1)


class Counting(torch.nn.Module):
    """Every call of it is another one, which a recording would repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls = network_of(5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x) * self.calls


@pytest.mark.parametrize(("make", "why"), [(Looking, "captur"), (Counting, "another one")])
def test_a_network_that_cannot_be_recorded_is_asked_as_before_and_that_is_told(
    make: Any, why: str
) -> None:
    recorder, told = Recorder(), []
    image, stream = picture(40, 41, 120), torch.cuda.current_stream()
    plain = label_windows(image, make(), take_largest, WINDOWING)

    network = make()
    labels = label_windows(
        image, recorder.of(network, "fp32", told.append), take_largest, WINDOWING
    )

    assert len(told) == 1
    assert "cannot be recorded" in told[0]
    assert why in told[0]
    assert recorder.is_empty
    if make is Looking:
        assert torch.equal(labels, plain)
    # the card is as usable as before: its stream, its cache, another recording
    assert torch.cuda.current_stream() == stream
    del network
    _reserved()
    other = Recorder()
    assert labels_of(network_of(60), other, WINDOWING)[1] == []
    assert not other.is_empty


def test_the_memory_of_a_recording_goes_with_it() -> None:
    network, recorder = network_of(60), Recorder()
    labels_of(network, None, WINDOWING)  # the libraries have their workspaces now
    before = _reserved()

    labels_of(network, recorder, WINDOWING)
    held = _reserved()
    recorder.drop()

    assert held > before
    assert _reserved() <= before + (4 << 20)


# --- label values ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
@pytest.mark.parametrize("largest", [200, 300, 40000])
def test_labels_are_turned_on_the_card_as_on_a_cpu(dtype: Any, largest: int) -> None:
    if largest > torch.iinfo(torch.int16).max and dtype is torch.int16:
        pytest.skip("does not hold them")
    values = torch.randint(0, largest, (31, 20, 47)) % (256 if dtype is torch.uint8 else 1 << 16)
    wanted = np.uint8 if int(values.max()) < 256 else np.uint16

    on_card = turned(values.to(dtype).cuda(), wanted)

    assert on_card.dtype == wanted
    assert on_card.flags.c_contiguous
    np.testing.assert_array_equal(on_card, turned(values, wanted))
    np.testing.assert_array_equal(on_card, turned_by_torch(values, wanted))


# --- whole runs of made bundles ---


def ran(
    made: BundleModel,
    folder: Path,
    device: str,
    kept: Kept | None = None,
    report: Stopwatch | None = None,
    **parameters: object,
) -> ModelOutput:
    """The labels of a made bundle on one noisy phantom in each of its roles."""
    inputs = {
        role: given_files(
            replace(LARGE, series=role, noise_hu=4.0 + 60.0 * number), folder / f"{device}{role}"
        )
        for number, role in enumerate(made.spec.inputs)
    }
    place = replace(room(folder, weights_dir=made.weights_dir, kept=kept), device=device)
    return run_model(made.spec, inputs, place, report or Stopwatch(), parameters)


def many_labels(folder: Path, classes: int = 300) -> BundleModel:
    recipe = MADE_BUNDLES["resampled"]()
    recipe.config["network_def"]["out_channels"] = classes
    return write_bundle_model(folder, "many", replace(recipe, labels=classes - 1))


def differing(one: LabelArray, other: LabelArray) -> float:
    return float(np.mean(one != other))


@pytest.mark.parametrize("name", MADE_BUNDLES)
def test_fp32_on_a_card_labels_as_a_cpu_does(tmp_path: Path, name: str) -> None:
    made = write_bundle_model(tmp_path, name, MADE_BUNDLES[name]())

    cpu, cuda = ran(made, tmp_path, "cpu"), ran(made, tmp_path, "cuda")

    assert cuda.ran["precision"] == "fp32"
    assert cpu.labels.dtype == cuda.labels.dtype
    assert len(np.unique(cpu.labels)) >= 2
    assert differing(cpu.labels, cuda.labels) < 1e-5


def test_label_values_above_255_come_from_a_card_whole(tmp_path: Path) -> None:
    made = many_labels(tmp_path)

    cpu, cuda = ran(made, tmp_path, "cpu").labels, ran(made, tmp_path, "cuda").labels

    assert cuda.dtype == np.uint16
    assert cuda.max() > 255
    assert differing(cpu, cuda) < 1e-4


def test_what_ran_is_what_is_said(tmp_path: Path) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())

    for precision in ("tf32", "fp16", "bf16"):
        assert ran(made, tmp_path, "cuda", precision=precision).ran["precision"] == precision


def test_a_job_after_a_warm_up_records_nothing_more(tmp_path: Path) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    kept, recorded = Kept(), []
    request = {
        "models": [{"folder": str(made.folder), "parameters": {}}],
        "weights_dir": str(made.weights_dir),
        "device": "cuda",
    }
    capture = torch.cuda.CUDAGraph.capture_begin

    warm(request, Stopwatch(), kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.cuda.CUDAGraph,
            "capture_begin",
            lambda *args, **more: (recorded.append(args), capture(*args, **more))[1],
        )
        warmed = ran(made, tmp_path, "cuda", kept)
        fresh = ran(made, tmp_path, "cuda", Kept())

    assert len(recorded) == 1  # by the fresh one
    np.testing.assert_array_equal(warmed.labels, fresh.labels)


@contextmanager
def only(gigabytes: float) -> Iterator[None]:
    """So much of the card, and no more."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(gigabytes * 1e9 / total, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_repeated_job_gives_the_same_labels_under_less_memory(tmp_path: Path) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    torch.cuda.reset_peak_memory_stats()
    free = [ran(made, tmp_path, "cuda").labels for _ in range(2)]
    peak = torch.cuda.max_memory_reserved() / 1e9
    _reserved()

    report = Stopwatch()
    with only(1.5 * peak):
        limited = ran(made, tmp_path, "cuda", report=report).labels

    assert report.notes == []
    np.testing.assert_array_equal(free[0], free[1])
    np.testing.assert_array_equal(free[0], limited)


def test_a_card_that_is_too_small_steps_down_to_the_end_and_tells(tmp_path: Path) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    report = Stopwatch()
    cpu = ran(made, tmp_path, "cpu").labels

    with only(_reserved() / 1e9 + 0.004):
        produced = ran(made, tmp_path, "cuda", report=report)

    assert report.notes[0].startswith("out of memory: ")
    assert report.notes[-1] == "out of memory: on the CPU"
    assert differing(produced.labels, cpu) < 1e-5


def test_memory_goes_back_with_the_network(tmp_path: Path) -> None:
    made, kept = many_labels(tmp_path), Kept()
    ran(made, tmp_path, "cuda")  # the libraries have their workspaces now
    before = _reserved()

    ran(made, tmp_path, "cuda", kept)
    held = _reserved()
    kept.drop_network()

    assert held > before
    assert _reserved() <= before + (4 << 20)


def test_an_idle_child_gives_back_what_torch_only_reserves() -> None:
    torch.zeros(64 << 20, device="cuda", dtype=torch.uint8)
    before = torch.cuda.memory_reserved()

    _give_card_back()

    assert torch.cuda.memory_reserved() <= before - (64 << 20)
