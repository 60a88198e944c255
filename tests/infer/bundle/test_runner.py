"""What is loaded beforehand and what a job runs, once more where memory did not suffice."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monai")

from node.infer.assets import Kept
from node.infer.bundle import runner
from node.infer.bundle.loading import Loaded, is_out_of_memory
from node.infer.bundle.spec import Bundle
from node.infer.report import Stopwatch
from node.infer.run_context import run_model, warm
from tests.support.bundles import MADE_BUNDLES, BundleModel, write_bundle_model
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, room

pytestmark = pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weights that are loaded, in order."""
    load, seen = runner.load, []

    def listen(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
        seen.append(bundle.weights.name)
        return load(bundle, device, regions=regions)

    monkeypatch.setattr(runner, "load", listen)
    return seen


def warmed(made: BundleModel, *parameters: dict[str, str]) -> dict[str, object]:
    models = [{"folder": str(made.folder), "parameters": each} for each in parameters]
    return {"models": models, "weights_dir": str(made.weights_dir), "device": "cpu"}


def test_the_variant_of_the_rule_is_loaded(tmp_path: Path, loads: list[str]) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    inputs = {"image": given_files(Phantom(shape=(12, 20, 24)), tmp_path / "series")}
    kept = Kept()
    place = room(tmp_path, weights_dir=made.weights_dir, kept=kept)

    warm(warmed(made, {"variant": "6mm"}), Stopwatch(), kept)
    run_model(made.spec, inputs, place, Stopwatch(), {"variant": "6mm"})

    assert loads == ["model_low.pt"]


def test_of_several_networks_one_is_loaded(tmp_path: Path, loads: list[str]) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())

    warm(warmed(made, {}, {"variant": "6mm"}), Stopwatch(), Kept())

    assert loads == ["model.pt"]


@pytest.mark.parametrize("windows", [1, 2])
def test_weights_are_loaded_once_for_a_variant_and_gone_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: int
) -> None:
    recipe = MADE_BUNDLES["resampled"]()
    recipe.config["inferer"]["sw_batch_size"] = windows
    made = write_bundle_model(tmp_path, "resampled", recipe)
    inputs = {"image": given_files(Phantom(shape=(12, 20, 24)), tmp_path / "series")}
    load, run_fast = runner.load, runner.run_fast
    networks: list[weakref.ref[Any]] = []
    tries = 0

    def listen(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
        assert [each() for each in networks] == [None] * len(networks)
        loaded = load(bundle, device, regions=regions)
        networks.append(weakref.ref(loaded.network))
        return loaded

    def run_out(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        if len(networks) == 1:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return run_fast(*args)

    monkeypatch.setattr(runner, "load", listen)
    monkeypatch.setattr(runner, "run_fast", run_out)
    report = Stopwatch()
    run_model(made.spec, inputs, room(tmp_path, weights_dir=made.weights_dir), report)

    assert len(networks) == 2
    # with a batch of one the same would only be tried again
    single = ["out of memory: one window at a time"] if windows > 1 else []
    assert report.notes == [*single, "out of memory: variant 6mm"]
    assert tries == windows + 1


def test_on_a_cpu_a_network_is_loaded_before_its_first_job_and_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    load, asked = runner.load, []

    def listen(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
        loaded = load(bundle, device, regions=regions)
        loaded.network.register_forward_pre_hook(lambda _, given: asked.append(given[0].shape))
        return loaded

    monkeypatch.setattr(runner, "load", listen)
    kept = Kept()
    warm(warmed(made, {}), Stopwatch(), kept)

    assert not kept.is_empty
    assert asked == []


@pytest.mark.parametrize(
    "sentence",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_a_library_may_say_in_other_words_that_memory_ran_out(sentence: str) -> None:
    assert is_out_of_memory(RuntimeError(sentence))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))


def test_tf32_on_a_cpu_is_said_to_be_fp32(tmp_path: Path) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    inputs = {"image": given_files(Phantom(shape=(12, 20, 24)), tmp_path / "series")}
    place, report = room(tmp_path, weights_dir=made.weights_dir), Stopwatch()

    produced = run_model(made.spec, inputs, place, report, {"precision": "tf32"})

    assert produced.ran["precision"] == "fp32"
    assert report.notes == ["precision: tf32 is of GPUs; on a CPU it is fp32"]


def test_the_precision_that_is_told_is_that_of_the_try_that_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    inputs = {"image": given_files(Phantom(shape=(12, 20, 24)), tmp_path / "series")}
    load, run_fast = runner.load, runner.run_fast

    def on_cpu(bundle: Bundle, _device: str, *, regions: bool) -> Loaded:
        return load(bundle, "cpu", regions=regions)

    def run_out(loaded: Loaded, image: Any, effort: Any, *rest: Any) -> Any:
        if effort.device != "cpu":
            raise MemoryError
        assert effort.precision == "fp32"
        return run_fast(loaded, image, effort, *rest)

    monkeypatch.setattr(runner, "load", on_cpu)
    monkeypatch.setattr(runner, "run_fast", run_out)
    place, report = room(tmp_path, weights_dir=made.weights_dir), Stopwatch()
    produced = run_model(
        made.spec, inputs, replace(place, device="cuda"), report, {"precision": "bf16"}
    )

    assert report.notes[-1] == "out of memory: on the CPU"
    assert produced.ran["precision"] == "fp32"
    assert produced.ran["device"] == "cpu"
