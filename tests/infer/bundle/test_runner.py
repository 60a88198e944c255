"""What is loaded beforehand and what a job runs, once more where memory did not suffice."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monai")

from node.infer.bundle import runner
from node.infer.bundle.loading import Loaded
from node.infer.bundle.spec import Bundle
from node.infer.kept import Kept
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


def test_a_try_without_memory_enough_lets_go_of_its_network_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    inputs = {"image": given_files(Phantom(shape=(12, 20, 24)), tmp_path / "series")}
    load, run_fast = runner.load, runner.run_fast
    networks: list[weakref.ref[Any]] = []

    def listen(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
        assert [each() for each in networks] == [None] * len(networks)
        loaded = load(bundle, device, regions=regions)
        networks.append(weakref.ref(loaded.network))
        return loaded

    def run_out(*args: Any) -> Any:
        if len(networks) == 1:
            raise MemoryError
        return run_fast(*args)

    monkeypatch.setattr(runner, "load", listen)
    monkeypatch.setattr(runner, "run_fast", run_out)
    report = Stopwatch()
    run_model(made.spec, inputs, room(tmp_path, weights_dir=made.weights_dir), report)

    assert len(networks) == 2
    assert report.notes == ["out of memory: one window at a time"]


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
