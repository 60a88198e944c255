"""A child that was warmed up has loaded what its first job runs, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("monai")

from node.infer.bundle import runner
from node.infer.bundle.loading import Loaded
from node.infer.bundle.spec import Bundle
from node.infer.kept import Kept
from node.infer.report import Stopwatch
from node.infer.runners import run_model, warm
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
