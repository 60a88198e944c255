"""A newcomer's first hour: one command over a flat folder of everything, and the same over the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from pydicom import dcmread

from tests.e2e import tutorial
from tests.e2e.tutorial import COUNT, GAPPED, MAGNETIC, MODEL, TAKEN, Tutorial
from tests.support.http_server import MULTIPART, body_of
from tests.support.peers import Node, store
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
DCMQI = Path(sys.executable).with_name("segimage2itkimage")

LATER = replace(MAGNETIC, series="later", study="later")
CASES = pytest.mark.parametrize("case", TAKEN)


@dataclass(frozen=True)
class Ran:
    """A run of the command: what it said and what it left."""

    tutorial: Tutorial
    source: Path
    output: Path
    models: Path
    answer: Any
    err: str

    def seg(self, case: str) -> Path:
        return self.output / TAKEN[case].uid("series") / f"{MODEL}.seg.dcm"


def run(source: Path, output: Path, models: Path) -> tuple[Any, str]:
    command = ["run", str(source), str(output), "--model", MODEL, "--models-dir", str(models)]
    done = subprocess.run(
        [sys.executable, "-m", "node", *command, "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "SEGNODE_CONFIG"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def written(output: Path) -> dict[Path, int]:
    """The files of the output folder but its state, each with its time of change."""
    return {
        path: path.stat().st_mtime_ns
        for path in output.rglob("*")
        if path.is_file() and ".segnode" not in path.relative_to(output).parts
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The command over the folder, once; look, do not touch."""
    root = tmp_path_factory.mktemp("tutorial")
    made = tutorial.make_tutorial()
    made.write(root / "in")
    models = tutorial.write_model(root / "models")
    answer, err = run(root / "in", root / "out", models)
    return Ran(made, root / "in", root / "out", models, answer, err)


def test_every_series_is_named_with_its_result_or_its_reason(ran: Ran) -> None:
    told = {one["series_instance_uid"]: one for one in ran.answer["outcomes"]}

    for case, phantom in TAKEN.items():
        one = told.pop(phantom.uid("series"))
        assert (one["state"], one["file"]) == ("done", str(ran.seg(case)))
    states = {uid: (one["state"], one["sentence"]) for uid, one in told.items()}
    assert states == {
        MAGNETIC.uid("series"): (
            "unmatched",
            f"no model takes it: {MODEL}: does not fit: Modality",
        ),
        GAPPED.uid("series"): ("parked", states[GAPPED.uid("series")][1]),
        tutorial.uid_of_localizer(): (
            "parked",
            "localizer: 3 orientations in one series (1/1/1 images)",
        ),
        tutorial.uid_of_capture(): (
            "not_an_input",
            "Secondary Capture Image Storage: no grayscale images of a patient: nothing for a model",
        ),
    }
    assert states[GAPPED.uid("series")][1].startswith("gap: 1 slice missing after slice 9 ")


def test_every_file_is_in_a_series_or_named_with_its_reason(ran: Ran) -> None:
    refused = {Path(one["path"]).name: one["reason"] for one in ran.answer["refused"]}
    duplicates = {Path(one["path"]).name: one["reason"] for one in ran.answer["duplicates"]}
    first, second = ran.tutorial.duplicate

    assert refused.keys() == {ran.tutorial.text_file}
    assert refused[ran.tutorial.text_file].startswith("not a DICOM file")
    assert duplicates == {second: f"duplicate of {ran.source / first}"}
    in_series = sum(row["instances"] for row in ran.answer["series"])
    assert in_series + len(refused) + len(duplicates) == len(ran.tutorial.files)
    assert ran.answer["ignored"] == []


def test_exactly_the_expected_results_lie_under_their_series(ran: Ran) -> None:
    assert written(ran.output).keys() == {ran.seg(case) for case in TAKEN}


@CASES
def test_a_result_belongs_to_the_patient_and_study_it_was_made_of(ran: Ran, case: str) -> None:
    source, seg = TAKEN[case].headers()[0], dcmread(ran.seg(case), stop_before_pixels=True)

    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == source[keyword].value
    (series,) = seg.ReferencedSeriesSequence
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert referenced == {header.SOPInstanceUID for header in TAKEN[case].headers()}


@CASES
def test_104_segments_differ_in_their_codes_and_carry_their_names(ran: Ran, case: str) -> None:
    seg = dcmread(ran.seg(case), stop_before_pixels=True)

    rows = tutorial.LABELS.read_text().splitlines()[1:]
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [r.split(",")[1] for r in rows]
    assert len(set(tutorial.triplets(seg))) == COUNT


@CASES
def test_highdicom_finds_each_box_where_it_was_painted(ran: Ran, case: str) -> None:
    volume = hd.seg.segread(ran.seg(case)).get_volume(combine_segments=True)
    index = np.stack(np.indices(volume.spatial_shape), axis=-1)
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]

    truth = tutorial.labels_at(points)

    assert np.array_equal(volume.array, truth)  # segment number n is label value n
    found = np.bincount(volume.array.ravel(), minlength=COUNT + 1)
    assert np.array_equal(found[1:], tutorial.count_of(TAKEN[case])[1:])
    assert found[1:].all()


