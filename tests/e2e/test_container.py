"""Models that are container images, run by a real engine over the whole road."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import PositronEmissionTomographyImageStorage

from node.domain.segment import Segment
from node.infer.labels_table import read_labels_table
from node.infer.registry import default_models_folder
from node.jobs.catalog import JobCatalog
from tests.e2e.container_images import REFERENCE, SLEEPING, Machine, machine
from tests.infer.container.made import segmentation, volume_image, written
from tests.support.node_in_process import NodeInProcess, SharedWorker, node_in_process
from tests.support.phantoms import Phantom
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

SMALL = Phantom(shape=(12, 40, 44), study="small")
SMALL_PT = Phantom(
    shape=(5, 40, 44),
    study="small",
    series="pt",
    attributes=(("Modality", "PT"), ("SOPClassUID", PositronEmissionTomographyImageStorage)),
)
OTHER = Phantom(shape=(12, 40, 44), study="other")
TUTORIAL = tuple(
    Phantom(
        shape=(slices, 64, 72),
        spacing_mm=(2.5, 4.0, 4.0),
        study=study,
        attributes=(("PatientID", patient), ("ConvolutionKernel", "STANDARD")),
    )
    for study, patient, slices in (("a", "100002", 126), ("b", "100004", 126), ("c", "100004", 125))
)


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    table, mistakes = read_labels_table(default_models_folder() / "wholebody_ct/labels.csv", "")
    assert not mistakes
    return table


def boxes(phantom: Phantom, segments: list[Segment]) -> NDArray[np.uint8]:
    """A box per label, none like another, some cut by the last slice; shape of the phantom."""
    labels = np.zeros(phantom.grid.shape, np.uint8)
    slices, rows, columns = labels.shape
    for n, segment in enumerate(segments):
        row, column = 1 + 5 * (n % 7), 1 + 4 * (n // 7 % 10)
        first = (n * 3) % (slices - 4)
        box = labels[first : first + 2 + n % 5, row : row + 2 + n % 3, column : column + 3]
        assert row + 4 < rows
        assert column + 3 < columns
        box[box == 0] = segment.label_value
    return labels


EVERY_CT = {"name": "boxes", "when": {"Modality": "CT"}, "run": "painter", "send": ["shelf"]}


@dataclass(frozen=True)
class Bench:
    """An engine with the image, and a worker that all tests share, as all jobs of a node do."""

    machine: Machine
    worker: SharedWorker
    truth: Mapping[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, segments: list[Segment]) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as patch:
        made = machine(folder, patch.setenv)
        known: dict[str, dict[str, Path]] = {}
        truth: dict[str, NDArray[np.uint8]] = {}
        for number, phantom in enumerate((SMALL, OTHER, *TUTORIAL)):
            labels = boxes(phantom, segments)
            shown = [segment for segment in segments if (labels == segment.label_value).any()]
            uid = phantom.uid("series")
            truth[uid] = labels
            nifti = folder / f"{number}.nii.gz"
            sitk.WriteImage(sitk.DICOMOrient(volume_image(phantom, labels), "RAS"), str(nifti))
            seg = written(segmentation(phantom, labels, shown), folder, f"{number}.dcm")
            known[uid] = {"made": seg, "labels": nifti}
        made.import_image(folder, known, REFERENCE)
        worker = SharedWorker()
        yield Bench(made, worker, truth)
        worker.close()
        made.call("rmi", "--force", REFERENCE)


def model(folder: Path, workflow: str = "default", **more: object) -> Path:
    """A model folder as a newcomer would write it; ``more`` replaces parts of model.yaml."""
    path = folder / "painter"
    path.mkdir(parents=True)
    body = {
        "name": "painter",
        "version": "1.0.0",
        "title": "Boxes",
        "inputs": {"ct": {"accepts": {"Modality": "CT"}}},
        "runner": {
            "kind": "container",
            "entry": REFERENCE,
            "arguments": ["--workflow", workflow, "--print", "--non-interactive"],
        },
        "resources": {"deadline_s": 120, "memory_gb": 1},
    }
    # JSON is YAML
    (path / "model.yaml").write_text(json.dumps({**body, **more}))
    shutil.copyfile(default_models_folder() / "wholebody_ct/labels.csv", path / "labels.csv")
    sections = ("Intended use", "How it works", "Where it fails", "Licence")
    (path / "README.md").write_text("\n\n".join(f"## {section}\n\nTests." for section in sections))
    return path


@contextmanager
def node_with(
    bench: Bench, folder: Path, model_folder: Path, rule: Mapping[str, object] = EVERY_CT
) -> Iterator[NodeInProcess]:
    """A node that runs the model by a rule, keeps the results, and tries once."""
    folder.mkdir(exist_ok=True)
    config = {
        "models_dirs": [str(model_folder)],
        "rules": [dict(rule)],
        "destinations": {"shelf": {"kind": "folder", "path": str(folder / "shelf")}},
        "work": {"attempts": 1},
    }
    with node_in_process(folder, config, bench.worker) as node:
        yield node


def run_on(
    node: NodeInProcess, phantom: Phantom, folder: Path, scanned: Path | None = None
) -> Mapping[str, object]:
    """The job of a series, at its end; all that lies in ``scanned`` is taken in with it."""
    phantom.write(folder)
    node.scan(scanned or folder)
    node.settle()
    node.work()
    (job,) = node.jobs
    return job


def test_the_tutorials_three_series_come_back_with_104_segments_where_they_were_painted(
    bench: Bench, segments: list[Segment], tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    files = [data for phantom in TUTORIAL for data in phantom.files()]
    random.Random(3).shuffle(files)
    for number, data in enumerate(files):
        (flat / f"{number:04d}").write_bytes(data)
    assert len(files) == 377

    with node_with(bench, tmp_path / "node", model(tmp_path)) as node:
        node.scan(flat)
        node.settle()
        node.work()
        paths = node.segmentations()
        states = [(job["state"], job["sentence"]) for job in node.jobs]

    assert states == [("done", "")] * 3
    expected = {phantom.uid("series"): phantom for phantom in TUTORIAL}
    for path in paths:
        seg = hd.seg.segread(path)
        phantom = expected.pop(str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID))
        assert str(seg.PatientID) == dict(phantom.attributes)["PatientID"]
        assert len(seg.SegmentSequence) == 104
        assert len({codes_of(item) for item in seg.SegmentSequence}) == 104
        assert np.array_equal(labels_in(seg, phantom, segments), truth_of(bench, phantom))
    assert not expected
    assert bench.machine.containers() == []


def truth_of(bench: Bench, phantom: Phantom) -> NDArray[np.uint8]:
    return bench.truth[phantom.uid("series")]


def labels_in(
    seg: hd.seg.Segmentation, phantom: Phantom, segments: list[Segment]
) -> NDArray[np.uint8]:
    """Label values by slice of the phantom, from masks that highdicom finds by source instance."""
    values = {segment.name: segment.label_value for segment in segments}
    names = [item.SegmentLabel for item in seg.SegmentSequence]
    places = {frame.sop_instance_uid: k for k, frame in enumerate(phantom.stack.frames)}
    uids = [uid for _, _, uid in seg.get_source_image_uids()]
    masks = seg.get_pixels_by_source_instance(
        uids, combine_segments=False, assert_missing_frames_are_empty=True
    )
    found = np.zeros(phantom.grid.shape, np.uint8)
    for k, uid in enumerate(uids):
        for number, name in enumerate(names):
            found[places[uid]][masks[k, :, :, number] > 0] = values[name]
    return found


def codes_of(item: object) -> tuple[str, ...]:
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    regions = item.get("AnatomicRegionSequence") or []
    category = item.SegmentedPropertyCategoryCodeSequence[0]
    return tuple(str(code.CodeValue) for code in (category, kind, *modifiers, *regions))


@pytest.mark.parametrize(
    ("workflow", "sentence"),
    [
        ("silent", "the container ended with exit code 0 and wrote no file"),
        ("crash", "the container ended with exit code 3 and wrote no file"),
        ("greedy", "the container was killed, most likely for passing its memory of 1 GB"),
        ("garbage", "the container's output cannot be read as DICOM"),
        ("empty", "the container's output cannot be read as DICOM"),
        ("foreign", "the container's output is of another study than its input"),
        ("twice", "the container wrote 2 files that fit **/*.seg.dcm, where one is expected"),
    ],
)
def test_a_container_that_fails_fails_its_job_and_no_other(
    workflow: str, sentence: str, bench: Bench, tmp_path: Path
) -> None:
    with node_with(bench, tmp_path / "bad", model(tmp_path / "models", workflow)) as node:
        job = run_on(node, SMALL, tmp_path / "series")
        assert job["state"] in ("failed", "parked")
        assert str(job["sentence"]).startswith(sentence)
        assert "PHANTOM-1" not in str(job["sentence"])
        assert node.segmentations() == []
        assert JobCatalog(node.engine).list_deliveries().total == 0
        log = (node.plan.results_folder / str(job["id"]) / "run.log").read_text()
        assert "arguments: --workflow" in log
    assert not Path("oom").exists()  # of podman's monitor, where it was started
    with node_with(bench, tmp_path / "good", model(tmp_path / "good models")) as node:
        assert run_on(node, SMALL, tmp_path / "series")["state"] == "done"

    assert bench.machine.containers() == []


def test_an_exit_code_does_not_condemn_an_output_that_is_whole(
    bench: Bench, tmp_path: Path
) -> None:
    with node_with(bench, tmp_path / "node", model(tmp_path, "failing")) as node:
        job = run_on(node, SMALL, tmp_path / "series")

        assert job["state"] == "done"
        assert "exit code 1" in str(job["sentence"])
        (path,) = node.segmentations()
        assert dcmread(path).Manufacturer != "A container"


def test_a_label_map_in_nifti_is_a_result_too(
    bench: Bench, segments: list[Segment], tmp_path: Path
) -> None:
    with node_with(bench, tmp_path / "node", model(tmp_path, "nifti")) as node:
        run_on(node, SMALL, tmp_path / "series")
        (path,) = node.segmentations()

        found = labels_in(hd.seg.segread(path), SMALL, segments)

    assert np.array_equal(found, truth_of(bench, SMALL))


def test_several_series_lie_where_their_roles_say(
    bench: Bench, segments: list[Segment], tmp_path: Path
) -> None:
    both = model(
        tmp_path,
        inputs={"ct": {"accepts": {"Modality": "CT"}}, "pt": {"accepts": {"Modality": "PT"}}},
        runner={
            "kind": "container",
            "entry": REFERENCE,
            "arguments": ["--workflow", "roles", "--print", "--non-interactive"],
            "layout": {"ct": "case/ct", "pt": "case/{role}"},
        },
    )
    rule = {
        "name": "both",
        "study": {"ct": {"Modality": "CT"}, "pt": {"Modality": "PT"}},
        "run": "painter",
        "send": ["shelf"],
    }
    SMALL_PT.write(tmp_path / "series" / "pt")
    with node_with(bench, tmp_path / "node", both, rule) as node:
        job = run_on(node, SMALL, tmp_path / "series" / "ct", tmp_path / "series")
        assert job["state"] == "done", job["sentence"]
        (path,) = node.segmentations()

        found = labels_in(hd.seg.segread(path), SMALL, segments)

    assert np.array_equal(found, truth_of(bench, SMALL))


def sleepers() -> list[int]:
    """Processes of the image that sleep, by what the kernel says of them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if SLEEPING.encode() in words:
            found.append(int(process.name))
    return found


