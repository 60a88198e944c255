"""``segnode run``: a folder in, organised results out, without a server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.cli.conftest import CHEST, FLAT, MAGNETIC, Segnode, write_mixed_folder
from tests.support.waiting import wait_for


def test_each_result_lies_under_the_series_it_was_made_of(finished_run: Path) -> None:
    results = list(finished_run.rglob("*.seg.dcm"))

    assert results == [finished_run / CHEST.uid("series") / "ct_tissue.seg.dcm"]
    seg = dcmread(results[0])
    assert seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == CHEST.uid("series")
    assert np.frombuffer(seg.PixelData, np.uint8).any()


def test_every_series_that_was_not_taken_is_named_with_its_reason(
    segnode: Segnode, finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "out")

    answer = segnode("run", finished_run.parent / "in", "out", "--json")

    outcomes = {one["series_instance_uid"]: one for one in answer.json["outcomes"]}
    assert outcomes[FLAT.uid("series")]["state"] == "parked"
    assert "no Frame of Reference" in outcomes[FLAT.uid("series")]["sentence"]
    assert outcomes[MAGNETIC.uid("series")]["state"] == "unmatched"
    assert "Modality" in outcomes[MAGNETIC.uid("series")]["sentence"]
    assert [Path(one["path"]).name for one in answer.json["refused"]] == ["broken.dcm"]
    assert len(list((tmp_path / "out/.segnode/spool/quarantine").iterdir())) == 1


def test_a_second_run_over_the_same_folder_runs_no_model(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    first = segnode("run", "in", "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.seg.dcm")}

    second = segnode("run", "in", "out")

    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.seg.dcm")}
    assert (first.code, second.code) == (0, 0)
    assert "infer" in first.err
    assert "infer" not in second.err
    assert before == after
    assert len(before) == 1


def test_a_run_killed_after_the_model_goes_on_without_running_it_again(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    environment = {
        **os.environ,
        "SEGNODE_CRASH_AT": "between encode and outbox",
        "SEGNODE_CRASH_MARK": str(tmp_path / "crashed"),
    }
    command = [sys.executable, "-m", "node", "run", str(tmp_path / "in"), str(tmp_path / "out")]
    killed = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=120,
    )

    answer = segnode("run", "in", "out", "--json")

    assert killed.returncode == -9
    assert answer.code == 0
    assert len(list((tmp_path / "out").rglob("*.seg.dcm"))) == 1
    assert ": infer " not in answer.err
    assert ": read labels " in answer.err


def test_other_rules_judge_the_same_folder_again(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "none.yaml").write_text(
        "rules: [{name: pet, when: {Modality: CT, slices: {min: 500}}, run: ct_tissue, send: []}]"
    )
    nothing = segnode("run", "in", "out", "--config", "none.yaml", "--json")

    answer = segnode("run", "in", "out", "--json")

    assert [one["state"] for one in nothing.json["outcomes"]] == ["unmatched"]
    assert [one["state"] for one in answer.json["outcomes"]] == ["done"]


def test_a_slice_added_later_gives_a_second_result_beside_the_first(
    segnode: Segnode, tmp_path: Path
) -> None:
    paths = CHEST.write(tmp_path / "in")
    late = paths[-1].read_bytes()
    paths[-1].unlink()
    first = segnode("run", "in", "out", "--json")
    paths[-1].write_bytes(late)

    second = segnode("run", "in", "out", "--json")

    results = sorted((tmp_path / "out" / CHEST.uid("series")).iterdir())
    assert first.json["outcomes"][0]["file"] == str(results[-1])
    assert second.json["outcomes"][0]["file"] == str(results[0])
    assert len(results) == 2
    assert "revision 2" in dcmread(results[0]).SeriesDescription


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("in", "in/out"), "lies inside INPUT"),
        (("missing", "out"), "is not a folder"),
        (("in", "out", "--model", "nothing"), "there is no model 'nothing'"),
        (("in", "out", "--config", "missing.yaml"), "cannot be read"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(
    segnode: Segnode, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    (tmp_path / "in").mkdir()

    answer = segnode("run", *arguments)

    assert answer.code == 2
    assert word in answer.err
    assert "Traceback" not in answer.err


def test_a_folder_without_dicom_is_a_failure(segnode: Segnode, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing here")

    answer = segnode("run", "in", "out")

    assert answer.code == 1
    assert "no DICOM instance was found" in answer.err


def test_explain_says_what_the_node_then_does(segnode: Segnode, tmp_path: Path) -> None:
    write_mixed_folder(tmp_path / "in")
    explained = segnode("explain", "in", "--json").json

    done = segnode("run", "in", "out", "--json").json

    would_run = {
        series["series_instance_uid"]
        for series in explained["series"]
        if any(rule["would_run"] for rule in series["rules"])
    }
    assert would_run == {
        one["series_instance_uid"] for one in done["outcomes"] if one["state"] == "done"
    }


def test_a_study_rule_runs_over_a_folder_without_waiting(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "node.yaml").write_text(
        "rules: [{name: set, study: {ct: {Modality: CT}}, run: ct_tissue, send: []}]"
    )

    answer = segnode("run", "in", "out", "--config", "node.yaml", "--json")

    outcomes = [(one["rule"], one["state"]) for one in answer.json["outcomes"]]
    assert outcomes == [("set", "done")]
    assert (tmp_path / "out" / CHEST.uid("series") / "ct_tissue.seg.dcm").is_file()


def test_a_set_that_stays_incomplete_is_named_with_what_is_missing(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in" / "a")
    MAGNETIC.write(tmp_path / "in" / "b")
    (tmp_path / "node.yaml").write_text(
        "rules: [{name: set, study: {ct: {Modality: CT, slices: {min: 99}}}, run: ct_tissue}]"
    )

    answer = segnode("run", "in", "out", "--config", "node.yaml", "--json")

    assert {one["series_instance_uid"] for one in answer.json["outcomes"]} == {
        CHEST.uid("series"),
        MAGNETIC.uid("series"),
    }
    assert not any(one["state"] == "done" for one in answer.json["outcomes"])
    assert all(one["sentence"] for one in answer.json["outcomes"])


def test_an_interrupted_run_says_how_to_go_on_and_keeps_the_attempt(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    environment = {
        **os.environ,
        "SEGNODE_CRASH_AT": "mid-inference",
        "SEGNODE_CRASH_HOW": "wait",
        "SEGNODE_CRASH_MARK": str(tmp_path / "inferring"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "run", str(tmp_path / "in"), str(tmp_path / "out")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    wait_for("the model at work", (tmp_path / "inferring").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    answer = segnode("run", "in", "out", "--json")

    assert process.returncode == 1
    assert err.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert answer.code == 0
    assert [one["state"] for one in answer.json["outcomes"]] == ["done"]


def test_where_all_images_are_refused_it_is_not_said_that_there_were_none(
    segnode: Segnode, tmp_path: Path
) -> None:
    paths = CHEST.write(tmp_path / "in")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-100])

    answer = segnode("run", "in", "out")

    assert answer.code == 1
    assert f"all {len(paths)} DICOM files were refused" in answer.err
    assert "no DICOM instance was found" not in answer.err
