"""Hostile data sets over a real association into the real ingest and spool.

Each is answered with its status, on an association that goes on; nothing appears outside the data
folder and nothing but acknowledged instances stays in it.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.database.engine import open_engine
from node.domain.limits import IngestLimits
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.ingest import Ingest
from node.receive.syntaxes import decodable_syntaxes, storage_contexts
from node.spool import tables
from node.spool.files import Spool, SpoolFolders, SpoolSettings, Watermark
from node.spool.index import Index
from tests.faults.case import DEFLATED
from tests.faults.content import (
    CONTENT,
    HOSTILE_UIDS,
    PATIENT_ID,
    UID,
    bomb,
    ct,
    element,
    file_head,
    nested,
)
from tests.support import raw_dimse as raw
from tests.support.peers import ECHOSCU, STORESCU, need
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import eventually


@dataclass
class Node:
    server: DimseServer
    folder: Path
    index: Index

    def kept(self) -> list[Path]:
        return sorted((self.folder / "instances").rglob("*.dcm"))

    def parts(self) -> list[Path]:
        return list((self.folder / "incoming").iterdir())

    def rows(self) -> list[tuple[str, str]]:
        columns = tables.association.c.calling_ae_title, tables.association.c.end
        with self.index.engine.connect() as connection:
            found = connection.execute(tables.association.select().with_only_columns(*columns))
            return [tuple(row) for row in found]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("data") / "spool"
    engine = open_engine(f"sqlite:///{folder.parent / 'segnode.sqlite'}")
    tables.metadata.create_all(engine)
    index = Index(engine)
    watermark = Watermark(reserve_gb=0.01, max_used_percent=99.9)
    spool = Spool(SpoolSettings(folders=SpoolFolders(folder), watermark=watermark), index)
    limits = IngestLimits(max_object_bytes=50_000_000, max_inflated_bytes=50_000_000)
    ingest = Ingest(spool, transfer_syntaxes=decodable_syntaxes(), limits=limits)
    server = DimseServer(DimseSettings(port=0), ingest, index, storage_contexts())
    server.start()
    yield Node(server, folder, index)
    server.stop()
    spool.close()
    index.close()
    engine.dispose()


@pytest.fixture
def client(node: Node) -> Iterator[RawAssociation]:
    offers = (
        *raw.STORAGE_AND_ECHO,
        (raw.CT_IMAGE_STORAGE, (DEFLATED,)),
    )
    with RawAssociation(node.server.port) as client:
        assert client.request(offers).kind == raw.ASSOCIATE_AC
        yield client


@pytest.mark.parametrize("data", CONTENT.values(), ids=CONTENT)
def test_a_broken_data_set_is_refused_and_the_association_goes_on(
    node: Node, client: RawAssociation, data: bytes
) -> None:
    before = node.kept()

    response = client.store(data, UID)
    echoed = client.echo()

    assert raw.status(response) >> 12 == 0xC or raw.status(response) >> 8 == 0xA9
    assert 0 < len(raw.comment(response)) <= 64
    assert PATIENT_ID not in raw.comment(response)
    assert echoed == 0
    assert node.kept() == before
    assert node.parts() == []


@pytest.mark.parametrize("uid", HOSTILE_UIDS)
def test_f24_a_uid_that_is_none_is_refused_and_names_no_file(
    node: Node, client: RawAssociation, uid: bytes
) -> None:
    outside = set(node.folder.parent.parent.iterdir())

    response = client.store(ct().replace(UID.encode(), uid), uid)

    assert raw.status(response) >> 12 == 0xC or raw.status(response) >> 8 == 0xA9
    assert client.echo() == 0
    assert node.parts() == []
    assert set(node.folder.parent.parent.iterdir()) == outside
    assert not list(node.folder.rglob("*pwn*"))


def test_f25_the_missing_uid_is_the_offendingelement(client: RawAssociation) -> None:
    response = client.store(ct(study=None), UID)

    assert response[0x0901] == struct.pack("<HH", 0x0020, 0x000D)


def test_f26_sequences_a_hundred_deep_are_taken(client: RawAssociation) -> None:
    uid = UID + ".100"

    assert raw.status(client.store(nested(100).replace(*_renamed(uid)), uid)) == 0


def _renamed(uid: str) -> tuple[bytes, bytes]:
    tag = 0x00080018
    return element(tag, b"UI", UID.encode()), element(tag, b"UI", uid.encode())


def test_f27_a_deflate_bomb_is_refused_at_the_cap(node: Node, client: RawAssociation) -> None:
    response = client.store_pieces(bomb(400 << 20), UID, context_id=7)

    assert raw.status(response) in (0xA700, 0xC030) or raw.status(response) >> 12 == 0xC
    assert client.echo() == 0
    assert node.parts() == []


def test_an_instance_beyond_the_cap_is_refused_without_being_kept(
    node: Node, client: RawAssociation
) -> None:
    response = client.store(ct() + bytes(51_000_000), UID)

    assert raw.status(response) == 0xA700
    assert client.echo() == 0
    assert node.parts() == []


def test_st08_the_same_instance_again_is_stored_once(node: Node, client: RawAssociation) -> None:
    uid = UID + ".8"
    data = ct(uid=uid)

    statuses = [raw.status(client.store(data, uid)) for _ in range(2)]

    assert statuses == [0, 0]
    assert len([path for path in node.kept() if data == path.read_bytes()[-len(data) :]]) == 1


def test_f12_a_reset_in_the_middle_leaves_no_part(node: Node) -> None:
    client = RawAssociation(node.server.port)
    client.request()
    client.command(1, raw.store_command(UID))
    client.data(1, bytes(100_000), is_whole=False)
    assert eventually(lambda: len(node.parts()) == 1)

    client.reset()

    assert eventually(lambda: not node.parts())
    assert eventually(lambda: ("RAW", "aborted") in node.rows())


def test_st01_the_acknowledged_file_holds_the_data_set_as_sent(
    node: Node, client: RawAssociation
) -> None:
    uid = UID + ".1"
    data = ct(uid=uid)

    assert raw.status(client.store(data, uid)) == 0

    (path,) = [path for path in node.kept() if path.read_bytes().endswith(data)]
    assert path.stem == hashlib.sha256(uid.encode()).hexdigest()


def test_st13_dcmtk_sends_good_and_bad_files_over_one_association(
    node: Node, tmp_path: Path
) -> None:
    for number in range(3):
        uid = f"{UID}.13.{number}"
        data = ct(uid=uid, study=b"" if number == 1 else b"1.2.3")
        (tmp_path / f"{number}.dcm").write_bytes(file_head(uid) + data)
    before = len(node.kept())

    sent = subprocess.run(
        [
            need(STORESCU), "-v", "-aec", "SEGNODE", "--no-halt", "+sd",
            "127.0.0.1", str(node.server.port), str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )  # fmt: skip
    echoed = subprocess.run(
        [need(ECHOSCU), "-aec", "SEGNODE", "127.0.0.1", str(node.server.port)], timeout=10
    )

    assert sent.stderr.count("Received Store Response (Success)") == 2, sent.stderr
    assert len(node.kept()) == before + 2
    assert echoed.returncode == 0
