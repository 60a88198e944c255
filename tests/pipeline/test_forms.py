"""The road of a node whose destinations take different forms."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

from node.domain.delivery import DeliverableObject, Outcome
from node.jobs.outbox import Outbox
from node.jobs.results import ResultStore
from node.pipeline.deliver import Destination
from node.pipeline.forms import FORMS
from node.pipeline.forms.form import forms_taken
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, simulated_node


@dataclass(frozen=True)
class Taking:
    """A destination that takes these forms."""

    inner: Destination
    forms: tuple[str, ...]

    def send(self, deliverable: DeliverableObject) -> Outcome:
        return self.inner.send(deliverable)


@contextmanager
def node_with(
    folder: Path, worker: SharedWorker, forms: dict[str, tuple[str, ...]], *, run: str = "probe"
) -> Iterator[SimulatedNode]:
    """A node with folders as destinations, named as they are; its rule sends to the first."""
    for name in forms:
        (folder / name).mkdir()
    destinations = {
        name: {"kind": "folder", "path": str(folder / name), "layout": "{model}.{ext}"}
        for name in forms
    }
    rules = [{**CT_RULE, "run": run, "send": [next(iter(forms))]}]
    with simulated_node(folder, worker, destinations=destinations, rules=rules) as node:
        plan = node.node.plan
        taking = {n: Taking(inner, forms[n]) for n, inner in plan.destinations.items()}
        node.node.plan = replace(plan, destinations=taking)
        node.start_again()
        yield node


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_job_gives_each_folder_what_it_takes(tmp_path: Path, worker: SharedWorker) -> None:
    with node_with(tmp_path, worker, {"both": ("seg", "nifti")}) as node:
        node.receive(ct().datasets())
        node.run()

        assert names(tmp_path / "both") == {"probe.dcm", "probe.nii.gz"}
        assert [row["form"] for row in node.table("result")] == ["labels", "seg", "nifti"]
        assert [row["state"] for row in node.table("outbox")] == ["sent", "sent"]
        image = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "both" / "probe.nii.gz"))
        (seg,) = node.segmentations()
        assert np.count_nonzero(image) == np.unpackbits(np.frombuffer(seg.PixelData, "u1")).sum()


def test_a_folder_that_takes_images_alone_gets_no_object_and_none_is_made(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with node_with(tmp_path, worker, {"images": ("nifti",)}) as node:
        node.receive(ct().datasets())
        node.run()

        assert names(tmp_path / "images") == {"probe.nii.gz"}
        assert node.segmentations() == []


def test_a_result_sent_later_to_another_taker_is_encoded_from_its_labels(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with node_with(tmp_path, worker, {"objects": ("seg",), "images": ("nifti",)}) as node:
        node.receive(ct().datasets())
        node.run()
        (seg,) = (row["id"] for row in node.table("result") if row["form"] == "seg")
        before = node.table("job")[0]["stages"]
        taken = forms_taken(node.node.plan.destinations)

        Outbox(node.node.engine, taken=taken).send(seg, "images")
        node.node.work()
        node.deliver()

        (job,) = node.table("job")
        assert names(tmp_path / "images") == {"probe.nii.gz"}
        assert names(tmp_path / "objects") == {"probe.dcm"}
        assert job["state"] == "done"
        assert set(job["stages"]) - set(before) == {"read labels", "encode nifti", "verify nifti"}
        assert job["stages"]["infer"] == before["infer"]
        assert job["stages"]["encode"] == before["encode"]


def test_where_nothing_is_found_an_image_says_so_and_no_object_does(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with node_with(tmp_path, worker, {"both": ("seg", "nifti")}) as node:
        rule = node.node.plan.rules[0]
        nothing = replace(rule, parameters={"method": "above", "threshold": 9000})
        node.node.plan = replace(node.node.plan, rules=(nothing,))
        node.start_again()
        node.receive(ct().datasets())
        node.run()

        (job,) = node.table("job")
        assert names(tmp_path / "both") == {"probe.nii.gz"}
        assert (job["state"], job["forms"]) == ("done", ["seg", "nifti"])
        assert job["sentence"].startswith("nothing found") or "nothing found" in job["sentence"]


def test_an_implausible_result_leaves_in_no_form_and_is_marked_in_each(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with node_with(tmp_path, worker, {"both": ("seg", "nifti")}, run="bounded") as node:
        node.receive(ct().datasets())
        node.run()

        (job,) = node.table("job")
        assert job["state"] == "implausible"
        assert [row["state"] for row in node.table("outbox")] == ["withheld", "withheld"]
        folder = node.node.plan.results_folder
        (image,) = (r["file_name"] for r in node.table("result") if r["form"] == "nifti")
        header = gzip.decompress((folder / image).read_bytes())[:352]
        assert header[228:252].rstrip(b"\0") == b"IMPLAUSIBLE"


def test_a_form_that_a_destination_takes_no_more_waits_for_a_person(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with node_with(tmp_path, worker, {"images": ("nifti",)}) as node:
        node.receive(ct().datasets())
        node.settle()
        node.node.work()
        inner = node.node.plan.destinations["images"].inner
        node.node.plan = replace(node.node.plan, destinations={"images": Taking(inner, ("seg",))})

        node.deliver()

        (row,) = node.table("outbox")
        assert row["state"] == "blocked"
        assert "says that 'images' takes no nifti" in row["sentence"]
        assert names(tmp_path / "images") == set()


def test_retention_knows_every_file(tmp_path: Path, worker: SharedWorker) -> None:
    with node_with(tmp_path, worker, {"both": ("seg", "nifti")}) as node:
        node.receive(ct().datasets())
        node.run()
        folder = node.node.plan.results_folder
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

        gone = ResultStore(node.node.engine).retire(before=1e12)

        assert {Path(one.file.file_name) for one in gone} == files


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_called_as_it_calls_itself_and_its_parts_are_there(name: str) -> None:
    form = FORMS[name]

    assert form.name == name
    assert callable(form.encoder())
    assert callable(form.verifier())
    assert form.encoder() is not form.verifier()


def test_the_manual_lists_every_form_with_its_reader() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "results.md").read_text()

    rows = [line for line in manual.splitlines() if line.startswith("| `")]
    listed = {row.split("`")[1]: row for row in rows if row.split("`")[1] in FORMS}
    assert list(listed) == list(FORMS)
    for name, row in listed.items():
        assert f"{FORMS[name].read_by}s" in row
