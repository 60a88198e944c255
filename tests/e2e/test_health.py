"""A node says of itself what is true: processes that are stopped or die, a bad file, a PACS that is off."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.processes import tree
from tests.support.peers import Node, Orthanc, free_port, store
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

RULES = [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["pacs"]}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose PACS is off."""
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}
    config = {
        "peers": {"pacs": peer},
        "destinations": {"pacs": {"kind": "dimse", "peer": "pacs"}},
        "rules": RULES,
    }
    with Node(tmp_path_factory.mktemp("health"), config) as running:
        wait_for("a node that is well", lambda: ready(running)["status"] == "ready")
        yield running


def ready(node: Node) -> dict[str, Any]:
    """What ``/readyz`` says."""
    try:
        with urllib.request.urlopen(f"{node.url}/readyz", timeout=5) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as refused:
        return dict(json.loads(refused.read()))


def findings(node: Node, code: str, subject: str = "") -> list[dict[str, Any]]:
    """Of one code; of one subject, as a busy machine makes others late, too."""
    found = [each for each in ready(node)["findings"] if each["code"] == code]
    return [each for each in found if subject in ("", each["subject"])]


def process_of(node: Node, role: str) -> int:
    """Of a running node, by what its supervisor wrote down."""
    ledgers = (node.data_dir / "run" / "roles").glob("*.json")
    roles = [each for path in ledgers for each in json.loads(path.read_bytes())["roles"]]
    return next(int(each["child"]) for each in roles if each["name"] == role)


@pytest.mark.parametrize("role", ["route", "deliver", "work cpu", "receive"])
def test_a_stopped_process_is_told_and_told_well_again(node: Node, role: str) -> None:
    process = process_of(node, role)
    os.kill(process, signal.SIGSTOP)
    try:
        (finding,) = wait_for("the finding", lambda: findings(node, "role_silent", role))
        status = ready(node)["status"]
        status_of_command = node.cli("status").stdout
    finally:
        os.kill(process, signal.SIGCONT)

    assert role in finding["sentence"]
    assert finding["do"]
    assert status in (("unready",) if role == "receive" else ("degraded", "unready"))
    assert f"degraded (role_silent): the process {role} does not come round" in status_of_command
    wait_for("its next round", lambda: not findings(node, "role_silent"))


def test_a_stopped_web_process_is_told_by_the_command(node: Node) -> None:
    process = process_of(node, "web")
    os.kill(process, signal.SIGSTOP)
    try:
        wait_for("the finding", lambda: "process web does not come" in node.cli("status").stdout)
    finally:
        os.kill(process, signal.SIGCONT)
    wait_for("its next round", lambda: not findings(node, "role_silent"))


def test_a_stopped_supervisor_is_told(node: Node) -> None:
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        wait_for("the finding", lambda: findings(node, "role_silent", "supervisor"))
    finally:
        node.process.send_signal(signal.SIGCONT)

    wait_for("its next round", lambda: not findings(node, "role_silent"))


def test_a_process_that_died_is_told(node: Node) -> None:
    os.kill(process_of(node, "deliver"), signal.SIGKILL)

    (finding,) = wait_for("the finding", lambda: findings(node, "role_restarted", "deliver"))

    assert finding["facts"] == {"times": 1, "how": "SIGKILL"}


def test_a_refused_reload_is_told_and_commands_work_beside_the_bad_file(node: Node) -> None:
    good = node.config_path.read_text()
    assert node.process is not None
    node.config_path.write_text(good.replace('"ct_tissue"', '"no_such_model"'))
    try:
        node.process.send_signal(signal.SIGHUP)

        (finding,) = wait_for("the finding", lambda: findings(node, "reload_refused"))
        looked = node.cli("status")
    finally:
        node.config_path.write_text(good)
        node.process.send_signal(signal.SIGHUP)

    assert "no model 'no_such_model'" in finding["sentence"]
    assert looked.returncode == 0
    assert "degraded (reload_refused)" in looked.stdout
    wait_for("the reload", lambda: not findings(node, "reload_refused"))


def test_a_pacs_that_is_off_is_told_at_the_first_try_and_well_when_it_is_back(
    node: Node, tmp_path: Path
) -> None:
    store(node.dicom_port, Phantom().files(), calling="PACS")

    (finding,) = wait_for("the finding", lambda: findings(node, "destination_sick"), 120)
    assert finding["subject"] == "pacs"
    assert finding["facts"]["failures"] >= 1

    port = node.config["peers"]["pacs"]["port"]
    modalities = {"node": ["SEGNODE", "127.0.0.1", node.dicom_port]}
    with Orthanc(tmp_path / "orthanc", "PACS", modalities, dicom_port=port) as pacs:
        node.cli("deliveries", "retry", "--destination", "pacs")
        wait_for("the result", pacs.segmentations, 120)
        wait_for("a node that is well", lambda: not findings(node, "destination_sick"))


def test_nothing_of_the_ledger_is_left_when_the_node_stops(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", {"rules": [{**RULES[0], "send": []}]})
    with node:
        assert node.process is not None
        wait_for("its processes", lambda: len(list(tree(node.process.pid))) > 4)
        assert list((node.data_dir / "run" / "roles").iterdir())
        assert node.stop() == 0
    assert list((node.data_dir / "run" / "roles").iterdir()) == []
