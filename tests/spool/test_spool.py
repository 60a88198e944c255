"""Durability, room, quarantine, retention and rebuild of the spool."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from node.database.engine import writing
from node.domain.errors import InstanceRejected, TryLater
from node.domain.instance import Ending, Forced, InstanceState, Origin, SeriesRow, SeriesState
from node.receive.dry import DryRun
from node.receive.syntaxes import NATIVE_SYNTAXES
from node.spool import tables
from node.spool.arrivals import Arrivals
from node.spool.files import SeriesMarkers, SpaceGuard, SpoolFolders, Watermark
from node.spool.parts import InstanceRecord, decode_record, encode_record
from node.spool.quarantine_review import CannotBeFreed, NotInQuarantine, QuarantineReview
from node.spool.rebuild import rebuild_index
from node.spool.retention import bury, series_of, sweep_quarantine
from tests.support.instances import (
    ORIGIN,
    SERIES_UID,
    STUDY_UID,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)
from tests.support.statements import recording

DAY_S = 86400.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened_node(tmp_path) as opened:
        yield opened


def test_a_head_comes_back_as_it_was_written() -> None:
    head = InstanceRecord(
        sop_class_uid="1.2",
        sop_instance_uid="1.2.3",
        transfer_syntax_uid="1.2.840.10008.1.2",
        study_instance_uid="1." + "2" * 62,
        series_instance_uid="1." + "3" * 62,
        origin=Origin(
            transport=ORIGIN.transport,
            association_id="a" * 32,
            peer="é" * 64,
            calling_ae_title="A" * 16,
            called_ae_title="B" * 16,
            address="f" * 64,
            http_user="漢" * 64,
        ),
        received_at=1.5,
        received_sha256="d" * 64,
        size_bytes=10,
        version=2,
        pixel_identity="e" * 64,
        patient_key="c" * 64,
    )

    assert decode_record(encode_record(head)) == head


def test_no_room_below_the_watermark_and_room_again_by_itself(tmp_path: Path) -> None:
    now = [0.0]
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e9
    full = SpaceGuard(tmp_path, Watermark(reserve_gb=free + 100), monotonic_s=lambda: now[0])
    roomy = SpaceGuard(tmp_path, Watermark(reserve_gb=0.0, max_used_percent=100.0))

    assert "are kept in reserve" in full.shortage
    assert roomy.shortage == ""


def test_an_instance_is_refused_for_now_when_the_disk_is_short(tmp_path: Path) -> None:
    with opened_node(tmp_path, watermark=Watermark(reserve_gb=1e9)) as node:
        with pytest.raises(InstanceRejected) as caught:
            node.store(ct_slice())

        assert caught.value.dimse_status == 0xA700
        assert node.files() == []


def test_a_disk_that_fills_during_an_instance_leaves_nothing_and_recovers(node: Node) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = data_set_bytes(ct_slice(side=64))
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice(side=64)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        arrival.write(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.raises(InstanceRejected) as caught:
        arrival.finish()

    assert caught.value.dimse_status == 0xA700
    assert node.files() == []
    assert node.store(ct_slice(side=64)).state is InstanceState.STORED


def test_a_series_that_is_full_takes_no_more_and_knows_what_it_has(tmp_path: Path) -> None:
    with opened_node(tmp_path, max_instances_per_series=3) as node:
        for number in (1, 2, 3):
            node.store(ct_slice(number))

        with pytest.raises(InstanceRejected, match="the series has 3 instances") as caught:
            node.store(ct_slice(4))
        again = node.store(ct_slice(2))
        amended = ct_slice(2)
        amended.PatientName = "Phantom^Mended"
        with pytest.raises(InstanceRejected, match="the series has 3 instances"):
            node.store(amended)

        assert caught.value.dimse_status == 0xC031
        assert [each["kind"] for each in node.rows("event")] == []
        assert again.state is InstanceState.DUPLICATE
        assert len(node.files()) == 3


def test_what_is_beyond_a_full_series_is_one_loss_however_much_comes(tmp_path: Path) -> None:
    with opened_node(tmp_path, max_instances_per_series=2) as node:
        for number in range(1, 21):
            with suppress(InstanceRejected):
                node.store(ct_slice(number))

        (loss,) = node.rows("loss")
        assert (loss["series_instance_uid"], loss["dimse_status"]) == (SERIES_UID, 0xC031)
        assert loss["settled_at"] is None


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_processes_fill_a_series_together(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue("empty_postgresql")() if database == "postgresql" else ""
    with (
        opened_node(tmp_path, url=url, max_instances_per_series=10) as one,
        opened_node(tmp_path, url=url, max_instances_per_series=10) as other,
    ):
        taken = 0
        for number in range(1, 31):
            node = (one, other)[number % 2]
            with suppress(InstanceRejected):
                node.store(ct_slice(number))
                taken += 1
            node.index.flush()

        assert taken == 10


def test_a_series_of_usual_size_is_counted_once(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        with recording() as sent:
            for number in range(1, 101):
                node.store(ct_slice(number))

        counting = [each for each in sent.statements if "count(*)" in each.text.lower()]
        assert len(counting) == 1
        assert not counting[0].scanned


def test_a_locked_index_is_told_and_loses_no_acknowledged_row(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        locker = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")

        assert node.store(ct_slice()).state is InstanceState.STORED
        with pytest.raises(TryLater):
            node.index.flush(timeout_s=0.2)
        locker.execute("ROLLBACK")
        locker.close()

        assert len(node.rows("instance")) == 1


def test_while_rows_cannot_be_written_new_instances_are_refused(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        node.store(ct_slice(0))  # asks what was deleted of this series, and remembers it
        node.index.flush()
        with sqlite3.connect(tmp_path / "index.sqlite") as other:
            other.execute("ALTER TABLE instance RENAME TO hidden")
        node.store(ct_slice(1))
        with pytest.raises(TryLater):
            node.index.flush(timeout_s=0.3)

        with pytest.raises(InstanceRejected) as caught:
            node.store(ct_slice(2))
        assert caught.value.dimse_status == 0xA700

        with sqlite3.connect(tmp_path / "index.sqlite") as other:
            other.execute("ALTER TABLE hidden RENAME TO instance")
        other.close()
        assert len(node.rows("instance")) == 2
        assert node.store(ct_slice(2)).state is InstanceState.STORED


def test_a_series_whose_marker_lost_its_text_belongs_to_who_comes_first(tmp_path: Path) -> None:
    markers = SeriesMarkers(tmp_path)
    assert markers.claim("1.2.3", "a" * 64)
    (marker,) = (path for path in tmp_path.rglob("*") if path.is_file())
    marker.write_text("")

    assert markers.claim("1.2.3", "b" * 64)
    assert not markers.claim("1.2.3", "a" * 64)


def test_the_index_is_rebuilt_from_the_files_alone(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        node.store(ct_slice(1))
        corrected = ct_slice(1)
        corrected.PatientName = "Phantom^Corrected"
        node.store(corrected)
        with pytest.raises(InstanceRejected):
            node.store(ct_slice(2), b"junk that is no data set")
        before = [{**row, "id": 0} for row in node.rows("instance")]
        before_quarantine = [{**row, "id": 0} for row in node.rows("quarantine")]
    (tmp_path / "index.sqlite").unlink()

    with opened_node(tmp_path) as node:
        rebuilt = rebuild_index(node.engine, SpoolFolders.of(tmp_path))
        again = rebuild_index(node.engine, SpoolFolders.of(tmp_path))

        assert (rebuilt.instances, rebuilt.quarantined) == (2, 1)
        assert (again.instances, again.quarantined) == (0, 0)
        assert sorted(
            [{**row, "id": 0} for row in node.rows("instance")], key=lambda row: row["version"]
        ) == sorted(before, key=lambda row: row["version"])
        assert [{**row, "id": 0} for row in node.rows("quarantine")] == before_quarantine


KILLED = """
import os, sys
from pathlib import Path
from tests.support.instances import *
with opened_node(Path(sys.argv[1]), batch_s=60.0) as node:
    print(node.store(ct_slice(1)).state.value, flush=True)
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice(2)))
    arrival.write(data_set_bytes(ct_slice(2))[:300])
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_loses_no_acknowledged_instance(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.stdout == "stored\n", killed.stderr

    with opened_node(tmp_path) as node:
        in_use = node.ingest.begin(ORIGIN, announced(ct_slice(3)))
        rebuilt = rebuild_index(node.engine, SpoolFolders.of(tmp_path))

        assert (rebuilt.instances, rebuilt.stale_parts) == (1, 1)
        assert len(node.rows("instance")) == 1
        in_use.write(data_set_bytes(ct_slice(3)))
        assert in_use.finish().state is InstanceState.STORED


def delete_files(node: Node, now: float) -> None:
    """What retention does to a series that settled and that nothing needs."""
    newest = len(node.rows("instance"))
    settled = SeriesRow(
        series_instance_uid=SERIES_UID,
        study_instance_uid=STUDY_UID,
        instances=1,
        frames=1,
        first_received_at=0.0,
        last_received_at=0.0,
        state=SeriesState.COMPLETE,
        snapshot={f"{SERIES_UID}.1": 1},
        updated_at=0.0,
        newest_row=newest,
    )
    assert Arrivals(node.engine).put_series(settled, was=None)
    with writing(node.engine) as connection:
        names = bury(connection, series_of(connection, [STUDY_UID]), now)
    for name in names:
        node.spool.path_of(name).unlink()


def test_a_deleted_instance_sent_again_is_a_duplicate(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        node.store(ct_slice())
        delete_files(node, node.index.now() + 8 * DAY_S)
    with opened_node(tmp_path) as node:
        assert node.store(ct_slice()).state is InstanceState.DUPLICATE
        changed = ct_slice()
        changed.PatientName = "Phantom^Corrected"
        assert node.store(changed).state is InstanceState.STORED

        assert node.files() != []
        assert [row["version"] for row in node.rows("instance")] == [1, 2]


def test_an_instance_sent_again_before_its_deletion_was_noticed_revives(node: Node) -> None:
    node.store(ct_slice())
    delete_files(node, node.index.now() + 8 * DAY_S)

    assert node.store(ct_slice()).state is InstanceState.STORED

    (row,) = node.rows("instance")
    assert row["file_deleted_at"] is None
    assert node.spool.path_of(str(row["file_name"])).exists()


def test_a_row_that_revives_is_an_arrival_of_its_new_sender(node: Node) -> None:
    node.store(ct_slice(1))
    node.store(ct_slice(2))
    node.index.flush()
    arrivals = Arrivals(node.engine)
    newest = arrivals.newest()[0]
    delete_files(node, node.index.now() + 8 * DAY_S)

    resent = replace(ORIGIN, association_id="another", calling_ae_title="ANOTHER")
    arrival = node.ingest.begin(resent, announced(ct_slice(1)))
    arrival.write(data_set_bytes(ct_slice(1)))
    arrival.finish()
    node.index.flush()

    assert [uid for _, uid in arrivals.arrivals_after(newest)] == [SERIES_UID]
    ((row, kept),) = arrivals.arrivals_of(SERIES_UID)
    assert row > newest
    assert (kept.origin.association_id, kept.origin.calling_ae_title) == ("another", "ANOTHER")


def refuse(node: Node, number: int, size_bytes: int = 100) -> None:
    with pytest.raises(InstanceRejected):
        node.store(ct_slice(number), b"x" * size_bytes)


def test_quarantine_is_bounded_and_says_when_it_is_full(tmp_path: Path) -> None:
    with opened_node(tmp_path, quarantine_max_gb=20e-6) as node:
        for number in range(1, 8):
            refuse(node, number)

        assert len(node.rows("quarantine")) == 4
        assert [row["kind"] for row in node.rows("event")] == ["quarantine_full"]


def desk_of(node: Node) -> QuarantineReview:
    return QuarantineReview(
        node.spool,
        node.index,
        lambda path, _: node.store_file(path.read_bytes()),
        DryRun(NATIVE_SYNTAXES).check,
    )


def test_an_accepted_conflict_becomes_the_newest_version(node: Node) -> None:
    node.store(ct_slice())
    newcomer = ct_slice()
    newcomer.PixelData = bytes(len(newcomer.PixelData))
    with pytest.raises(InstanceRejected):
        node.store(newcomer)
    (row,) = node.rows("quarantine")

    desk_of(node).accept(int(str(row["id"])))

    first, second = node.rows("instance")
    assert second["version"] == 2
    assert second["pixel_identity"] != first["pixel_identity"]
    assert second["is_input"]
    assert [row["state"] for row in node.rows("quarantine")] == ["accepted"]
    assert len(node.files()) == 2


def test_accepting_a_broken_instance_is_refused_and_it_stays(node: Node) -> None:
    refuse(node, 1)
    (row,) = node.rows("quarantine")

    with pytest.raises(CannotBeFreed) as caught:
        desk_of(node).accept(int(str(row["id"])))

    assert caught.value.obstacle.startswith(str(row["reason"]))
    assert [row["state"] for row in node.rows("quarantine")] == ["kept"]
    assert len(node.files()) == 1


def test_what_was_refused_for_its_announcement_alone_is_freed(node: Node) -> None:
    image = ct_slice()
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice(2)))
    arrival.write(data_set_bytes(image))
    with pytest.raises(InstanceRejected):
        arrival.finish()
    (row,) = node.rows("quarantine")

    desk_of(node).accept(int(str(row["id"])))

    (kept,) = node.rows("instance")
    assert kept["sop_instance_uid"] == image.SOPInstanceUID


