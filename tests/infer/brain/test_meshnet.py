"""In slabs and in place, a network gives what it gives as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from node.domain.errors import JobFailed  # noqa: E402
from node.infer.brain import meshnet  # noqa: E402
from node.infer.brain.tfjs import load_network  # noqa: E402
from tests.infer.brain.heads import t1_image  # noqa: E402
from tests.infer.brain.networks import model_json, random_network, write_network  # noqa: E402
from tests.support.cases import Cases  # noqa: E402

WIDTHS, DILATIONS = (1, 6, 6, 6, 6, 4), (1, 4, 16, 2, 1)


def as_a_whole(network: object, image: NDArray[np.float32]) -> NDArray[np.int64]:
    with torch.inference_mode():
        scores = network(torch.from_numpy(image)[None, None])[0]  # type: ignore[operator]
    return scores.argmax(dim=0).numpy()


@pytest.mark.parametrize("shape", [(5, 12, 9), (32, 8, 8), (33, 9, 7), (95, 10, 11), (64, 1, 1)])
def test_slabs_give_the_labels_of_the_whole_network(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    content, data = model_json(random_network(sum(shape), WIDTHS, DILATIONS))
    network = load_network(write_network(tmp_path, content, data))
    image = np.random.default_rng(2).random(shape, np.float32)

    labels = meshnet.label_volume(network, image)

    assert len(np.unique(labels)) > 1
    assert np.array_equal(labels, as_a_whole(network, image))


# a network sees nothing in too small a piece, and takes its time over a large one
@pytest.mark.parametrize(
    ("name", "side"), [("model5_gw_ae", 32), ("model18cls", 32), ("mindgrab", 24)]
)
def test_the_published_networks_give_their_labels_in_slabs(
    name: str, side: int, shared_models: Cases
) -> None:
    image = t1_image(shared_models)[0][80 : 80 + 2 * side, 90 : 90 + side, 140 : 140 + side]
    image = (image / 255).astype(np.float32)
    network = load_network(shared_models / "brainchop" / name)

    labels = meshnet.label_volume(network, image)

    expected = as_a_whole(network, image)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(labels != expected) <= 2  # a tie of two classes, broken by rounding


def test_the_image_is_left_as_it_was(shared_models: Cases) -> None:
    image = np.random.default_rng(2).random((8, 8, 8), np.float32)
    before = image.copy()

    meshnet.label_volume(load_network(shared_models / "brainchop" / "model5_gw_ae"), image)

    assert np.array_equal(image, before)


def test_scores_that_are_no_numbers_end_the_job(tmp_path: Path) -> None:
    layers = random_network(1, WIDTHS, DILATIONS)
    layers[2].kernel[...] = np.nan
    network = load_network(write_network(tmp_path, *model_json(layers)))

    with pytest.raises(JobFailed, match="not finite") as caught:
        meshnet.label_volume(network, np.ones((4, 4, 4), np.float32))

    assert caught.value.permanent


def test_a_module_without_a_way_in_slabs_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.MaxPool3d(2), torch.nn.Conv3d(1, 2, 1))

    with pytest.raises(JobFailed, match="MaxPool3d"):
        meshnet.label_volume(network, np.ones((4, 4, 4), np.float32))


def test_a_network_that_ends_otherwise_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.ReLU())

    with pytest.raises(JobFailed, match="does not end in a convolution"):
        meshnet.label_volume(network, np.ones((4, 4, 4), np.float32))
