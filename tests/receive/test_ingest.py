"""What the ingest answers to good and bad instances; F15 to F31 of the fault list."""

from __future__ import annotations

import resource
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, MRImageStorage

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState
from node.domain.limits import IngestLimits
from node.receive.syntaxes import decodable_syntaxes
from node.spool.parts import HEAD_BYTES
from tests.support.instances import (
    ORIGIN,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
    part10_bytes,
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened_node(tmp_path) as opened:
        yield opened


def refusal(node: Node, dataset: Dataset, data: bytes | None = None) -> InstanceRejected:
    with pytest.raises(InstanceRejected) as caught:
        node.store(dataset, data)
    return caught.value


def test_a_stored_instance_keeps_its_bytes_and_gets_a_head_of_ours(node: Node) -> None:
    image = ct_slice()

    receipt = node.store(image)

    (row,) = node.rows("instance")
    path = node.spool.path_of(str(row["file_name"]))
    kept = dcmread(path)
    assert receipt.state is InstanceState.STORED
    assert path.read_bytes()[HEAD_BYTES:] == data_set_bytes(image)
    assert path.read_bytes()[:128] == bytes(128)
    assert kept.file_meta.SendingApplicationEntityTitle == "MAINPACS"
    assert kept.file_meta.ReceivingApplicationEntityTitle == "SEGNODE"
    assert kept.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert row["is_input"] == 1
    assert row["pixel_identity"] == row["received_sha256"]


def test_bytes_may_come_in_pieces_of_any_size(node: Node) -> None:
    image = ct_slice()
    data = part10_bytes(image)

    arrival = node.ingest.begin_file(ORIGIN)
    for start in range(0, len(data), 7):
        arrival.write(memoryview(data)[start : start + 7])

    assert arrival.finish().state is InstanceState.STORED
    (row,) = node.rows("instance")
    assert dcmread(node.spool.path_of(str(row["file_name"]))).PixelData == image.PixelData


def test_an_abandoned_arrival_leaves_nothing(node: Node) -> None:
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice()))
    arrival.write(data_set_bytes(ct_slice())[:500])

    arrival.abandon()

    assert node.files() == []
    assert node.rows("instance") == node.rows("quarantine") == []


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "F15 random bytes": lambda: np.random.default_rng(1).bytes(5000),
    "F16 cut in a value": lambda: data_set_bytes(ct_slice())[:-100],
    "F17 implicit on explicit": lambda: data_set_bytes(ct_slice(), is_implicit=True),
    "F18 big endian on little": lambda: data_set_bytes(ct_slice(), is_little_endian=False),
    "F19 nothing": lambda: b"",
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_unreadable_data_sets_are_refused_and_quarantined(node: Node, fault: str) -> None:
    data = UNREADABLE[fault]()

    rejection = refusal(node, ct_slice(), data)

    (row,) = node.rows("quarantine")
    (path,) = node.files()
    assert rejection.dimse_status == row["dimse_status"] == 0xC000
    assert path.read_bytes()[HEAD_BYTES:] == data


def test_a_data_set_of_another_class_than_announced_is_refused(node: Node) -> None:
    image = ct_slice()
    arrival = node.ingest.begin(ORIGIN, replace(announced(image), sop_class_uid=MRImageStorage))
    arrival.write(data_set_bytes(image))

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xA900
    assert caught.value.offending_tags == (0x00080016,)


def test_a_data_set_of_another_instance_than_announced_is_refused(node: Node) -> None:
    rejection = refusal(node, ct_slice(1), data_set_bytes(ct_slice(2)))

    assert rejection.dimse_status == 0xA900
    assert rejection.offending_tags == (0x00080018,)


