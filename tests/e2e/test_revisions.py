"""One run for many wishes: shared jobs, corrected names, destinations added later, sets by role.

Through the whole process tree with real sockets; ``tests/pipeline`` has the cases one by one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.evil_peers import StoreScp
from tests.support.node_in_process import MODELS_PROBE
from tests.support.peers import Node, store
from tests.support.phantoms import Phantom
from tests.support.simulated_node import ct
from tests.support.waiting import wait_for

NAME = "Müller^Ännchen"


@pytest.fixture
def scp() -> Iterator[StoreScp]:
    with StoreScp(ae_title="PACS").listening() as listening:
        yield listening


@pytest.fixture
def node(tmp_path: Path, scp: StoreScp) -> Iterator[Node]:
    """Two rules with one model, and one that takes two series of a study."""
    shelves = {name: tmp_path / name for name in ("shelf", "later")}
    for folder in shelves.values():
        folder.mkdir()
    folders = {
        name: {"kind": "folder", "path": str(folder), "layout": "{SOPInstanceUID}.dcm"}
        for name, folder in shelves.items()
    }
    study = {
        "fixed": {"SeriesDescription": "fixed"},
        "moving": {"SeriesDescription": "moving"},
    }
    probe = {"when": {"SeriesDescription": "alone"}, "run": "probe"}
    serving = Node(
        tmp_path / "node",
        {
            "models_dirs": [str(MODELS_PROBE)],
            "completion": {"release_settle_s": 0.3, "quiet_s": 2},
            "peers": {"PACS": {"ae_title": "PACS", "host": "127.0.0.1", "port": scp.port}},
            "destinations": folders,
            "rules": [
                {**probe, "name": "to the sender", "send": ["sender"]},
                {**probe, "name": "to the shelf", "send": ["shelf"]},
                {"name": "pair", "study": study, "run": "pair", "send": ["sender"]},
            ],
        },
    ).start()
    yield serving
    if serving.process is not None:
        serving.kill()


def test_one_run_serves_two_rules_a_corrected_name_and_a_destination_added_later(
    node: Node, scp: StoreScp, tmp_path: Path
) -> None:
    alone = ct(slices=9, SeriesDescription="alone")
    renamed = ct(slices=9, SeriesDescription="alone", PatientName=NAME)

    send(node, alone.files()[:8])
    wait_for("both deliveries", lambda: sent(node) == ["peer:PACS", "shelf"])
    send(node, renamed.files()[:8])
    wait_for("the new name", lambda: snapshot_versions(node, alone) == {2})
    add_destination(node, "later")
    node.cli("series", "rerun", alone.uid("series"))
    wait_for("the third delivery", lambda: sent(node) == ["later", "peer:PACS", "shelf"])
    one_run = [(job["state"], job["attempts"]) for job in node.api("/jobs")["items"]]

    send(node, renamed.files()[8:])
    wait_for("the next revision", lambda: len(sent(node)) == 6)

    assert one_run == [("done", 1)]
    jobs = node.api("/jobs")["items"]
    assert sorted((job["state"], job["attempts"]) for job in jobs) == [("done", 1), ("done", 1)]
    old, new = (received(data) for _, data in scp.stored)
    assert str(old.PatientName) == "Phantöm^Torso"
    assert new.get_item("PatientName").value.rstrip() == NAME.encode()
    assert new.SeriesDescription.endswith("revision 3")
    assert len(list((tmp_path / "shelf").iterdir())) == 2
    assert len(list((tmp_path / "later").iterdir())) == 2


def test_a_set_waits_for_both_roles_and_a_late_slice_in_one_makes_its_next_revision(
    node: Node, scp: StoreScp
) -> None:
    fixed = ct("fixed", slices=9, SeriesDescription="fixed")
    moving = ct("moving", SeriesDescription="moving")

    send(node, fixed.files()[:8])
    wait_for("the wait", lambda: set_match(node, fixed).get("state") == "receiving")
    waiting = set_match(node, fixed)["sentence"]
    send(node, moving.files())
    wait_for("the first result", lambda: len(scp.stored) == 1)
    send(node, fixed.files()[8:])
    wait_for("the second result", lambda: len(scp.stored) == 2)

    assert waiting == "no series yet for role moving: send it"
    first, second = (received(data) for _, data in scp.stored)
    assert first.StudyInstanceUID == second.StudyInstanceUID == fixed.uid("study")
    assert second.SeriesDescription.endswith("revision 2")
    assert str(first.SOPInstanceUID) in str(second)
    assert len(node.api("/jobs")["items"]) == 2


def send(node: Node, files: list[bytes]) -> None:
    assert set(store(node.dicom_port, files, calling="PACS")) == {0}


def sent(node: Node) -> list[str]:
    """Destinations of what was delivered, a name for each delivery."""
    rows = node.api("/deliveries")["items"]
    return sorted(row["destination"] for row in rows if row["state"] == "sent")


def snapshot_versions(node: Node, phantom: Phantom) -> set[int]:
    return set(node.api(f"/series/{phantom.uid('series')}")["snapshot"].values())


def set_match(node: Node, phantom: Phantom) -> dict[str, Any]:
    matches = node.api(f"/series/{phantom.uid('series')}")["matches"]
    return next((match for match in matches if match["rule"] == "pair"), {})


def add_destination(node: Node, name: str) -> None:
    """To the second rule, as an operator does it: change the file, SIGHUP."""
    node.config["rules"][1]["send"] = ["shelf", name]
    node.write_config()
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGHUP)
    wait_for("the reload", lambda: " reload" in node.log())


def received(data: bytes) -> Dataset:
    """A data set as the SCP got it."""
    return dcmread(BytesIO(data), force=True)
