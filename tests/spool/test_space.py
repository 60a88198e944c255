"""Room on the disk: asked for as bytes arrive, so that the reserve stays whatever is sent."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState
from node.receive.ingest import Arrival
from node.spool.files import Watermark
from node.spool.parts import Inflating
from tests.support.disks import LeastFree, SmallDisk, small_disk
from tests.support.instances import (
    ORIGIN,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)

MB = 1_000_000
RESERVE = 24 * MB
# what one process may go beyond: what it writes between two looks, and one piece of each sender
BEYOND = 8 * MB
PIECE = bytes(128 * 1024)
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def node(disk: SmallDisk) -> Iterator[Node]:
    watermark = Watermark(reserve_gb=RESERVE / 1e9, max_used_percent=100)
    with opened_node(disk.folder, watermark=watermark) as opened:
        yield opened


def send_without_end(node: Node, number: int) -> int:
    """A C-STORE that goes on for 100 MB; the status that it is answered."""
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice(number)))
    arrival.write(data_set_bytes(ct_slice(number)))
    for _ in range(100 * MB // len(PIECE)):
        arrival.write(PIECE)
    return status_of(arrival)


def status_of(arrival: Arrival) -> int:
    try:
        arrival.finish()
    except InstanceRejected as rejected:
        return rejected.dimse_status
    return 0


def test_an_instance_without_end_leaves_the_reserve(node: Node, disk: SmallDisk) -> None:
    watch = LeastFree(disk)

    with watch.watching():
        status = send_without_end(node, 1)

    assert status == 0xA700
    assert watch.least_bytes > RESERVE - BEYOND
    assert node.files() == []
    node.spool.forget_space()
    assert node.store(ct_slice()).state is InstanceState.STORED


def test_fifty_at_once_leave_the_reserve(node: Node, disk: SmallDisk) -> None:
    watch = LeastFree(disk)
    arrivals = [node.ingest.begin(ORIGIN, announced(ct_slice(n))) for n in range(50)]

    with watch.watching():
        for _ in range(3 * MB // len(PIECE)):
            for arrival in arrivals:
                arrival.write(PIECE)
        statuses = {status_of(arrival) for arrival in arrivals}

    assert 0xA700 in statuses
    assert watch.least_bytes > RESERVE - BEYOND
    assert all("quarantine" in str(path) for path in node.files())


def test_many_small_ones_leave_the_reserve(node: Node, disk: SmallDisk) -> None:
    def store(number: int) -> int:
        try:
            node.store(ct_slice(number, side=512))
        except InstanceRejected as rejected:
            return rejected.dimse_status
        return 0

    watch = LeastFree(disk)
    with watch.watching(), ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(store, range(120)))

    assert set(statuses) == {0, 0xA700}
    assert watch.least_bytes > RESERVE - BEYOND
    assert len(node.rows("instance")) == statuses.count(0)


def deflated_bytes(size: int) -> bytes:
    image = ct_slice()
    image.add_new(0x00090010, "LO", "PHANTOM")
    image.add_new(0x00091001, "OB", bytes(size))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data_set_bytes(image)) + packer.flush()


def test_what_inflates_leaves_the_reserve(disk: SmallDisk) -> None:
    data = deflated_bytes(60 * MB)
    watermark = Watermark(reserve_gb=RESERVE / 1e9, max_used_percent=100)
    with opened_node(disk.folder, watermark=watermark, transfer_syntaxes=(DEFLATED,)) as node:
        watch = LeastFree(disk)
        with watch.watching():
            arrival = node.ingest.begin(ORIGIN, announced(ct_slice(), DEFLATED))
            arrival.write(data)
            status = status_of(arrival)

        assert status == 0xA700
        assert watch.least_bytes > RESERVE - BEYOND
        assert node.files() == []
        node.spool.forget_space()
        arrival = node.ingest.begin(ORIGIN, announced(ct_slice(), DEFLATED))
        arrival.write(deflated_bytes(MB))
        assert status_of(arrival) == 0


def test_what_inflates_on_a_full_disk_is_refused_and_the_next_one_taken(disk: SmallDisk) -> None:
    watermark = Watermark(reserve_gb=0, max_used_percent=100)
    with opened_node(disk.folder, watermark=watermark, transfer_syntaxes=(DEFLATED,)) as node:
        filler = disk.leave_free(2 * MB)
        arrival = node.ingest.begin(ORIGIN, announced(ct_slice(), DEFLATED))
        arrival.write(deflated_bytes(10 * MB))
        assert status_of(arrival) == 0xA700

        filler.unlink()
        node.spool.forget_space()
        arrival = node.ingest.begin(ORIGIN, announced(ct_slice(), DEFLATED))
        arrival.write(deflated_bytes(10 * MB))
        assert status_of(arrival) == 0


def test_all_that_is_inflated_at_once_has_a_bound_that_is_given_back() -> None:
    inflating = Inflating(max_bytes=100)
    with inflating.some() as first, inflating.some() as second:
        first(60)
        with pytest.raises(InstanceRejected, match="A700"):
            second(60)
        second(40)

    with inflating.some() as third:
        third(100)


def test_a_folder_that_is_renamed_away_is_told_and_taken_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    with opened_node(tmp_path) as node:
        root = node.spool.instances.parent
        node.store(ct_slice(1))
        in_hand = node.ingest.begin(ORIGIN, announced(ct_slice(2)))
        in_hand.write(data_set_bytes(ct_slice(2)))

        root.rename(tmp_path / "elsewhere")
        node.spool.forget_space()
        with pytest.raises(InstanceRejected, match="A700") as caught:
            node.store(ct_slice(3))
        status = status_of(in_hand)
        shortage = node.spool.shortage
        (tmp_path / "elsewhere").rename(root)
        node.spool.forget_space()

        assert "cannot be used (No such file or directory)" in caught.value.reason
        assert caught.value.reason == shortage
        assert status == 0xA700
        assert node.store(ct_slice(2)).state is InstanceState.STORED
        assert len(node.rows("instance")) == 2


def test_a_folder_on_another_disk_than_before_is_written_to(tmp_path: Path) -> None:
    """As after an unmount and a mount: nothing of before may be held on to."""
    with opened_node(tmp_path) as node:
        root = node.spool.instances.parent
        node.store(ct_slice(1))
        shutil.copytree(root, tmp_path / "copy")
        root.rename(tmp_path / "elsewhere")
        (tmp_path / "copy").rename(root)

        assert node.store(ct_slice(2)).state is InstanceState.STORED
        assert len(node.files()) == 2


def test_a_disk_that_became_read_only_is_told(node: Node, disk: SmallDisk) -> None:
    in_hand = node.ingest.begin(ORIGIN, announced(ct_slice(2)))
    in_hand.write(data_set_bytes(ct_slice(2)))
    in_hand.abandon()
    node.index.flush()
    node.index.engine.dispose()  # a file that is open for writing keeps a disk writable
    disk.remount("ro")
    node.spool.forget_space()

    shortage = node.spool.shortage
    disk.remount("rw")
    node.spool.forget_space()

    assert "read-only" in shortage
    assert node.store(ct_slice()).state is InstanceState.STORED


def test_the_last_inodes_are_kept(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", inodes=1000) as disk:
        watermark = Watermark(reserve_gb=0, max_used_percent=100)
        with opened_node(disk.folder, watermark=watermark) as node:
            statuses = []
            for number in range(1, 1100):
                try:
                    node.store(ct_slice(number, side=2))
                except InstanceRejected as rejected:
                    statuses.append(rejected.dimse_status)
                    break

            assert statuses == [0xA700]
            assert "inodes free" in node.spool.shortage
            # 100 are kept; between two looks 64 instances come at most, with a series' marker each
            for number in range(30):
                (disk.folder / f"what others need {number}").touch()
