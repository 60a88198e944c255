"""``segnode models``: what is there, found by what it takes and by what may be done with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import CHEST, Segnode

REPOSITORY = Path(__file__).parents[2]
PROBE = REPOSITORY / "tests" / "support" / "models_probe" / "probe"

# what a list of models may not wait for
HEAVY = {
    "torch", "monai", "SimpleITK", "numpy", "pydicom", "highdicom", "pynetdicom", "sqlalchemy",
    "fastapi", "uvicorn", "alembic",
}  # fmt: skip


def add_model(folder: Path, name: str, changes: Mapping[str, Any]) -> None:
    """What a newcomer does: copy the folder of a model, change its name and what it is."""
    shutil.copytree(PROBE, folder / name)
    path = folder / name / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"name": name} | changes))


def weights(path: str, licence: str, *, commercial_use: bool) -> dict[str, Any]:
    return {
        "path": path,
        "url": f"https://example.org/{path}",
        "sha256": "5e" * 32,
        "licence": licence,
        "commercial_use": commercial_use,
    }


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models that differ in what they take, may and need; one of two files is there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    folder = tmp_path / "models"
    add_model(
        folder,
        "head_mr",
        {
            "inputs": {
                "t1": {"accepts": {"Modality": "MR", "BodyPartExamined": ["HEAD", "BRAIN"]}}
            },
            "weights": [weights("model.bin", "MIT", commercial_use=True)],
            "resources": {"device": "cuda"},
        },
    )
    add_model(
        folder,
        "chest_ct",
        {
            "inputs": {
                "ct": {
                    "accepts": {
                        "any": [{"Modality": "CT"}, {"Modality": "PT"}],
                        "not": {"BodyPartExamined": "HEAD"},
                    }
                }
            },
            "weights": [
                weights("fast.bin", "CC-BY-NC-4.0", commercial_use=False),
                weights("fine.bin", "CC-BY-NC-4.0", commercial_use=False),
            ],
            "resources": {"device": "auto"},
        },
    )
    add_model(folder, "anything", {})
    here = tmp_path / "share" / "segnode" / "weights" / "chest_ct"
    here.mkdir(parents=True)
    (here / "fast.bin").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), {"anything", "chest_ct", "head_mr"}),
        (("--modality", "CT"), {"anything", "chest_ct"}),
        (("--modality", "pt"), {"anything", "chest_ct"}),
        (("--modality", "MR"), {"anything", "head_mr"}),
        (("--body-part", "HEAD"), {"anything", "head_mr"}),
        (("--modality", "MR", "--body-part", "KNEE"), {"anything"}),
        (("--licence", "mit"), {"head_mr"}),
        (("--licence", "cc-by"), {"chest_ct"}),
        (("--commercial",), {"anything", "head_mr"}),
        (("--device", "cuda"), {"chest_ct", "head_mr"}),
        (("--device", "cpu"), {"anything", "chest_ct"}),
        (("--device", "cpu", "--modality", "MR"), {"anything"}),
    ],
)
def test_models_are_found_by_what_they_take_and_may(
    segnode: Segnode, models: Path, options: tuple[str, ...], names: set[str]
) -> None:
    answer = segnode("models", "list", "--models-dir", models, *options, "--json")

    found = {row["name"] for row in answer.json["items"]}
    assert found & {"anything", "chest_ct", "head_mr"} == names


def test_the_list_says_what_may_be_done_and_what_is_missing(segnode: Segnode, models: Path) -> None:
    lines = segnode("models", "list", "--models-dir", models).out.splitlines()

    rows = {line.split()[0]: line for line in lines[1:]}
    assert "t1 (MR)" in rows["head_mr"]
    assert "MIT" in rows["head_mr"]
    assert "1 of 1 missing" in rows["head_mr"]
    assert "CC-BY-NC-4.0" in rows["chest_ct"]
    assert "no; accept_licences must name it" in rows["chest_ct"]
    assert "1 of 2 missing" in rows["chest_ct"]
    assert "none needed" in rows["anything"]


def test_an_accepted_licence_is_shown_as_accepted(
    segnode: Segnode, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "node.yaml").write_text(
        "models_dirs: [models]\naccept_licences: [CC-BY-NC-4.0]\n"
        "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue, send: []}]\n"
    )

    answer = segnode("models", "list", "--licence", "CC-BY-NC", "--config", "node.yaml")

    assert "no; accepted" in answer.out


def test_show_names_files_licences_parameters_and_the_card(segnode: Segnode, models: Path) -> None:
    answer = segnode("models", "show", "chest_ct", "--models-dir", models)

    files = [line.split() for line in answer.out.splitlines() if ".bin" in line]
    assert [row[:4] for row in files] == [
        ["fast.bin", "yes", "CC-BY-NC-4.0", "no"],
        ["fine.bin", "no", "CC-BY-NC-4.0", "no"],
    ]
    assert "method=mean" in answer.out
    assert "## Intended use" in answer.out


def test_show_tells_the_last_runs_of_this_model_alone(segnode: Segnode, config: Path) -> None:
    shown = segnode("models", "show", "ct_tissue", "--config", config)
    ran = segnode("models", "show", "ct_tissue", "--config", config, "--json").json["runs"]
    elsewhere = segnode("models", "show", "ct_tissue", "--json").json["runs"]

    assert [(run["state"], run["stages"].keys() >= {"read", "infer"}) for run in ran] == [
        ("done", True)
    ]
    assert f"infer {ran[0]['stages']['infer']:.2f} s" in shown.out
    assert elsewhere == []


def test_a_newcomer_adds_a_model_by_adding_one_folder(segnode: Segnode, tmp_path: Path) -> None:
    runner = yaml.safe_load((PROBE / "model.yaml").read_text())["runner"]
    runner["parameters"] = {"method": "above", "threshold": 400, "label_value": 1}
    add_model(
        tmp_path / "mine",
        "bright_bones",
        {"title": "What is brighter than 400 HU", "runner": runner},
    )
    mine = ("--models-dir", "mine")
    CHEST.write(tmp_path / "in")

    listed = segnode("models", "list", *mine)
    shown = segnode("models", "show", "bright_bones", *mine)
    checked = segnode("models", "check", "mine/bright_bones")
    ran = segnode("run", "in", "out", *mine, "--model", "bright_bones", "--json")

    assert "What is brighter than 400 HU" in listed.out
    assert "threshold=400" in shown.out
    assert checked.out.startswith("good: bright_bones 1.0.0, 1 segments")
    assert (tmp_path / "out" / CHEST.uid("series") / "bright_bones.seg.dcm").is_file()
    (one,) = ran.json["outcomes"]
    voxels = (CHEST.hu_volume > 400).sum()
    assert one["volumes_ml"]["Bright"] == pytest.approx(voxels * CHEST.grid.voxel_ml)


def test_a_list_of_models_waits_for_nothing_heavy() -> None:
    program = (
        "import sys, json\n"
        "from node.cli import main\n"
        "sys.argv = ['segnode', 'models', 'list', '--json']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )

    imported = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert "ct_tissue" in done.stdout
    assert not imported & HEAVY


def test_models_list_answers_in_under_a_second() -> None:
    command = [sys.executable, "-m", "node", "models", "list"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)

    assert process.returncode == 0
    # the time of a processor: what else a machine does is not what is measured
    assert usage.ru_utime + usage.ru_stime < 1.0
