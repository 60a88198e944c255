"""``segnode run``: forms, layouts, several models, parameters and devices."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
import yaml

from tests.cli.conftest import CHEST, MAGNETIC, Segnode
from tests.support.gpus import give_gpus
from tests.support.phantoms import Phantom, Region, region_at
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
PROBES = REPOSITORY / "tests" / "support" / "models_probe"
PROBE = ("--models-dir", PROBES, "--model", "probe")
ABOVE = ("--set", "method=above", "--set", "threshold=170")  # between soft tissue and the marker
BRIGHT = (Region.BONE, Region.MARKER)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PHANTOMS = {
    "axial": Phantom(order="shuffled", study="axial"),
    "feet first, sagittal": Phantom(plane="sagittal", position="FFS", study="sagittal"),
    "oblique": Phantom(
        plane="oblique", shape=(40, 53, 67), spacing_mm=(6.1, 4.7, 4.9), study="oblique"
    ),
}


def written(output: Path) -> set[str]:
    """The files of an output folder but its state."""
    return {
        str(path.relative_to(output))
        for path in output.rglob("*")
        if path.is_file() and ".segnode" not in path.relative_to(output).parts
    }


def model_like(name: str, folder: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of the probe under another name, changed; the folder it lies in."""
    shutil.copytree(PROBES / "probe", folder / name)
    path = folder / name / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"name": name} | changes))
    return folder


