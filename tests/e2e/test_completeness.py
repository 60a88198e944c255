"""When a series is complete: over real associations, through the whole road."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from typer.testing import CliRunner

from node.cli import app_of
from node.deliver.dimse import send_c_store
from tests.support.evil_peers import StoreScp
from tests.support.node_in_process import MODELS_PROBE, SharedWorker
from tests.support.peers import Node, store
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, said, simulated_node
from tests.support.waiting import eventually, wait_for

SLICES = 36
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def scp() -> Iterator[StoreScp]:
    with StoreScp(ae_title="PACS").listening() as listening:
        yield listening


@pytest.fixture(scope="module")
def serving(scp: StoreScp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A whole node; its times are a third of the default ones."""
    peer = {"host": "127.0.0.1", "port": scp.port}
    config = {
        "peers": {"ONE": {"ae_title": "ONE", **peer}, "TWO": {"ae_title": "TWO", **peer}},
        "models_dirs": [str(MODELS_PROBE)],
        "completion": {"release_settle_s": 0.4, "quiet_s": 5, "quiet_max_s": 40},
        "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": ["sender"]}],
    }
    with Node(tmp_path_factory.mktemp("serving"), config) as node:
        yield node


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    shared = SharedWorker()
    yield shared
    shared.close()


# --- the whole process tree ----------------------------------------------------------------------


def test_one_association_per_instance_gives_one_job_and_one_segmentation(
    serving: Node, scp: StoreScp
) -> None:
    phantom = ct("one by one", slices=SLICES, study="one by one")
    scp.stored.clear()

    for instance in instances(phantom):
        send(serving.dicom_port, [instance], calling="ONE")
        time.sleep(0.1)

    assert_one_segmentation_of_all(serving, scp, phantom)


def test_an_aborted_association_and_the_rest_later_give_one_segmentation(
    serving: Node, scp: StoreScp
) -> None:
    phantom = ct("aborted", slices=SLICES, study="aborted")
    scp.stored.clear()
    everything = instances(phantom)

    send(serving.dicom_port, everything[:20], calling="TWO", aborts=True)
    time.sleep(10.5)  # twice as long as is quiet enough without an abort
    assert jobs_of(serving, phantom) == []
    send(serving.dicom_port, everything[20:], calling="TWO")

    assert_one_segmentation_of_all(serving, scp, phantom)


# --- real sockets, a clock that is moved ---------------------------------------------------------


def test_a_slice_an_hour_late_makes_revision_2_that_replaces_the_first(
    tmp_path: Path, worker: SharedWorker
) -> None:
    phantom = ct(slices=SLICES)
    with simulated_node(tmp_path, worker) as node:
        send_and_settle(node, instances(phantom)[:35])
        node.run()

        node.pass_time(HOUR_S)
        send_and_settle(node, instances(phantom)[35:])
        node.run()

        first, second = node.segmentations()
        assert first.NumberOfFrames < second.NumberOfFrames
        assert second.SeriesDescription.endswith("revision 2")
        assert str(first.SOPInstanceUID) in description_of(second)
        assert [row["state"] for row in node.table("result") if row["form"] != "labels"] == [
            "superseded",
            "current",
        ]
        assert node.delivered() == {str(first.SOPInstanceUID), str(second.SOPInstanceUID)}


def test_a_slice_an_hour_late_is_held_by_policy_and_freed_by_one_command(
    tmp_path: Path, worker: SharedWorker
) -> None:
    phantom = ct(slices=SLICES)
    with simulated_node(tmp_path, worker, completion={"late": "hold"}) as node:
        send_and_settle(node, instances(phantom)[:35])
        node.run()
        node.pass_time(HOUR_S)

        send_and_settle(node, instances(phantom)[35:])
        node.run()
        held = node.series(phantom)
        delivered_before = len(node.delivered())
        command = said(held).partition("segnode ")[2].split()
        segnode(node, *command)
        node.run()

        assert (held.state, delivered_before) == ("held", 1)
        assert said(held).startswith("1 image came after the result of revision 1 was delivered")
        assert command == ["series", "rerun", phantom.uid("series")]
        assert node.segmentations()[1].SeriesDescription.endswith("revision 2")
        assert len(node.delivered()) == 2


def test_a_known_count_that_is_short_is_held_and_freed_by_one_command(
    tmp_path: Path, worker: SharedWorker
) -> None:
    phantom = ct(slices=SLICES, ImagesInAcquisition=SLICES + 1)
    with simulated_node(tmp_path, worker) as node:
        send_and_settle(node, instances(phantom))
        node.tick(HOUR_S)
        waiting = node.series(phantom)
        node.tick(HOUR_S)
        held = node.series(phantom)

        command = said(held).partition("segnode ")[2].split()
        segnode(node, *command)
        node.tick()
        node.node.work()

        assert (waiting.state, held.state) == ("receiving", "held")
        assert said(held).startswith("36 of 37 (Images in Acquisition) images arrived")
        assert command == ["series", "proceed", phantom.uid("series")]
        assert node.series(phantom).evidence == "person"
        assert len(node.segmentations()) == 1


# --- what the tests say --------------------------------------------------------------------------


def instances(phantom: Phantom) -> list[Dataset]:
    return [dcmread(BytesIO(file)) for file in phantom.files()]


def send(
    port: int, some: Sequence[Dataset], *, calling: str = "STORESCU", aborts: bool = False
) -> None:
    """C-STORE over one association, and release it, or break it off."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(some[0].SOPClassUID, some[0].file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="SEGNODE")
    assert association.is_established
    assert {send_c_store(association, each, 1).Status for each in some} == {0}
    if aborts:
        association.abort()
    else:
        association.release()


def send_and_settle(node: SimulatedNode, some: Sequence[Dataset]) -> None:
    files = []
    for instance in some:
        buffer = BytesIO()
        instance.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    assert set(store(node.node.dicom_port, files)) == {0}
    assert eventually(lambda: all(row["closed_at"] for row in node.node.rows("association")))
    node.settle()


def segnode(node: SimulatedNode, *command: str) -> None:
    config = node.node.data_dir.parent / "node.yaml"
    done = CliRunner().invoke(app_of(), [*command, "--config", str(config)])
    assert done.exit_code == 0, done.output


def jobs_of(serving: Node, phantom: Phantom) -> list[dict[str, Any]]:
    study = phantom.uid("study")
    return [job for job in serving.api("/jobs")["items"] if job["study_instance_uid"] == study]


def assert_one_segmentation_of_all(serving: Node, scp: StoreScp, phantom: Phantom) -> None:
    wait_for("the segmentation", lambda: scp.stored)
    (job,) = jobs_of(serving, phantom)
    series = serving.api(f"/series/{phantom.uid('series')}")
    assert len(scp.stored) == 1
    assert (series["instances"], series["revision"]) == (SLICES, 1)
    assert len(series["snapshot"]) == SLICES
    whole = serving.api(f"/jobs/{job['id']}")
    assert {len(each["instances"]) for each in whole["inputs"].values()} == {SLICES}


def description_of(segmentation: Dataset) -> str:
    """Everything that a SEG says of how it was made."""
    return str(segmentation)