def test_a_discarded_instance_is_gone(node: Node) -> None:
    refuse(node, 1)
    (row,) = node.rows("quarantine")
    desk = desk_of(node)

    desk.discard(int(str(row["id"])))

    assert node.files() == []
    with pytest.raises(NotInQuarantine):
        desk.discard(int(str(row["id"])))


def test_old_quarantine_is_swept(node: Node) -> None:
    refuse(node, 1)
    (row,) = node.rows("quarantine")
    received_at = float(str(row["received_at"]))
    folder = node.spool.quarantine.folder

    early = sweep_quarantine(node.engine, folder, received_at - DAY_S)
    late = sweep_quarantine(node.engine, folder, received_at + DAY_S)

    assert (early, late, node.files()) == (0, 1, [])


def test_rows_of_an_association_are_there_when_it_is_closed(node: Node) -> None:
    association_id = node.index.opened(
        Origin(
            transport=ORIGIN.transport, association_id="", peer="PACS", calling_ae_title="MAINPACS"
        )
    )
    origin = Origin(transport=ORIGIN.transport, association_id=association_id, peer="PACS")
    arrival = node.ingest.begin(origin, announced(ct_slice()))
    arrival.write(data_set_bytes(ct_slice()))
    arrival.finish()
    arrivals = Arrivals(node.engine)
    open_now = arrivals.open_associations()

    node.index.closed(association_id, Ending.RELEASED)

    assert (open_now, arrivals.open_associations()) == ({association_id}, frozenset())
    (association,) = arrivals.associations_around(SERIES_UID)
    assert (association["end"], association["carried"]) == ("released", 1)
    ((row, series_instance_uid),) = arrivals.arrivals_after(0)
    assert series_instance_uid == SERIES_UID
    assert arrivals.arrivals_after(row) == []