@pytest.mark.parametrize(
    "uid",
    [
        "../../../../tmp/pwn",
        "/etc/x",
        "..\\..",
        "1.2\0.3",
        "1." + "2" * 63,
        "1..2",
        "1.2.",
        "1..02",
        "1.2é",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_malformed_uids_are_refused_and_name_no_file(node: Node, tmp_path: Path, uid: str) -> None:
    image = ct_slice()
    marker = b"1.2.826.0.1.1.1.1"
    data = data_set_bytes(image).replace(
        b"\x08\0\x18\0UI" + (len(marker) + 1).to_bytes(2, "little") + marker + b"\0",
        b"\x08\0\x18\0UI" + len(uid.encode()).to_bytes(2, "little") + uid.encode(),
    )
    arrival = node.ingest.begin(
        ORIGIN, replace(announced(image), sop_instance_uid=uid.encode().decode("latin-1"))
    )
    arrival.write(data)

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xC000
    assert caught.value.offending_tags == (0x00080018,)
    assert all(path.is_relative_to(tmp_path / "spool" / "quarantine") for path in node.files())


@pytest.mark.parametrize("is_empty", [True, False])
def test_an_absent_study_uid_is_named_in_the_answer(node: Node, is_empty: bool) -> None:
    image = ct_slice()
    if is_empty:
        image.StudyInstanceUID = ""
    else:
        del image.StudyInstanceUID

    rejection = refusal(node, image)

    assert rejection.dimse_status == 0xC000
    assert rejection.offending_tags == (0x0020000D,)


def with_more_pixels(image: Dataset) -> None:
    image.PixelData = bytes(image.PixelData) * 7


CONTRADICTIONS: dict[str, Callable[[Dataset], None]] = {
    "F28 no rows": lambda image: setattr(image, "Rows", 0),
    "F29 absurd rows": lambda image: setattr(image, "Rows", 65535),
    "F29 absurd frames": lambda image: setattr(image, "NumberOfFrames", 99999),
    "F29 bits allocated 33": lambda image: setattr(image, "BitsAllocated", 33),
    "F29 more than declared": with_more_pixels,
    "no samples": lambda image: setattr(image, "SamplesPerPixel", 0),
}


@pytest.mark.parametrize("fault", CONTRADICTIONS)
def test_pixel_data_that_contradict_the_header_are_refused(node: Node, fault: str) -> None:
    image = ct_slice()
    CONTRADICTIONS[fault](image)

    rejection = refusal(node, image)

    assert rejection.dimse_status == 0xC010
    assert len(node.rows("quarantine")) == 1


def test_encapsulated_pixels_under_a_native_syntax_are_refused(node: Node) -> None:
    image = ct_slice()
    del image.PixelData
    fragments = bytes.fromhex("feff00e000000000 feff00e004000000 ffd8ffd9 feffdde000000000")
    data = data_set_bytes(image) + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragments

    assert refusal(node, image, data).dimse_status == 0xC010


def test_native_pixels_under_an_encapsulating_syntax_are_refused(node: Node) -> None:
    image = ct_slice()
    arrival = node.ingest.begin(ORIGIN, announced(image, str(JPEGBaseline8Bit)))
    arrival.write(data_set_bytes(image))

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xC010


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_a_deflated_instance_is_kept_as_it_came(node: Node) -> None:
    image = ct_slice()
    packed = deflated(data_set_bytes(image))
    arrival = node.ingest.begin(ORIGIN, announced(image, str(DeflatedExplicitVRLittleEndian)))
    arrival.write(packed)

    receipt = arrival.finish()

    (row,) = node.rows("instance")
    path = node.spool.path_of(str(row["file_name"]))
    assert receipt.sop_instance_uid == image.SOPInstanceUID
    assert path.read_bytes()[HEAD_BYTES:] == packed
    assert dcmread(path).PixelData == image.PixelData


def test_a_cut_deflate_stream_is_refused(node: Node) -> None:
    image = ct_slice()
    arrival = node.ingest.begin(ORIGIN, announced(image, str(DeflatedExplicitVRLittleEndian)))
    arrival.write(deflated(data_set_bytes(image))[:-20])

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xC000


def test_a_deflate_bomb_is_refused_without_its_memory(node: Node) -> None:
    image = ct_slice()
    bomb = deflated(bytes(400_000_000))
    arrival = node.ingest.begin(ORIGIN, announced(image, str(DeflatedExplicitVRLittleEndian)))
    arrival.write(bomb)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xC030
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20_000


def test_an_object_over_the_limit_is_refused_and_gives_its_room_back(tmp_path: Path) -> None:
    with opened_node(tmp_path, limits=IngestLimits(max_object_bytes=300)) as node:
        arrival = node.ingest.begin(ORIGIN, announced(ct_slice()))
        arrival.write(data_set_bytes(ct_slice()))

        assert node.files() == []
        arrival.write(b"more")
        with pytest.raises(InstanceRejected) as caught:
            arrival.finish()

    assert caught.value.dimse_status == 0xA700


@pytest.mark.parametrize("magic", [b"\x7fELF", b"MZ", b"%PDF-1.7"])
def test_an_executable_preamble_is_not_kept(node: Node, magic: bytes) -> None:
    data = part10_bytes(ct_slice())

    node.store_file(magic.ljust(128, b"\x90") + data[128:])

    (path,) = node.files()
    assert path.read_bytes()[:128] == bytes(128)


@pytest.mark.parametrize(
    ("is_implicit", "is_little"), [(True, True), (False, True), (False, False)]
)
def test_a_file_without_a_head_is_understood(
    node: Node, is_implicit: bool, is_little: bool
) -> None:
    data = data_set_bytes(ct_slice(), is_implicit=is_implicit, is_little_endian=is_little)

    node.store_file(data)

    (row,) = node.rows("instance")
    kept = dcmread(node.spool.path_of(str(row["file_name"])))
    assert (kept.Rows, kept.SOPInstanceUID) == (16, row["sop_instance_uid"])


def test_a_file_of_another_study_than_the_request_names_is_refused(node: Node) -> None:
    with pytest.raises(InstanceRejected) as caught:
        node.store_file(part10_bytes(ct_slice()), study_instance_uid="1.2.3")

    assert caught.value.dimse_status == 0xA901
    assert caught.value.sop_instance_uid == ct_slice().SOPInstanceUID


def test_a_syntax_that_does_not_decode_here_is_refused(node: Node) -> None:
    image = ct_slice()
    del image.PixelData
    data = part10_bytes(image, "1.2.840.10008.1.2.8.1")

    with pytest.raises(InstanceRejected) as caught:
        node.store_file(data)

    assert caught.value.dimse_status == 0xC122


def test_a_class_that_is_no_storage_class_is_refused(node: Node) -> None:
    image = ct_slice()
    image.SOPClassUID = "1.2.840.10008.1.1"

    assert refusal(node, image).dimse_status == 0x0122


@pytest.mark.parametrize("charset", ["ISO 2022 IR 87", "ISO_IR 999", ""])
def test_any_character_set_is_kept_byte_for_byte(node: Node, charset: str) -> None:
    data = data_set_bytes(ct_slice())
    name = b"\x1b$B;3ED\x1b(B^\xf0\x9f\x98\x80 "
    value = charset.encode() + b" " * (len(charset) % 2)
    head = b"\x08\0\x05\0CS" + len(value).to_bytes(2, "little") + value
    old = b"\x10\0\x10\0PN\x0c\0Phantom^Ramp"
    assert old in data
    data = head + data.replace(old, b"\x10\0\x10\0PN" + len(name).to_bytes(2, "little") + name)

    node.store(ct_slice(), data)

    (path,) = node.files()
    assert path.read_bytes()[HEAD_BYTES:] == data


def test_every_syntax_of_the_table_decodes_its_sample() -> None:
    offered = decodable_syntaxes()

    assert {
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.5",
    } <= set(offered)
    assert "1.2.840.10008.1.2.8.1" not in offered
