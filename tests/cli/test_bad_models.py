"""One bad model folder is told and set aside; nothing else stops for it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from node.cli import serving
from node.pipeline.build import plan
from tests.cli.conftest import CHEST, Segnode
from tests.support.node_in_process import MODELS_PROBE

BAD = "models/bad/README.md: is missing: every model has a card"


def write_config(tmp_path: Path, run: str) -> Path:
    path = tmp_path / "node.yaml"
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": run, "send": []}
    content = {
        "data_dir": "data",
        "models_dirs": ["models"],
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "rules": [rule],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A rule on a good model, beside the folder of one whose card is missing."""
    for name in ("probe", "bad"):
        shutil.copytree(MODELS_PROBE / "probe", tmp_path / "models" / name)
    model = tmp_path / "models" / "bad" / "model.yaml"
    model.write_text(model.read_text().replace("name: probe", "name: bad"))
    (tmp_path / "models" / "bad" / "README.md").unlink()
    return write_config(tmp_path, "probe")


@pytest.fixture
def using_it(config: Path, tmp_path: Path) -> Path:
    """A rule on the bad model itself."""
    return write_config(tmp_path, "bad")


def test_check_config_is_good_and_tells(segnode: Segnode, config: Path) -> None:
    answer = segnode("check-config", config)
    as_json = segnode("check-config", config, "--json").json

    assert (answer.code, answer.out[:12]) == (0, "good: 1 rule")
    assert answer.err == f"set aside: model bad: {BAD}\n"
    assert as_json["good"]
    assert as_json["warnings"] == [f"bad: {BAD}"]


def test_a_rule_that_uses_it_is_refused(segnode: Segnode, using_it: Path) -> None:
    answer = segnode("check-config", using_it)

    assert answer.code == 2
    assert f"rules.0.run: model bad cannot be used: {BAD}" in answer.err


def test_the_node_starts_and_its_log_tells(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        serving.prepare(plan(config), set())

    (record,) = [each for each in caplog.records if each.msg == "a model is set aside"]
    assert (record.model, record.sentence) == ("bad", BAD)


def test_doctor_calls_it_bad(segnode: Segnode, config: Path) -> None:
    checks = {row["name"]: row for row in segnode("doctor", "--config", config, "--json").json}

    assert checks["model probe"]["health"] == "good"
    assert checks["model bad"] == {"name": "model bad", "health": "bad", "sentence": BAD}


def test_the_list_shows_it_as_bad(segnode: Segnode, config: Path) -> None:
    shown = segnode("models", "list", "--config", config).out.splitlines()
    as_json = segnode("models", "list", "--config", config, "--json").json

    (line,) = [line for line in shown if line.startswith("bad ")]
    assert line.split() == ["bad", "bad", *BAD.split()]
    assert any(line.startswith("probe ") for line in shown)
    assert [(row["name"], row["mistakes"]) for row in as_json["bad"]] == [
        ("bad", [{"path": BAD.split(": ")[0], "mistake": BAD.split(": ", 1)[1]}])
    ]
    assert "bad" not in {row["name"] for row in as_json["items"]}


@pytest.mark.parametrize("command", ["show", "check"])
def test_it_is_told_when_it_is_asked_for(segnode: Segnode, config: Path, command: str) -> None:
    answer = segnode("models", command, "bad", "--config", config)

    assert answer.code == 2
    assert BAD in answer.err


def test_others_are_pulled(segnode: Segnode, config: Path) -> None:
    answer = segnode("models", "pull", "probe", "--config", config)

    assert (answer.code, answer.out) == (0, "probe: needs no files from elsewhere\n")
    assert f"set aside: model bad: {BAD}" in answer.err


def test_it_cannot_be_pulled(segnode: Segnode, config: Path) -> None:
    answer = segnode("models", "pull", "bad", "--config", config)

    assert answer.code == 2
    assert f"model bad cannot be used: {BAD}" in answer.err


def test_a_folder_is_run_by_others(segnode: Segnode, config: Path, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")

    by_rule = segnode("run", "in", "out", "--config", config)
    by_name = segnode("run", "in", "named", "--models-dir", "models", "--model", "probe")

    for answer in (by_rule, by_name):
        assert answer.code == 0
        assert f"set aside: model bad: {BAD}" in answer.err


def test_it_cannot_be_run(segnode: Segnode, config: Path, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")

    answer = segnode("run", "in", "out", "--models-dir", "models", "--model", "bad")

    assert answer.code == 2
    assert f"--model: model bad cannot be used: {BAD}" in answer.err


def test_of_two_models_with_one_name_neither_runs(segnode: Segnode, config: Path) -> None:
    shutil.copytree(config.parent / "models" / "probe", config.parent / "more" / "probe")
    content = json.loads(config.read_text()) | {"models_dirs": ["models", "more"]}
    config.write_text(json.dumps(content))

    answer = segnode("check-config", config)

    assert answer.code == 2
    assert "rules.0.run: model probe cannot be used: more/probe: is also the name of" in answer.err
