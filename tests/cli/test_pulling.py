"""``segnode models pull``, and what is told before a model without its files gets a job."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Segnode
from tests.support.file_server import Files, serving_files
from tests.support.node_in_process import MODELS_PROBE

WEIGHTS = bytes(range(256)) * 8000


@pytest.fixture
def site() -> Iterator[Files]:
    with serving_files(Files({"/learned.bin": WEIGHTS})) as files:
        yield files


@pytest.fixture
def config(tmp_path: Path, site: Files) -> Path:
    """A configuration with the models ``learned`` and ``second``, whose weights are on the site."""
    for name in ("learned", "second"):
        folder = tmp_path / "models" / name
        shutil.copytree(MODELS_PROBE / "probe", folder)
        weights = {
            "path": "models/learned.bin",
            "url": f"{site.url}/learned.bin",
            "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
            "licence": "Research-Only",
            "commercial_use": False,
        }
        path = folder / "model.yaml"
        text = path.read_text().replace("name: probe", f"name: {name}")
        path.write_text(f"{text}\nweights: [{json.dumps(weights)}]\n")
    return write_config(tmp_path)


def write_config(tmp_path: Path, **more: object) -> Path:
    path = tmp_path / "node.yaml"
    content = {
        "models_dirs": ["models"],
        "weights_dir": "weights",
        "rules": [{"name": "it", "when": {"Modality": "CT"}, "run": "learned", "send": []}],
        **more,
    }
    path.write_text(json.dumps(content))
    return path


def test_pull_tells_licence_place_progress_and_outcome(
    segnode: Segnode, config: Path, tmp_path: Path, site: Files
) -> None:
    answer = segnode("models", "pull", "learned", "--config", config)

    assert answer.code == 0
    assert answer.out == (
        f"learned: 1 of 1 files fetched, each is the right one: {tmp_path}/weights/learned\n"
    )
    assert "nothing runs with them before you have read it" in answer.err
    assert f"models/learned.bin from {site.url}/learned.bin" in answer.err
    assert "learned.bin: 2.0 MB of 2.0 MB, 100 %" in answer.err
    assert (tmp_path / "weights/learned/models/learned.bin").read_bytes() == WEIGHTS


def test_pull_again_asks_nobody(segnode: Segnode, config: Path, site: Files) -> None:
    segnode("models", "pull", "learned", "--config", config)
    asked = len(site.asked)

    answer = segnode("models", "pull", "learned", "--config", config)

    assert answer.out.startswith("learned: all 1 files were there")
    assert len(site.asked) == asked


def test_a_pull_that_fails_is_one_sentence(segnode: Segnode, config: Path, site: Files) -> None:
    site.contents.clear()

    answer = segnode("models", "pull", "learned", "--config", config)

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.splitlines()[-1] == f"{site.url}/learned.bin is not there (HTTP 404)"


def test_the_others_are_pulled_where_one_fails(
    segnode: Segnode, config: Path, site: Files, tmp_path: Path
) -> None:
    site.refusals = [403]

    answer = segnode("models", "pull", "learned", "second", "--config", config)

    assert answer.code == 1
    assert "learned: http" in answer.err
    assert (tmp_path / "weights/second/models/learned.bin").is_file()


def test_all_takes_every_model_that_needs_files(
    segnode: Segnode, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()

    answer = segnode("models", "pull", "--all", "--from", "mirror", "--config", config)

    assert answer.code == 1
    assert "learned: models/learned.bin of learned is not there" in answer.err
    assert "wholebody_ct: configs/inference.json of wholebody_ct is not there" in answer.err
    assert "ct_tissue" not in answer.err


def test_the_configured_mirror_is_asked_and_nobody_else(
    segnode: Segnode, config: Path, tmp_path: Path, site: Files
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/learned.bin").write_bytes(WEIGHTS)
    write_config(tmp_path, weights_mirror="mirror")

    answer = segnode("models", "pull", "learned", "--config", config)

    assert answer.code == 0
    assert site.asked == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name models, or give --all"),
        (("learned", "--all"), "name models, or give --all"),
        (("unheard",), "no model 'unheard'; there are:"),
        (("learned", "--from", "nowhere"), "is not a folder"),
    ],
)
def test_wrong_use_is_told(
    segnode: Segnode, config: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    answer = segnode("models", "pull", *arguments, "--config", config)

    assert answer.code == 2
    assert sentence in " ".join(answer.err.replace("│", "").split())


def test_check_config_tells_what_models_of_rules_lack(segnode: Segnode, config: Path) -> None:
    answer = segnode("check-config", config)
    as_json = segnode("check-config", config, "--json").json

    assert answer.code == 0
    assert "learned: 1 of 1 files are missing, models/learned.bin among them" in answer.err
    assert "read Research-Only and name it in accept_licences" in answer.err
    assert "second" not in answer.err
    assert len(as_json["warnings"]) == 2
    assert as_json["good"]


def doctor_of(segnode: Segnode, config: Path) -> dict[str, str]:
    (check,) = [
        check
        for check in segnode("doctor", "--config", config, "--json").json
        if check["name"] == "model learned"
    ]
    return check


def test_doctor_judges_the_models_of_rules(segnode: Segnode, config: Path, tmp_path: Path) -> None:
    missing = doctor_of(segnode, config)
    assert missing["health"] == "bad"
    assert "segnode models pull learned" in missing["sentence"]

    segnode("models", "pull", "learned", "--config", config)
    locked = doctor_of(segnode, config)
    assert (locked["health"], "accept_licences" in locked["sentence"]) == ("bad", True)

    write_config(tmp_path, accept_licences=["Research-Only"])
    assert doctor_of(segnode, config)["health"] == "good"

    (tmp_path / "weights/learned/models/learned.bin").write_bytes(b"damaged")
    damaged = doctor_of(segnode, config)
    assert damaged["health"] == "bad"
    assert "is not the file with the hash" in damaged["sentence"]