def test_after_the_deadline_nothing_of_the_container_is_left(bench: Bench, tmp_path: Path) -> None:
    late = model(tmp_path, "hang", resources={"deadline_s": 6, "memory_gb": 1})
    with node_with(bench, tmp_path / "node", late) as node:
        job = run_on(node, SMALL, tmp_path / "series")

        assert "passed its deadline of 6 s in stage infer" in str(job["sentence"])
        assert node.segmentations() == []
    assert eventually(lambda: sleepers() == [])
    assert eventually(lambda: bench.machine.containers() == [])
    assert bench.machine.call("volume", "ls", "--quiet") == ""
    with node_with(bench, tmp_path / "good", model(tmp_path / "good models")) as node:
        assert run_on(node, SMALL, tmp_path / "series")["state"] == "done"


def test_what_dead_processes_left_goes_before_the_next_run(bench: Bench, tmp_path: Path) -> None:
    namespace = (
        f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
        f":{Path('/proc/self/ns/pid').stat().st_ino}"
    )
    left = bench.machine.call(
        *("create", f"--label=segnode.owner={namespace}/1/99999999999"),
        *("--label=segnode.started=1", "--network=none", REFERENCE, "--workflow", "hang"),
    ).strip()
    with node_with(bench, tmp_path / "node", model(tmp_path)) as node:
        job = run_on(node, SMALL, tmp_path / "series")

    assert job["state"] == "done"
    assert "containers that a dead runner had left, now removed: 1" in str(job["sentence"])
    assert left[:12] not in " ".join(bench.machine.containers())


