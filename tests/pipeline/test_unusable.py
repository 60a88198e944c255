"""A series that turns out to be no input in the child: its job says why, with codes."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from node.spool.files import SpoolFolders
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import ct, simulated_node


def test_what_the_child_finds_wrong_with_a_series_stands_in_the_rows_of_job_and_match(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker) as node:
        node.receive(ct().files())
        node.settle()
        stored = SpoolFolders.of(node.node.data_dir).instances
        first, second = sorted(path for path in stored.rglob("*") if path.is_file())[:2]
        moved = dcmread(first)
        moved.ImagePositionPatient = dcmread(second).ImagePositionPatient
        moved.save_as(first)

        node.node.work()

        (job,), (match,) = node.table("job"), node.table("match")
    assert (job["state"], match["state"]) == ("failed", "failed")
    assert job["reasons"] == match["reasons"]
    assert "same_position" in job["reasons"]
    assert "two images at one position" in job["sentence"]