def test_an_association_of_a_process_that_died_is_closed_as_aborted(node: Node) -> None:
    association_id = node.index.opened(Origin(transport=ORIGIN.transport, association_id=""))
    arrivals = Arrivals(node.engine)

    early = arrivals.close_dead_associations(node.index.now() + 50.0)
    late = arrivals.close_dead_associations(node.index.now() + 70.0)

    (row,) = node.rows("association")
    assert (early, late) == (0, 1)
    assert (row["id"], row["end"]) == (association_id, "aborted")
    assert row["closed_at"] == row["heartbeat_at"]


def test_a_series_row_is_written_only_by_who_knows_it_as_it_is(node: Node) -> None:
    arrivals = Arrivals(node.engine)
    row = SeriesRow(
        series_instance_uid=SERIES_UID,
        study_instance_uid=STUDY_UID,
        instances=1,
        frames=1,
        first_received_at=1.0,
        last_received_at=1.0,
        state=SeriesState.RECEIVING,
        updated_at=1.0,
    )

    first, second = (arrivals.put_series(row, was=None) for _ in range(2))
    known = arrivals.series(SERIES_UID)
    third, fourth = (arrivals.put_series(row, was=known) for _ in range(2))

    assert (first, second, third, fourth) == (True, False, True, False)


def test_the_rows_of_a_decision_come_before_what_the_tick_knows(node: Node) -> None:
    arrivals = Arrivals(node.engine)
    row = SeriesRow(
        series_instance_uid=SERIES_UID,
        study_instance_uid=STUDY_UID,
        instances=1,
        frames=1,
        first_received_at=1.0,
        last_received_at=1.0,
        state=SeriesState.HELD,
        updated_at=1.0,
    )
    arrivals.put_series(row, was=None)
    known = arrivals.series(SERIES_UID)

    arrivals.force(SERIES_UID, Forced.PROCEED)

    assert known is not None
    assert arrivals.put_series(known, was=known) is False
    assert arrivals.forced_series() == [SERIES_UID]


def test_a_refused_image_whose_rows_were_lost_is_missing_again(
    tmp_path: Path,
) -> None:
    """The process was killed before the rows of what it refused were written."""
    with opened_node(tmp_path) as node:
        with pytest.raises(InstanceRejected):
            node.store(ct_slice(), data_set_bytes(ct_slice())[:-10])
        node.index.flush()
        with writing(node.engine) as connection:
            for table in (tables.quarantine, tables.loss):
                connection.execute(table.delete())

        rebuild_index(node.engine, SpoolFolders.of(tmp_path))

        (lost,) = node.rows("loss")
        assert lost["sop_instance_uid"] == ct_slice().SOPInstanceUID
        assert lost["series_instance_uid"] == ct_slice().SeriesInstanceUID