def test_dcmqi_finds_each_box_where_it_was_painted(ran: Ran, tmp_path: Path) -> None:
    subprocess.run(
        [DCMQI, "--inputDICOM", ran.seg("oblique"), "--outputDirectory", tmp_path, "-t", "nrrd"],
        check=True,
        capture_output=True,
    )
    counts = tutorial.count_of(TAKEN["oblique"])

    for label, *ends in tutorial.boxes():
        image = sitk.ReadImage(tmp_path / f"{int(label)}.nrrd")
        inside = np.argwhere(sitk.GetArrayViewFromImage(image))[:, ::-1]
        directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        points = inside @ directions.T + np.array(image.GetOrigin())
        assert len(points) == counts[int(label)]
        assert (points >= ends[:3]).all()
        assert (points < ends[3:]).all()


def test_progress_names_each_job_and_its_stages(ran: Ran) -> None:
    lines = ran.err.splitlines()

    for number in (1, 2, 3):
        own = [line for line in lines if line.startswith(f"job {number} of 3 ({MODEL}): ")]
        assert " images of series " in own[0]
        assert {"read", "infer", "encode", "verify"} <= {
            line.split(": ")[1].split()[0] for line in own
        }
        assert own[-1].split(": ")[1].startswith("done in ")


def test_run_again_it_does_nothing_new(ran: Ran) -> None:
    before = written(ran.output)

    answer, err = run(ran.source, ran.output, ran.models)

    assert written(ran.output) == before
    assert "0 jobs to run" in err
    assert "job 1" not in err
    keys = ("series_instance_uid", "state", "sentence", "file")
    assert [[one[key] for key in keys] for one in answer["outcomes"]] == [
        [one[key] for key in keys] for one in ran.answer["outcomes"]
    ]
    for part in ("refused", "duplicates"):
        assert answer[part] == ran.answer[part]


# --- the same over the network ----------------------------------------------------------------------

Transport = Callable[[Node, Sequence[bytes]], None]


def by_two_associations(node: Node, files: Sequence[bytes]) -> None:
    """C-STORE, slices of every series on both at once; an association per SOP class in each."""

    def send(mine: Sequence[bytes]) -> None:
        classes: dict[str, list[bytes]] = {}
        for content in mine:
            meta = dcmread(BytesIO(content), stop_before_pixels=True).file_meta
            classes.setdefault(meta.MediaStorageSOPClassUID, []).append(content)
        for contents in classes.values():
            assert set(store(node.dicom_port, contents)) == {0x0000}

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, (files[::2], files[1::2])))


def by_stow(node: Node, files: Sequence[bytes]) -> None:
    """STOW-RS, two requests at once."""

    def send(mine: Sequence[bytes]) -> None:
        request = urllib.request.Request(
            f"{node.url}/dicom-web/studies",
            data=body_of(*mine),
            headers={"Content-Type": MULTIPART, "Accept": "application/dicom+json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 200
            assert len(json.load(answer)["00081199"]["Value"]) == len(mine)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, (files[::2], files[1::2])))


@pytest.fixture
def node(ran: Ran, tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "shelf").mkdir()
    layout = "{StudyInstanceUID}.{ext}"
    shelf = {"kind": "folder", "path": str(tmp_path / "shelf"), "layout": layout}
    configured = {
        "destinations": {"shelf": shelf},
        "models_dirs": [str(ran.models)],
        # the series with a gap is never regular: it is judged when nothing more comes
        "completion": {"release_settle_s": 0.5, "quiet_s": 0.5, "quiet_max_s": 2},
        "rules": [{"name": "all", "when": {"Modality": "CT"}, "run": MODEL, "send": ["shelf"]}],
    }
    with Node(tmp_path / "node", config=configured) as running:
        yield running


@pytest.mark.parametrize(
    "transport",
    [
        pytest.param(by_two_associations, id="two associations"),
        pytest.param(by_stow, id="STOW", marks=pytest.mark.long),
    ],
)
def test_the_network_brings_the_same_results_and_sent_again_nothing_new(
    transport: Transport, node: Node, ran: Ran, tmp_path: Path
) -> None:
    def states() -> dict[str, str]:
        rows = json.loads(node.cli("jobs", "list", "--matches", "--json").stdout)["items"]
        return {uid: row["state"] for row in rows for uid in row["roles"].values()}

    expected = {one["series_instance_uid"]: one["state"] for one in ran.answer["outcomes"]}

    transport(node, ran.tutorial.instances)

    wait_for("what becomes of every series", lambda: states() == expected)
    wait_for("every result", lambda: node.api("/deliveries?state=sent")["total"] == 3)
    for case, phantom in TAKEN.items():
        came = dcmread(tmp_path / "shelf" / f"{phantom.uid('study')}.dcm")
        ours = dcmread(ran.seg(case))
        assert came.SOPInstanceUID == ours.SOPInstanceUID
        assert came.PixelData == ours.PixelData

    transport(node, ran.tutorial.instances)

    # what comes after it is settled after it
    store(node.dicom_port, LATER.files())
    expected[LATER.uid("series")] = "unmatched"
    wait_for("what becomes of a series sent later", lambda: states() == expected)
    assert node.api("/jobs")["total"] == node.api("/deliveries")["total"] == 3
    assert len(list((tmp_path / "shelf").iterdir())) == 3
