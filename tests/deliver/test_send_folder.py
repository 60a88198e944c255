"""``segnode send``: one truthful line per file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
    generate_uid,
)

from node.deliver.dimse import DimseDestination
from node.deliver.send_folder import SendReport, SendState, send_folder
from node.domain.errors import InstanceRejected
from node.domain.peers import Peer
from tests.support import raw_dimse as raw
from tests.support.evil_peers import StoreScp
from tests.support.instances import ct_slice
from tests.support.malformed import nested_file
from tests.support.memory_node import Node, serving
from tests.support.peers import free_port


@pytest.fixture
def node() -> Iterator[Node]:
    with serving() as serve:
        yield serve()


def storage_scp(
    port: int, called_ae_title: str = "SEGNODE", host: str = "127.0.0.1"
) -> DimseDestination:
    peer = Peer(name="peer", ae_title=called_ae_title, host=host, port=port)
    return DimseDestination(name="scp", peer=peer, calling_ae_title="SEGNODE")


def sent(node: Node, folder: Path) -> Iterator[SendReport]:
    return send_folder(storage_scp(node.server.port), folder)


def instance(
    path: Path, sop_class_uid: str = raw.CT_IMAGE_STORAGE, syntax: str = ExplicitVRLittleEndian
) -> str:
    """Write a small instance; returns its SOP Instance UID."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.SOPClassUID = sop_class_uid
    data_set.SOPInstanceUID = generate_uid()
    data_set.PatientName = "Nobody^Real"
    path.parent.mkdir(exist_ok=True, parents=True)
    data_set.save_as(path, enforce_file_format=True)
    return str(data_set.SOPInstanceUID)


def test_every_instance_below_the_folder_is_sent_as_it_lies(node: Node, tmp_path: Path) -> None:
    uids = {instance(tmp_path / name) for name in ("a.dcm", "b.dcm", "deep/er/c")}
    uids.add(instance(tmp_path / "mr", raw.MR_IMAGE_STORAGE, ImplicitVRLittleEndian))

    reports = list(sent(node, tmp_path))

    assert {report.state for report in reports} == {SendState.STORED}
    assert {report.sop_instance_uid for report in reports} == uids
    kept = {announced.sop_instance_uid: data for _, announced, data in node.ingest.kept}
    for report in reports:
        assert report.path.read_bytes().endswith(kept[report.sop_instance_uid])
    assert [event for _, event, _ in node.log.events] == ["opened", "released"]


def test_one_refusal_is_reported_and_the_rest_goes_on(node: Node, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        instance(tmp_path / name)
    rejection = InstanceRejected("pixels contradict the header", dimse_status=0xC010)

    reports = []
    for report in sent(node, tmp_path):
        reports.append(report)
        node.ingest.rejection = rejection if len(reports) == 1 else None

    assert [report.state for report in reports] == [
        SendState.STORED,
        SendState.REFUSED,
        SendState.STORED,
    ]
    assert (reports[1].status, reports[1].comment) == (0xC010, "pixels contradict the header")
    assert [report.is_stored for report in reports] == [True, False, True]


def test_what_the_peer_stored_with_a_warning_is_not_refused(tmp_path: Path) -> None:
    instance(tmp_path / "a", SegmentationStorage)
    with StoreScp(0x0116).listening() as peer:
        (report,) = send_folder(storage_scp(peer.port, "EVIL"), tmp_path)

    assert (report.state, report.status) == (SendState.WARNED, 0x0116)


def test_a_class_the_peer_does_not_take_is_named(node: Node, tmp_path: Path) -> None:
    instance(tmp_path / "a")
    instance(tmp_path / "b", "1.2.840.10008.5.1.4.1.1.7")

    taken, other = sent(node, tmp_path)

    assert taken.state is SendState.STORED
    assert other.state is SendState.NO_CONTEXT
    assert "1.2.840.10008.5.1.4.1.1.7" in other.comment


def test_what_is_no_instance_is_said_so(node: Node, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello, this is not DICOM at all\n" * 20)
    (tmp_path / "empty").touch()

    reports = list(sent(node, tmp_path))

    assert [report.state for report in reports] == [SendState.NOT_DICOM] * 2
    assert node.log.events == []


def test_a_file_without_preamble_is_sent(node: Node, tmp_path: Path) -> None:
    uid = instance(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    meta_bytes = 128 + 4 + 12 + int.from_bytes(data[140:144], "little")
    (tmp_path / "whole").unlink()
    (tmp_path / "bare").write_bytes(data[meta_bytes:])

    (report,) = sent(node, tmp_path)

    assert (report.state, report.sop_instance_uid) == (SendState.STORED, uid)


def test_a_lost_line_costs_one_instance(node: Node, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        instance(tmp_path / name)
    cuts = iter([True])

    def cut_once() -> None:
        if next(cuts, False):
            for provider in node.server._upper_layer._server.providers():
                provider.cut()

    node.ingest.before_finish = cut_once

    reports = list(sent(node, tmp_path))

    assert [report.state for report in reports] == [
        SendState.LINE_LOST,
        SendState.STORED,
        SendState.STORED,
    ]


def test_when_nobody_answers_every_instance_is_reported_not_sent(tmp_path: Path) -> None:
    instance(tmp_path / "a")
    instance(tmp_path / "b")

    reports = list(send_folder(storage_scp(free_port()), tmp_path))

    assert [report.state for report in reports] == [SendState.NOT_SENT] * 2


def test_a_host_without_address_is_reported_and_no_traceback(tmp_path: Path) -> None:
    instance(tmp_path / "a")

    (report,) = send_folder(storage_scp(104, host="nowhere.invalid"), tmp_path)

    assert report.state is SendState.NOT_SENT
    assert report.comment.endswith("the host name has no address")


def test_a_rejected_association_says_why(node: Node, tmp_path: Path) -> None:
    instance(tmp_path / "a")

    (report,) = send_folder(storage_scp(node.server.port, "WRONG"), tmp_path)

    assert report.state is SendState.NOT_SENT
    assert "called ae title not recogni" in report.comment


@pytest.mark.parametrize("has_meta", [True, False])
def test_nesting_without_end_costs_one_file_and_not_the_rest(
    node: Node, tmp_path: Path, has_meta: bool
) -> None:
    instance(tmp_path / "good")
    (tmp_path / "deep").write_bytes(nested_file(ct_slice(), 10_000, has_meta=has_meta))

    deep, good = sorted(sent(node, tmp_path), key=lambda report: report.path)

    assert good.state is SendState.STORED
    if has_meta:  # goes as it lies: what the peer makes of it is the peer's answer
        assert deep.state in (SendState.STORED, SendState.REFUSED)
    else:
        assert deep.state is SendState.NOT_DICOM
        assert deep.comment == "sequences are nested too deeply to be read"
