"""Padding as a model wants it, and labels that lie on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import ConfigInvalid
from node.domain.quantity import Quantity
from node.infer.registry import load_model
from node.infer.run_context import cleared, fill
from node.infer.volume import Volume
from tests.support.phantoms import Phantom

GEOMETRY = Phantom(shape=(3, 2, 2)).grid
PROBE = Path(__file__).parents[1] / "support" / "models_probe" / "probe"


def volume(quantity: Quantity, dtype: str = "i2") -> Volume:
    array = np.arange(7, 19).reshape(3, 2, 2).astype(dtype)
    where = np.zeros((3, 2, 2), bool)
    where[0, 0, 0] = where[2] = True
    return Volume(array=array, grid=GEOMETRY, quantity=quantity, padding=where)


def on_padding(filled: Volume) -> set[float]:
    return set(filled.array[filled.padding].tolist())


def test_padding_is_air_in_hounsfield_units_and_the_least_number_elsewhere() -> None:
    hounsfield, padding = fill(volume(Quantity.HU), None)
    signal, _ = fill(volume(Quantity.MR_SIGNAL, "f4"), None)

    assert on_padding(hounsfield) == {-1024}
    assert on_padding(signal) == {8.0}
    assert padding is not None
    assert padding.words == "5 voxels given as -1024"


@pytest.mark.parametrize(
    ("wanted", "dtype"), [(-2000, np.int16), (-1024.5, np.float32), (1e6, np.float32)]
)
def test_a_model_gets_padding_as_the_number_that_it_names(wanted: float, dtype: type) -> None:
    filled, _ = fill(volume(Quantity.HU), wanted)

    assert on_padding(filled) == {wanted}
    assert filled.array.dtype == dtype
    assert filled.array[0, 0, 1] == 8


def test_a_volume_without_padding_stays_as_it_is() -> None:
    plain = Volume(array=np.zeros((3, 2, 2), np.int16), grid=GEOMETRY)

    assert fill(plain, -1000) == (plain, None)


def test_labels_on_padding_are_taken_out_and_counted() -> None:
    _, padding = fill(volume(Quantity.HU), None)
    assert padding is not None
    labels: NDArray[np.uint8] = np.full((3, 2, 2), 2, np.uint8)
    labels.flags.writeable = False

    found, number = cleared(labels, padding)

    assert number == 5
    assert np.array_equal(found > 0, ~padding.where)
    assert labels.all()


def model_with(folder: Path, lines: str) -> Path:
    target = folder / "probe"
    target.mkdir()
    for source in PROBE.iterdir():
        text = source.read_text()
        if source.name == "model.yaml":
            text = text.replace("    accepts: {}\n", f"    accepts: {{}}\n{lines}")
        (target / source.name).write_text(text)
    return target


def test_a_model_says_what_it_takes(tmp_path: Path) -> None:
    lines = "    quantity: [HU, SUVBW]\n    padding: -1000\n    labels_on_padding: true\n"

    given = load_model(model_with(tmp_path, lines)).inputs["image"]

    assert given.quantities == (Quantity.HU, Quantity.SUVBW)
    assert (given.padding, given.labels_on_padding) == (-1000, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("quantity: Hu", "did you mean HU?"),
        ("quantity: UNSPECIFIED", "no quantity 'UNSPECIFIED'"),
        ("quantity: [HU, hounsfield]", "no quantity 'hounsfield'"),
        ("padding: .nan", "finite"),
    ],
)
def test_a_quantity_that_there_is_not_stops_the_start(
    tmp_path: Path, line: str, words: str
) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        load_model(model_with(tmp_path, f"    {line}\n"))

    assert words in str(invalid.value)
    assert "model.yaml: inputs.image" in str(invalid.value)
