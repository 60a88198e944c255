"""The head networks as model folders: DICOM files in, the labels of the published recipe out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from node.domain.errors import JobFailed
from node.infer.registry import default_models_folder, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import run_model, with_parameters
from tests.infer.brain.heads import HeadSeries, acquired, t1_image
from tests.support.cases import Cases
from tests.support.rooms import given_files, room

pytest.importorskip("torch")

from tests.infer.brain.direct import direct_labels

# a piece of the head in which the network finds something; the crop of its model.yaml
MODELS = {
    "brain_t1_meshnet": ("model18cls", (slice(90, 160), slice(60, 130), slice(100, 160)), 0.2, 0),
    "mindgrab": ("mindgrab", (slice(100, 132), slice(70, 102), slice(110, 142)), 0.5, 20),
}


def in_room(name: str, shared_models: Cases, folder: Path) -> Path:
    """The network where a pull would have put it."""
    weights_dir = folder / "weights"
    shutil.copytree(shared_models / "brainchop" / MODELS[name][0], weights_dir / name)
    return weights_dir


def piece_of(name: str, shared_models: Cases) -> HeadSeries:
    array, affine = t1_image(shared_models)
    return HeadSeries(volume=acquired(array[MODELS[name][1]], affine, "coronal"), series=name)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name == "mindgrab" else []) for name in MODELS],
)
def test_a_series_of_files_gives_the_labels_of_the_published_recipe(
    name: str, shared_models: Cases, tmp_path: Path
) -> None:
    network, _, above, margin = MODELS[name]
    series = piece_of(name, shared_models)
    model = load_model(default_models_folder() / name)
    inputs = {model.grid_role: given_files(series, tmp_path / "series")}
    here = room(tmp_path, weights_dir=in_room(name, shared_models, tmp_path))

    labels = run_model(model, inputs, here, Stopwatch()).labels

    expected = direct_labels(
        series.volume.array.astype(np.float64),
        series.volume.grid.affine_lps,
        shared_models / "brainchop" / network,
        above=above,
        margin=margin,
    )
    assert labels.any()
    assert set(np.unique(labels)) <= {0, *model.segment_of}
    assert np.count_nonzero(labels != expected) <= 2  # a tie of two classes, broken by rounding


@pytest.mark.parametrize("name", MODELS)
def test_every_class_of_the_network_has_a_segment(name: str, shared_models: Cases) -> None:
    from node.infer.brain.tfjs import Convolution, read_layers

    last = read_layers(shared_models / "brainchop" / MODELS[name][0])[-1]

    model = load_model(default_models_folder() / name)

    assert isinstance(last, Convolution)
    assert sorted(model.segment_of) == list(range(1, last.kernel.shape[0]))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"crop": 1}, "crop_above"),
        ({"crop_above": "much"}, "crop_above"),
        ({"crop_above": 2.0}, "no box above 2.0"),
    ],
)
def test_parameters_that_it_does_not_know_end_the_job(
    parameters: dict[str, object], sentence: str, shared_models: Cases, tmp_path: Path
) -> None:
    name = "brain_t1_meshnet"
    model = with_parameters(load_model(default_models_folder() / name), parameters)
    series = given_files(piece_of(name, shared_models), tmp_path / "series")
    here = room(tmp_path, weights_dir=in_room(name, shared_models, tmp_path))

    with pytest.raises(JobFailed, match=sentence) as caught:
        run_model(model, {"t1": series}, here, Stopwatch())

    assert caught.value.permanent


def test_another_network_in_its_place_is_refused(shared_models: Cases, tmp_path: Path) -> None:
    model = load_model(default_models_folder() / "brain_t1_meshnet")
    weights_dir = tmp_path / "weights"
    shutil.copytree(shared_models / "brainchop" / "mindgrab", weights_dir / model.name)
    inputs = {"t1": given_files(piece_of(model.name, shared_models), tmp_path / "series")}

    with pytest.raises(JobFailed, match="is not the file with the hash"):
        run_model(model, inputs, room(tmp_path, weights_dir=weights_dir), Stopwatch())
