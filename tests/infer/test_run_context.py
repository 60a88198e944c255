"""Running a model: what it takes and returns is checked, padding goes in as it wants and comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.domain.errors import ConfigInvalid, JobFailed
from node.domain.quantity import Quantity
from node.infer import threshold
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import check_labels, cleared, fill, run_model
from node.infer.volume import Volume
from tests.support.phantoms import Phantom
from tests.support.rooms import entry_labels, labels_of, nothing_known, room

PHANTOM = Phantom(shape=(5, 24, 26))
VOLUME = Volume(array=PHANTOM.hu_volume, grid=PHANTOM.grid)
PROBE = Path(__file__).resolve().parents[1] / "support" / "models_probe" / "probe"
GEOMETRY = Phantom(shape=(3, 2, 2)).grid


@pytest.fixture
def probe() -> ModelSpec:
    return load_model(PROBE)


def failure_of(call: Callable[[], object]) -> str:
    with pytest.raises(JobFailed) as failure:
        call()
    assert failure.value.permanent
    return failure.value.reason


def test_parameters_of_the_job_replace_those_of_the_folder(probe: ModelSpec) -> None:
    labels = labels_of(probe, PHANTOM, {"method": "above", "threshold": 650})

    assert np.array_equal(labels == 1, VOLUME.array > 650)


def test_a_label_that_the_table_does_not_describe_fails_the_job(probe: ModelSpec) -> None:
    sentence = failure_of(lambda: labels_of(probe, PHANTOM, {"label_value": 7}))

    assert "labels.csv does not describe: [7]" in sentence


@pytest.mark.parametrize("roles", [(), ("ct",), ("image", "ct")])
def test_inputs_that_the_model_does_not_declare_fail_the_job(
    probe: ModelSpec, roles: tuple[str, ...], tmp_path: Path
) -> None:
    inputs = dict.fromkeys(roles, nothing_known(PHANTOM.stack))

    sentence = failure_of(lambda: run_model(probe, inputs, room(tmp_path), Stopwatch()))

    assert "probe takes ['image']" in sentence


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((5, 24, 25), np.uint8), np.zeros((5, 24, 26), np.float32)],
    ids=["shape", "type"],
)
def test_labels_that_are_not_on_the_grid_fail_the_job(
    probe: ModelSpec, wrong: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "run", lambda spec, volumes, room, report: wrong)

    sentence = failure_of(lambda: labels_of(probe, PHANTOM))

    assert "not labels on the grid" in sentence


def test_regions_are_bits_and_each_must_be_described(probe: ModelSpec) -> None:
    regions = replace(probe, has_regions=True)
    fields = np.full((2, 2, 2), 1, np.uint8)

    check_labels(regions, (2, 2, 2), fields)
    sentence = failure_of(lambda: check_labels(regions, (2, 2, 2), fields * 5))

    assert "does not describe: [3]" in sentence


def test_otsu_separates_two_classes(probe: ModelSpec) -> None:
    values = np.where(np.arange(5 * 24 * 26) % 3 == 0, 100, 10).reshape(5, 24, 26)
    volume = replace(VOLUME, array=values.astype(np.int16))

    labels = entry_labels(probe, {"image": volume}, {"method": "otsu"})

    assert np.array_equal(labels == 1, values == 100)


@pytest.mark.parametrize("parameters", [{"method": "magic"}, {"method": "above"}])
def test_wrong_parameters_of_the_threshold_fail_for_good(
    probe: ModelSpec, parameters: dict[str, object]
) -> None:
    failure_of(lambda: entry_labels(probe, {"image": VOLUME}, parameters))


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
