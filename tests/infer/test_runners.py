"""Running a model: what it takes and returns is checked, whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.domain.errors import JobFailed
from node.infer import threshold
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import check_labels, run_model
from node.infer.volume import Volume
from tests.support.phantoms import Phantom
from tests.support.rooms import entry_labels, labels_of, nothing_known, room

PHANTOM = Phantom(shape=(5, 24, 26))
VOLUME = Volume(array=PHANTOM.hu_volume, grid=PHANTOM.grid)


@pytest.fixture
def probe() -> ModelSpec:
    return load_model(Path(__file__).resolve().parent.parent / "support" / "models_probe" / "probe")


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
    regions = replace(probe, outputs=("regions",))
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
