"""From a refused or implausible series to what a person sees, by files that a sender sends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import ConfigInvalid
from node.dryrun.inspect_folder import inspect_folder
from node.infer.registry import load_model
from node.pipeline.accept import spool_settings
from node.pipeline.judge import refused_inputs
from node.process.health import NodeHealth
from node.spool.files import SpaceGuard
from node.words import show_degraded, tell_all
from tests.cli.conftest import Segnode
from tests.cli.conftest import segnode as segnode  # a fixture
from tests.support.node_in_process import MODELS_PROBE, SharedWorker
from tests.support.simulated_node import SimulatedNode, ct, simulated_node

RULE = {"name": "ct", "when": {"Modality": "CT"}, "run": "bounded", "send": ["shelf"]}


def health(node: SimulatedNode) -> dict[str, str]:
    space = SpaceGuard(node.node.data_dir, spool_settings(node.node.plan.config).watermark)
    return show_degraded(NodeHealth(node.node.engine, space).health())


def parameters_of(seg: Dataset) -> str:
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    return str(algorithm.AlgorithmParameters)


# --- what must not be given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "slices", "code", "words"),
    [
        ({"BodyPartExamined": "KNEE"}, 8, "model_refuses", "body_region is LEG"),
        ({"BodyPartExamined": None, "SeriesDescription": "Knie"}, 8, "model_refuses", "is LEG"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, 8, "model_refuses", "is_localizer"),
        ({"FrameOfReferenceUID": None}, 8, "no_frame_of_reference", "no Frame of Reference"),
    ],
)
def test_a_refused_series_is_parked_with_code_and_sentence_and_explained_alike(
    tmp_path: Path,
    worker: SharedWorker,
    attributes: dict[str, Any],
    slices: int,
    code: str,
    words: str,
) -> None:
    phantom = ct(slices=slices, **attributes)
    with simulated_node(tmp_path, worker, rules=[RULE]) as node:
        node.receive(phantom.files())

        node.settle()

        (row,) = node.table("match")
        finding = inspect_folder(node.node.plan, phantom.write(tmp_path / "files")[0].parent)
    assert (row["state"], row["reasons"]) == ("parked", [code])
    assert words in row["sentence"]
    reasons = finding.series[0].rules[0].reasons
    assert row["sentence"].startswith(tell_all(reasons))


def test_too_little_of_the_body_is_parked_and_enough_is_not(
    tmp_path: Path, worker: SharedWorker
) -> None:
    little, enough = ct("little", slices=3), ct("enough", slices=20)
    thin = little.datasets()
    for k, instance in enumerate(sorted(thin, key=lambda one: one.ImagePositionPatient[2])):
        instance.ImagePositionPatient[2] = 10.0 * k
    with simulated_node(tmp_path, worker, rules=[RULE]) as node:
        node.receive(thin)
        node.receive(enough.files())

        node.settle()

        rows = {row["series_key"]: row for row in node.table("match")}
    parked = rows[little.uid("series")]
    assert (parked["state"], parked["reasons"]) == ("parked", ["too_little_body"])
    assert "30 mm of the body along the stack, bounded needs 100 mm" in parked["sentence"]
    assert rows[enough.uid("series")]["state"] == "queued"


def test_a_mistake_in_what_a_model_refuses_is_told_with_its_path(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODELS_PROBE / "bounded", tmp_path / "models/bounded"))
    text = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(text.replace("body_region: LEG", "body_region: LEGS"))

    with pytest.raises(ConfigInvalid) as refusal:
        refused_inputs(load_model(folder))

    ((where, sentence),) = refusal.value.mistakes
    assert where == "models/bounded/model.yaml: inputs.image.refuses.any.0.body_region"
    assert sentence.startswith("'LEGS' is none of HEAD, NECK")


# --- what cannot be ------------------------------------------------------------------------------


def test_an_implausible_result_is_marked_kept_and_delivered_when_it_is_accepted(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker, rules=[RULE]) as node:
        node.receive(ct().files())

        node.run()

        (job,) = node.table("job")
        kept, degraded = node.delivered(), health(node)
        (seg,) = node.segmentations()
        api = node.node.site.request("GET", f"/api/v1/jobs/{job['id']}")
        answer = node.node.site.request("POST", f"/api/v1/jobs/{job['id']}/accept")
        node.deliver()
        delivered, (after,), healthy = node.delivered(), node.table("job"), health(node)
    assert (job["state"], job["reasons"]) == ("implausible", ["implausible_volume"])
    assert job["sentence"].startswith("implausible: Bright ")
    assert "ml, plausible is up to 1000 ml" in job["sentence"]
    assert job["sentence"].endswith(f": not delivered until: segnode jobs accept {job['id']}")
    assert kept == set()
    assert "segnode jobs list --state implausible" in degraded["implausible"]
    assert "implausible" not in healthy
    assert json.loads(api.body)["matches"][0]["reasons"] == ["implausible_volume"]
    assert answer.status == 204
    assert (after["state"], delivered) == ("done", {str(seg.SOPInstanceUID)})
    assert seg.SeriesDescription.endswith("(AI, RESEARCH, IMPLAUSIBLE)")
    assert seg.ContentDescription.startswith("IMPLAUSIBLE, ")
    assert "implausible=Bright " in parameters_of(seg)
    assert np.frombuffer(seg.PixelData, np.uint8).any()


def test_a_node_that_delivers_it_all_the_same_says_so(tmp_path: Path, worker: SharedWorker) -> None:
    keys = {"rules": [RULE], "work": {"on_implausible": "deliver"}}
    with simulated_node(tmp_path, worker, **keys) as node:
        node.receive(ct().files())

        node.run()

        (job,) = node.table("job")
        (seg,) = node.segmentations()
        delivered = node.delivered()
    assert (job["state"], job["reasons"]) == ("done", ["implausible_volume"])
    assert job["sentence"].startswith("implausible: Bright ")
    assert "accept" not in job["sentence"]
    assert delivered == {str(seg.SOPInstanceUID)}
    assert "IMPLAUSIBLE" in seg.SeriesDescription


def test_a_plausible_result_has_no_mark(tmp_path: Path, worker: SharedWorker) -> None:
    rule = {**RULE, "parameters": {"method": "above", "threshold": 300}}
    with simulated_node(tmp_path, worker, rules=[rule]) as node:
        node.receive(ct().files())

        node.run()

        (job,) = node.table("job")
        (seg,) = node.segmentations()
    assert (job["state"], job["reasons"]) == ("done", [])
    assert "IMPLAUSIBLE" not in seg.SeriesDescription + seg.ContentDescription
    assert "implausible" not in parameters_of(seg)


# --- without a server ----------------------------------------------------------------------------


def test_run_writes_no_implausible_result_and_then_does_with_the_option(
    segnode: Segnode, tmp_path: Path
) -> None:
    ct().write(tmp_path / "in")
    command = ("run", "in", "out", "--models-dir", MODELS_PROBE, "--model", "bounded", "--json")

    held = segnode(*command)
    nothing = list((tmp_path / "out").rglob("*.seg.dcm"))
    taken = segnode(*command, "--accept-implausible")

    (before,), (after,) = held.json["outcomes"], taken.json["outcomes"]
    assert (held.code, before["state"], before["file"]) == (1, "implausible", None)
    assert before["reasons"] == ["implausible_volume"]
    assert before["sentence"].endswith("not written without --accept-implausible")
    assert nothing == []
    assert (taken.code, after["state"]) == (0, "done")
    assert ": infer " not in taken.err
    assert "IMPLAUSIBLE" in dcmread(after["file"]).SeriesDescription
    assert "implausible: Bright" in after["sentence"]


def test_run_with_the_option_from_the_start_writes_it_at_once(
    segnode: Segnode, tmp_path: Path
) -> None:
    ct().write(tmp_path / "in")
    command = ("run", "in", "out", "--models-dir", MODELS_PROBE, "--model", "bounded")

    answer = segnode(*command, "--accept-implausible")

    assert answer.code == 0
    assert len(list((tmp_path / "out").rglob("*.seg.dcm"))) == 1
    assert "implausible: Bright" in answer.out


def test_people_see_it_in_every_list_and_free_it_by_one_command(
    segnode: Segnode, tmp_path: Path
) -> None:
    ct().write(tmp_path / "in")
    segnode("run", "in", "out", "--models-dir", MODELS_PROBE, "--model", "bounded")
    config = ("--config", "out/.segnode/rules.yaml")

    status = segnode("status", *config)
    jobs = segnode("jobs", "list", "--state", "implausible", *config)
    matches = segnode("jobs", "list", "--matches", "--state", "implausible", *config)
    shown = segnode("jobs", "show", "1", *config)
    accepted = segnode("jobs", "accept", "1", *config)
    again = segnode("jobs", "accept", "1", *config)

    assert "1 implausible" in status.out
    assert "segnode jobs list --state implausible" in status.out
    assert "segnode jobs accept 1" in jobs.out
    assert "bounded" in matches.out
    assert "implausible_volume" in shown.out
    assert accepted.code == 0
    assert again.code != 0
    assert "is done and cannot be accepted" in again.err
