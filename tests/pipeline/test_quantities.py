"""Every wrong input of ``tests/wrong_inputs/quantities``: parked with its reason, or right at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.domain.header import Header
from node.infer.labels_file import read_labels
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import SimulatedNode, ct, simulated_node
from tests.wrong_inputs.case import Case
from tests.wrong_inputs.quantities import CASES, padded

RULES = [
    {"name": "tissue", "when": {"Modality": "CT"}, "run": "ct_tissue"},
    {"name": "in HU", "when": {"quantity": "HU"}, "run": "probe"},
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedNode]:
    """One node for all cases that only have to be judged."""
    worker = SharedWorker()
    with simulated_node(tmp_path_factory.mktemp("node"), worker, rules=RULES) as opened:
        yield opened
    worker.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_series_without_numbers_of_one_unit_is_parked(node: SimulatedNode, case: Case) -> None:
    node.receive(file.content for file in case.files())

    node.settle()

    uid = ct(case.name, slices=24, study=case.name).uid("study")
    (tissue,) = (
        row
        for row in node.table("match")
        if row["study_instance_uid"] == uid and row["rule"] == "tissue"
    )
    if case.state == "done":
        assert tissue["state"] == "queued"
        assert tissue["reasons"] == []
        return
    assert tissue["state"] == case.state
    assert tissue["reasons"] == list(case.reasons)
    assert case.sentence in tissue["sentence"]


def test_a_rule_may_ask_for_a_quantity(node: SimulatedNode) -> None:
    hounsfield, iodine = ct("in HU", study="in HU"), ct("iodine", study="iodine")
    node.receive(hounsfield.datasets())
    changed = iodine.datasets()
    for instance in changed:
        instance.RescaleType = "US"
    node.receive(changed)

    node.settle()

    header = Header.from_json(node.series(iodine).header)
    states = {
        row["study_instance_uid"]: (row["rule"], row["state"])
        for row in node.table("match")
        if row["rule"] == "in HU"
        and row["study_instance_uid"] in (hounsfield.uid("study"), iodine.uid("study"))
    }
    assert states == {hounsfield.uid("study"): ("in HU", "queued")}
    assert str(header.get("quantity")) == "Missing(reason='not established: Rescale Type US')"


def test_the_series_row_keeps_the_codes_of_the_gate(node: SimulatedNode) -> None:
    series = ct("slope 0 in one", study="slope 0 in one")
    instances = series.datasets()
    instances[3].RescaleSlope = 0
    node.receive(instances)

    node.settle()

    assert node.series(series).gate == {
        "findings": [{"code": "rescale_slope_zero", "facts": {"count": 1, "of": 8}}],
        "notes": [],
    }


def test_what_is_found_on_padding_is_taken_out_counted_and_told(
    tmp_path: Path, worker: SharedWorker
) -> None:
    """The probe labels everything: what lies beside the circle goes, and the object says so."""
    everything = {"method": "above", "threshold": -5000}
    rules = [{"name": "all", "when": {}, "run": "probe", "parameters": everything}]
    phantom = replace(ct(slices=24), attributes=(("RescaleType", "HU"),))
    instances = phantom.datasets()
    for number, instance in enumerate(instances):
        padded(number, instance)
    beside = int(sum((_stored(instance) == 63536).sum() for instance in instances))
    rules[0]["when"] = {"Modality": "CT"}
    with simulated_node(tmp_path, worker, rules=rules) as node:
        node.receive(instances)

        node.run()

        (row,) = (row for row in node.table("result") if row["form"] == "labels")
        labels, facts = read_labels(node.node.plan.results_folder / row["file_name"])
        (job,) = node.table("job")
        (seg,) = node.segmentations()
    assert beside > 1000
    assert np.count_nonzero(labels) == labels.size - beside
    assert facts["ran"]["padding"].startswith(f"{beside} voxels given as ")
    assert facts["ran"]["padding_cleared"] == f"{beside} voxels"
    assert f"labels on {beside} voxels of padding were taken out" in job["sentence"]
    (algorithm,) = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert f"padding_cleared={beside} voxels" in str(algorithm.AlgorithmParameters)


def _stored(instance: Dataset) -> np.ndarray:
    return np.frombuffer(instance.PixelData, "<u2")