@pytest.fixture(scope="module")
def both_forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run over volumes in three planes, as SEG and as NIfTI; look, do not touch."""
    root = tmp_path_factory.mktemp("forms")
    for name, phantom in PHANTOMS.items():
        phantom.write(root / "in" / name)
    done = subprocess.run(
        [
            sys.executable, "-m", "node", "run", root / "in", root / "out", *PROBE, *ABOVE,
            "--format", "seg", "--format", "nifti",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "out"


@pytest.mark.parametrize("case", PHANTOMS)
def test_a_nifti_image_holds_the_truth_at_the_places_of_its_own_affine(
    both_forms: Path, case: str
) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(both_forms / PHANTOMS[case].uid("series") / "probe.labels.nii.gz")
    labels = np.asarray(image.dataobj)
    affine = LPS_TO_RAS @ image.affine
    points = np.stack(np.indices(labels.shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]

    assert labels.dtype == np.uint8
    assert labels.shape == PHANTOMS[case].grid.shape[::-1]
    assert np.array_equal(labels != 0, np.isin(region_at(points), BRIGHT))
    assert np.array_equal(image.get_qform(coded=True)[0], image.get_qform())
    assert image.get_qform(coded=True)[1] == image.get_sform(coded=True)[1] == 1


@pytest.mark.parametrize("case", PHANTOMS)
def test_seg_and_nifti_hold_the_same_voxels(both_forms: Path, case: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = both_forms / PHANTOMS[case].uid("series")
    image = nibabel.load(folder / "probe.labels.nii.gz")
    seg = hd.seg.segread(folder / "probe.seg.dcm").get_volume(combine_segments=True)

    inside = np.argwhere(seg.array)
    places = inside @ seg.affine[:3, :3].T + seg.affine[:3, 3]
    affine = np.linalg.inv(LPS_TO_RAS @ image.affine)
    index = np.rint(places @ affine[:3, :3].T + affine[:3, 3]).astype(int)
    labels = np.asarray(image.dataobj)

    assert labels[tuple(index.T)].all()
    assert np.count_nonzero(labels) == len(inside)


def test_the_commands_of_a_node_look_into_a_run(segnode: Segnode, both_forms: Path) -> None:
    rules = both_forms / ".segnode" / "rules.yaml"

    jobs = segnode("jobs", "list", "--config", rules, "--json").json["items"]
    shown = segnode("models", "show", "probe", "--config", rules, "--json").json

    assert [job["state"] for job in jobs] == ["done"] * 3
    assert [run["id"] for run in shown["runs"]] == [job["id"] for job in jobs]


def test_another_layout_and_form_write_the_same_results_without_running_the_model(
    segnode: Segnode, both_forms: Path, tmp_path: Path
) -> None:
    shutil.copytree(both_forms, tmp_path / "out")
    before = written(tmp_path / "out")
    gone = tmp_path / "out" / PHANTOMS["axial"].uid("series") / "probe.labels.nii.gz"
    gone.unlink()
    arguments = ("run", both_forms.parent / "in", "out", *PROBE, *ABOVE)

    moved = segnode(*arguments, "--layout", "{model}/{Modality}/{SeriesInstanceUID}.{ext}")
    again = segnode(*arguments, "--format", "nifti", "--json")

    assert (moved.code, again.code) == (0, 0)
    assert "job 1" not in moved.err + again.err
    assert written(tmp_path / "out") == before | {
        f"probe/CT/{phantom.uid('series')}.dcm" for phantom in PHANTOMS.values()
    }
    assert [one["file"] for one in again.json["outcomes"]] == [None] * 3
    assert str(gone) in {path for one in again.json["outcomes"] for path in one["nifti"]}


def test_several_models_run_on_what_each_accepts_with_parameters_of_their_own(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in" / "a")
    MAGNETIC.write(tmp_path / "in" / "b")

    answer = segnode(
        "run", "in", "out", "--models-dir", PROBES, "--model", "ct_tissue,probe",
        "--set", "probe.method=otsu", "--json",
    )  # fmt: skip

    assert answer.code == 0
    assert written(tmp_path / "out") == {
        f"{CHEST.uid('series')}/ct_tissue.seg.dcm",
        f"{CHEST.uid('series')}/probe.seg.dcm",
        f"{MAGNETIC.uid('series')}/probe.seg.dcm",
    }
    assert {one["state"] for one in answer.json["outcomes"]} == {"done"}
    assert [one["parameters"] for one in answer.json["outcomes"] if one["model"] == "probe"] == [
        {"method": "otsu"}
    ] * 2
    assert [one["parameters"] for one in answer.json["outcomes"] if one["model"] != "probe"] == [{}]


def test_two_names_that_are_the_same_give_the_later_result_one_of_its_own(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")

    answer = segnode(
        "run", "in", "out", "--models-dir", PROBES, "--model", "ct_tissue", "--model", "probe",
        "--layout", "{SeriesInstanceUID}.{ext}", "--json",
    )  # fmt: skip

    files = {one["file"] for one in answer.json["outcomes"]}
    assert answer.code == 0
    assert {str(tmp_path / "out" / name) for name in written(tmp_path / "out")} == files
    assert len(files) == 2


def test_regions_that_overlap_become_an_image_each(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    runner = {"kind": "python", "entry": "node.infer.threshold:run"}
    runner |= {"parameters": {"method": "mean", "label_value": 3}}
    models = model_like("both", tmp_path / "m", {"outputs": ["regions"], "runner": runner})
    with (models / "both" / "labels.csv").open("a") as labels:
        labels.write("2,Very bright,SCT:85756007:Tissue,SCT:3120008:Bone,,,,#0080FF\n")

    answer = segnode(
        "run", "in", "out", "--models-dir", models, "--model", "both", "--format", "nifti"
    )

    folder = tmp_path / "out" / CHEST.uid("series")
    one, two = (
        sitk.GetArrayFromImage(sitk.ReadImage(folder / f"both.labels.{name}.nii.gz"))
        for name in ("Bright", "Very bright")
    )
    assert answer.code == 0
    assert len(list(folder.iterdir())) == 2
    assert set(np.unique(one)) == {0, 1}
    assert np.array_equal(one, two)


def test_where_nothing_is_found_there_is_no_seg_and_an_image_of_nothing(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    above = ("--set", "method=above", "--set", "threshold=9000")

    answer = segnode(
        "run", "in", "out", *PROBE, *above, "--format", "seg", "--format", "nifti", "--json"
    )

    (one,) = answer.json["outcomes"]
    assert answer.code == 0
    assert (one["state"], one["file"]) == ("done", None)
    assert "nothing found" in one["sentence"]
    assert not sitk.GetArrayFromImage(sitk.ReadImage(*one["nifti"])).any()


def test_a_second_device_takes_the_jobs_that_the_first_is_not_free_for(
    segnode: Segnode, tmp_path: Path
) -> None:
    for number in range(4):
        replace(CHEST, series=f"s{number}").write(tmp_path / "in" / str(number))
    command = ["run", "in", "out", *map(str, PROBE), "--device", "cpu", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "node", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "SEGNODE_CRASH_AT": "mid-inference",
            "SEGNODE_CRASH_HOW": "wait",
            "SEGNODE_CRASH_MARK": str(tmp_path / "waiting"),
        },
    )
    # one worker stands still in its job: the three others can only be done by the second
    wait_for("three results", lambda: len(written(tmp_path / "out")) == 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    answer = segnode("run", "in", "out", *PROBE, "--device", "cpu", "--device", "cpu")

    assert (tmp_path / "waiting").exists()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert answer.code == 0
    assert len(written(tmp_path / "out")) == 4


def test_a_model_made_for_a_gpu_is_left_to_the_worker_that_has_one(
    segnode: Segnode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_gpus(tmp_path / "gpus", monkeypatch, 1)
    for number in range(3):
        replace(CHEST, series=f"s{number}").write(tmp_path / "in" / str(number))
    models = model_like("heavy", tmp_path / "m", {"resources": {"device": "cuda"}})

    answer = segnode(
        "run", "in", "out", "--models-dir", models, "--model", "heavy",
        "--device", "cpu", "--device", "cuda:0",
    )  # fmt: skip

    begun = [line for line in answer.err.splitlines() if " images of series " in line]
    assert answer.code == 0
    ended = [line for line in answer.err.splitlines() if ": done in " in line]
    assert len(ended) == 3
    assert begun  # one that ends between two looks is told by its end alone
    assert all(line.endswith("; on cuda:0") for line in begun)
    assert "models run on cpu; cuda:0 (Made GPU 0)" in answer.err.splitlines()


def test_a_job_that_failed_is_tried_again_by_the_next_run(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    weights = b"learned"
    asset = {
        "path": "model.bin", "url": "https://example.org/model.bin", "licence": "MIT",
        "sha256": hashlib.sha256(weights).hexdigest(), "commercial_use": True,
    }  # fmt: skip
    model_like("trained", tmp_path / "models", {"weights": [asset]})
    (tmp_path / "node.yaml").write_text(
        "models_dirs: [models]\nweights_dir: weights\n"
        "rules: [{name: ct, when: {Modality: CT}, run: trained, send: []}]\n"
    )
    failed = segnode("run", "in", "out", "--config", "node.yaml", "--json")
    (tmp_path / "weights" / "trained").mkdir(parents=True)
    (tmp_path / "weights" / "trained" / "model.bin").write_bytes(weights)

    answer = segnode("run", "in", "out", "--config", "node.yaml", "--json")

    assert failed.code == 1
    assert "segnode models pull trained" in failed.json["outcomes"][0]["sentence"]
    assert answer.code == 0
    assert [one["state"] for one in answer.json["outcomes"]] == ["done"]


def test_files_that_are_passed_over_are_named(segnode: Segnode, tmp_path: Path) -> None:
    paths = MAGNETIC.write(tmp_path / "in")
    (tmp_path / "in" / "DICOMDIR").write_bytes(b"a directory")
    (tmp_path / "in" / ".cache").mkdir()
    (tmp_path / "in" / ".cache" / "x").write_bytes(b"hidden")
    (tmp_path / "in" / "link.dcm").symlink_to(paths[0])
    (tmp_path / "in" / "again.dcm").write_bytes(paths[-1].read_bytes())

    answer = segnode("run", "in", "out", "--json")

    ignored = {Path(one["path"]).name: one["reason"] for one in answer.json["ignored"]}
    assert ignored == {
        ".cache": "hidden",
        "DICOMDIR": "the directory of a medium holds no instance",
        "link.dcm": "a link: links are not followed",
    }
    assert [Path(one["path"]).name for one in answer.json["duplicates"]] == ["again.dcm"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--layout", "{PatientID}/{model}.{ext}"), "unknown field {PatientID}"),
        (("--layout", "{SeriesInstanceUID}/result"), "needs {ext}"),
        (("--layout", "../{model}.{ext}"), "must be a relative path"),
        (("--device", "gpu"), "'gpu' is none: use cpu"),
        (("--device", "cuda:99"), "--device: cuda:99 is not here"),
        (("--set", "method"), "is not NAME=VALUE"),
        (("--set", "method={a: 1}"), "is not NAME=VALUE"),
        (("--set", "lungs.method=mean"), "this run has no model 'lungs', but ct_tissue"),
        (("--models-dir", "nowhere"), "is neither a model folder nor does it hold one"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_2(
    segnode: Segnode, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    (tmp_path / "in").mkdir()

    answer = segnode("run", "in", "out", *arguments)

    assert answer.code == 2
    assert word in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("asset", "arguments", "word"),
    [
        ({"commercial_use": True}, (), "model.bin among them: segnode models pull trained"),
        ({"commercial_use": False}, (), "read CC-BY-NC-4.0 and name it in --accept-licence"),
        (
            {"commercial_use": False},
            ("--accept-licence", "CC-BY-NC-4.0"),
            "1 files of trained are missing",
        ),
    ],
)
def test_a_model_that_cannot_run_is_told_before_anything_is_read(
    segnode: Segnode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asset: Mapping[str, Any],
    arguments: tuple[str, ...],
    word: str,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    CHEST.write(tmp_path / "in")
    whole = {"path": "model.bin", "url": "https://example.org/model.bin"}
    whole |= {"sha256": "0" * 64, "licence": "CC-BY-NC-4.0", **asset}
    models = model_like("trained", tmp_path / "m", {"weights": [whole]})

    answer = segnode("run", "in", "out", "--models-dir", models, "--model", "trained", *arguments)

    assert answer.code == 2
    assert word in answer.err
    assert "reading" not in answer.err
