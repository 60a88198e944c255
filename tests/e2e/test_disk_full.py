"""A full disk: the node refuses, frees what nobody needs, and takes instances again by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import SmallDisk, small_disk
from tests.support.evil_peers import StoreScp
from tests.support.node_in_process import MODELS_PROBE
from tests.support.peers import Node, store
from tests.support.phantoms import Phantom
from tests.support.simulated_node import ct
from tests.support.waiting import wait_for

OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system that is soon full."""
    with small_disk(tmp_path / "disk", size="48m") as mounted:
        yield mounted


def test_a_full_disk_recovers_by_itself_and_loses_nothing_undelivered(
    disk: SmallDisk, tmp_path: Path
) -> None:
    """The PACS is away, so nothing can be delivered: what waits stays, what is done may go."""
    at_once = {"done": 0, "unmatched": 0, "parked": 0, "quarantine": 0, "results": 0}
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with StoreScp(ae_title="PACS").listening() as scp:
        pass  # its port is free again: the PACS is down
    node = Node(
        tmp_path / "node",
        {
            "data_dir": str(disk.folder / "data"),
            "storage": {"reserve_gb": 0.012, "max_used_percent": 100, "keep_days": at_once},
            "completion": {"release_settle_s": 0.3},
            "models_dirs": [str(MODELS_PROBE)],
            "peers": {"PACS": {"ae_title": "PACS", "host": "127.0.0.1", "port": scp.port}},
            "destinations": {"pacs": {"kind": "dimse", "peer": "PACS"}},
            "rules": [
                {"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": ["pacs"]},
            ],
        },
    ).start()
    try:
        # images that no rule takes: they may go as soon as that is known
        statuses: list[int] = []
        for number in range(60):
            statuses += store(node.dicom_port, large(number).files(), calling="PACS")
            if statuses[-1] == OUT_OF_RESOURCES:
                break
        refused = statuses[-1]
        first = ct("first", study="first")

        # who was refused sends again: what is lost without a name counts against its caller's others
        wait_for("room", lambda: is_taken(node, large(number)))
        wait_for("room", lambda: is_taken(node, first))
        undelivered = wait_for("its result", lambda: waiting(node))
        taken_again = wait_for("room", lambda: is_taken(node, large(99)))
        still_there = waiting(node)

        with StoreScp(ae_title="PACS", port=scp.port).listening() as pacs:
            node.cli("deliveries", "retry", "--destination", "pacs")
            wait_for("the delivery", lambda: pacs.stored)
            wait_for("its state", lambda: not waiting(node))

        assert refused == OUT_OF_RESOURCES
        assert set(statuses) == {0, OUT_OF_RESOURCES}
        assert taken_again
        assert still_there == undelivered
        assert len(pacs.objects) == 1
    finally:
        node.kill()


def large(number: int) -> Phantom:
    """3 MB that no rule takes."""
    return Phantom(
        study=f"large {number}",
        series=f"large {number}",
        shape=(3, 512, 512),
        spacing_mm=(60.0, 0.6, 0.6),
        attributes=(("Modality", "MR"),),
        noise_hu=0.0,
    )


def is_taken(node: Node, phantom: Phantom) -> bool:
    """Send a series as a modality does: all of it again until all of it is taken."""
    return set(store(node.dicom_port, phantom.files(), calling="PACS")) == {0}


def waiting(node: Node) -> list[int]:
    rows = node.api("/deliveries")["items"]
    return [row["id"] for row in rows if row["state"] in ("waiting", "sending")]
