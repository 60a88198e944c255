"""``segnode send``, ``doctor`` and ``conformance``: the node in its network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, evt

from node.deliver.destination import Health
from node.deliver.dicomweb import DicomwebDestination
from node.deliver.dimse import DimseDestination
from node.deliver.folder import FolderDestination
from node.domain.peers import Peer
from tests.cli.conftest import CHEST, Segnode
from tests.support.peers import Node, free_port

VERIFICATION = "1.2.840.10008.1.1"

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom 3.0.4 leaves a socket that could not connect to the garbage collector
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def scp(request: pytest.FixtureRequest) -> Iterator[tuple[int, list[str]]]:
    """A real Storage SCP for the SOP classes of the test, and what it got; it refuses slice 3."""
    got: list[str] = []

    def store(event: evt.Event) -> int:
        if int(event.dataset.InstanceNumber) == 3:
            return 0xA700
        got.append(str(event.dataset.SOPInstanceUID))
        return 0x0000

    entity = AE(ae_title="PEER")
    for sop_class_uid in request.param:
        entity.add_supported_context(sop_class_uid, ExplicitVRLittleEndian)
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    yield port, got
    assert server is not None
    server.shutdown()


@pytest.mark.parametrize("scp", [[CTImageStorage]], indirect=True)
def test_send_reports_each_instance_and_fails_when_one_is_refused(
    segnode: Segnode, scp: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, got = scp
    CHEST.write(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("nothing here")

    answer = segnode("send", "in", f"127.0.0.1:{port}", "--aec", "PEER", "--json")

    states = [report["state"] for report in answer.json]
    assert answer.code == 1
    assert states.count("stored") == len(got) == 11
    assert [r["status"] for r in answer.json if r["state"] == "refused"] == [0xA700]
    assert states.count("not dicom") == 1
    assert "11 stored" in answer.err


@pytest.mark.parametrize("scp", [[CTImageStorage]], indirect=True)
def test_send_ends_with_0_when_everything_was_stored(
    segnode: Segnode, scp: tuple[int, list[str]], tmp_path: Path
) -> None:
    paths = CHEST.write(tmp_path / "in")
    paths[2].unlink()

    answer = segnode("send", "in", f"127.0.0.1:{scp[0]}", "--aec", "PEER")

    assert answer.code == 0
    assert len(answer.out.splitlines()) == 11
    assert all(line.startswith("stored") for line in answer.out.splitlines())


@pytest.mark.parametrize(
    ("target", "options"),
    [("host", ()), ("host:0", ()), (":104", ()), ("host:104", ("--aet", "x" * 17))],
)
def test_send_to_what_is_no_address_ends_with_2(
    segnode: Segnode, tmp_path: Path, target: str, options: tuple[str, ...]
) -> None:
    assert segnode("send", tmp_path, target, *options).code == 2


def destination(port: int) -> DimseDestination:
    return DimseDestination(
        name="pacs",
        peer=Peer(name="P", ae_title="PEER", host="127.0.0.1", port=port),
        calling_ae_title="SEGNODE",
        connect_timeout_s=2.0,
        negotiate_timeout_s=2.0,
        answer_timeout_s=2.0,
    )


@pytest.mark.parametrize(
    ("scp", "health", "word"),
    [
        ([VERIFICATION, SegmentationStorage], Health.GOOD, "takes Segmentation Storage"),
        ([VERIFICATION, CTImageStorage], Health.BAD, "takes no Segmentation Storage"),
        ([SegmentationStorage], Health.WARNING, "answers no C-ECHO"),
    ],
    indirect=["scp"],
)
def test_doctor_asks_a_dimse_destination_without_storing_anything(
    scp: tuple[int, list[str]], health: Health, word: str
) -> None:
    probe = destination(scp[0]).probe()

    assert (probe.health, word in probe.sentence) == (health, True)
    assert scp[1] == []


def test_doctor_names_a_destination_that_does_not_answer() -> None:
    probe = destination(free_port()).probe()

    assert probe.health is Health.BAD
    assert "does not answer" in probe.sentence


@pytest.mark.parametrize(
    ("status", "health"),
    [
        (200, Health.GOOD),
        (405, Health.GOOD),
        (401, Health.BAD),
        (404, Health.BAD),
        (503, Health.BAD),
    ],
)
def test_doctor_asks_a_dicomweb_destination_by_options(status: int, health: Health) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_OPTIONS(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()

    url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    probe = DicomwebDestination(name="orthanc", url=url).probe()

    server.shutdown()
    server.server_close()
    assert probe.health is health
    assert asked == ["/dicom-web/studies"]


def test_doctor_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    probe = FolderDestination(name="shelf", path=tmp_path / "gone").probe()

    assert probe.health is Health.BAD
    assert "create it, or mount it" in probe.sentence


def test_doctor_ends_with_1_when_something_is_bad(segnode: Segnode, config: Path) -> None:
    good = segnode("doctor", "--config", config, "--json")
    config.write_text(config.read_text().replace("reserve_gb: 0", "reserve_gb: 1000000"))

    bad = segnode("doctor", "--config", config)

    assert good.code == 0
    assert {check["name"]: check["health"] for check in good.json} == {
        "python": "good",
        "codecs": "good",
        "devices": "good",
        "disk": "good",
        "database": "good",
        "parked": "warning",
        "dimse": "warning",
        "web": "warning",
        "model ct_tissue": "good",
        "destination shelf": "good",
    }
    assert bad.code == 1
    assert "bad      disk: " in bad.out


def test_doctor_stores_one_instance_in_a_running_node_and_twice_is_no_harm(
    tmp_path: Path,
) -> None:
    with Node(
        tmp_path, {"rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue"}]}
    ) as node:
        first = node.cli("doctor", "--send", "--json")
        second = node.cli("doctor", "--send", "--json")
        status = json.loads(node.cli("status", "--json").stdout)

    for answer in (first, second):
        health = {check["name"]: check["health"] for check in json.loads(answer.stdout)}
        assert (health["dimse"], health["web"], health["store"]) == ("good", "good", "good")
    assert status["is_running"] is True
    assert status["quarantine"] == 0