def test_an_image_that_is_not_here_is_one_sentence_with_the_command_that_brings_it(
    bench: Bench, tmp_path: Path
) -> None:
    absent = model(tmp_path, runner={"kind": "container", "entry": "mhubai/absent:v1"})
    with node_with(bench, tmp_path / "node", absent) as node:
        job = run_on(node, SMALL, tmp_path / "series")

    engine = bench.machine.engine
    assert job["sentence"] == (
        f"the image mhubai/absent:v1 is not on this machine: {engine} pull mhubai/absent:v1"
        " in stage prepare"
    )


@pytest.mark.parametrize("pinned", ["id", "digest", "other"])
def test_a_pinned_image_runs_only_if_it_is_that_one(
    pinned: str, bench: Bench, tmp_path: Path
) -> None:
    (facts,) = json.loads(bench.machine.call("image", "inspect", REFERENCE))
    known = {
        "id": f"sha256:{facts['Id'].removeprefix('sha256:')}",
        "digest": (facts.get("RepoDigests") or ["@"])[0].rpartition("@")[2],
        "other": f"sha256:{'0' * 64}",
    }
    if not known[pinned]:
        pytest.skip("this engine gives an imported image no digest")
    runner = {
        "kind": "container",
        "entry": REFERENCE,
        "image_id": known[pinned],
    }
    with node_with(bench, tmp_path / "node", model(tmp_path, runner=runner)) as node:
        job = run_on(node, SMALL, tmp_path / "series")

    if pinned == "other":
        assert "is not the one that model.yaml pins with image_id" in str(job["sentence"])
    else:
        assert job["state"] == "done"
