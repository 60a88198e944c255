"""Every model folder: it loads, its card and codes hold, and it runs on a phantom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.infer.registry import CARD_SECTIONS, ModelSpec, default_models_folder, load_model
from node.infer.volume import Volume
from tests.support.phantoms import Phantom
from tests.support.rooms import entry_labels, labels_of

PROBES = Path(__file__).resolve().parent.parent / "support" / "models_probe"
FOLDERS = sorted(
    path.parent for root in (default_models_folder(), PROBES) for path in root.glob("*/model.yaml")
)


@pytest.fixture(params=FOLDERS, ids=[folder.name for folder in FOLDERS])
def model(request: pytest.FixtureRequest) -> ModelSpec:
    return load_model(request.param)


def test_the_card_says_what_a_reader_must_know(model: ModelSpec) -> None:
    text = (model.folder / "README.md").read_text()

    for section in CARD_SECTIONS:
        body = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
        assert len(body.split()) >= 5, f"{section} is empty"


def test_research_use_is_said_where_it_is_declared(model: ModelSpec) -> None:
    text = (model.folder / "README.md").read_text()

    assert model.research_use
    assert "Research" in text or "Tests" in text


@pytest.fixture
def bare(model: ModelSpec) -> ModelSpec:
    """A model that runs with nothing but this package."""
    if model.weights or model.runner.kind != "python":
        pytest.skip(f"{model.name} needs weights: it has tests of its own")
    return model


def test_it_labels_a_phantom_with_nothing_but_its_labels(bare: ModelSpec) -> None:
    labels = labels_of(bare, Phantom())

    assert labels.any()
    assert set(np.unique(labels)) <= {0, *bare.segment_of}


def test_the_same_volume_gives_the_same_labels(bare: ModelSpec) -> None:
    first, second = (labels_of(bare, Phantom(noise_hu=15)) for _ in range(2))

    assert np.array_equal(first, second)


def test_it_runs_on_the_smallest_input_that_it_declares(bare: ModelSpec) -> None:
    specs = bare.inputs.values()
    phantom = Phantom(
        shape=(
            max(spec.min_slices for spec in specs),
            max(spec.min_rows for spec in specs),
            max(spec.min_columns for spec in specs),
        )
    )

    labels = labels_of(bare, phantom)

    assert labels.shape == phantom.grid.shape


def test_it_takes_a_volume_without_any_structure(bare: ModelSpec) -> None:
    if bare.name == "boxes":
        pytest.skip("it labels places, whatever is there")
    phantom = Phantom()
    empty = Volume(array=np.full_like(phantom.hu_volume, -1024), grid=phantom.grid)

    labels = entry_labels(bare, dict.fromkeys(bare.inputs, empty))

    assert not labels.any()


def test_it_leaves_its_input_as_it_was(bare: ModelSpec) -> None:
    phantom = Phantom()
    array = phantom.hu_volume.copy()

    entry_labels(bare, dict.fromkeys(bare.inputs, Volume(array=array, grid=phantom.grid)))

    assert np.array_equal(array, phantom.hu_volume)
