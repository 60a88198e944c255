"""The index is made to agree with the files, at a start and beside processes that take instances."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import event, insert, text

from node.database.engine import open_engine, writing
from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState
from node.domain.uids import file_stem
from node.spool import parts
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders
from node.spool.index import hold_arrivals
from node.spool.rebuild import Rebuilt, rebuild_index
from node.spool.tables import instance, loss, quarantine
from tests.support.instances import (
    ORIGIN,
    SERIES_UID,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)
from tests.support.waiting import wait_for

NOTHING = Rebuilt(instances=0, quarantined=0, stale_parts=0)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each database."""
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("empty_postgresql")
        return make()
    return f"sqlite:///{tmp_path / 'index.sqlite'}"


def lay_indexed(node: Node, folder: Path, count: int, *, version: int = 1) -> list[Path]:
    """Empty files of the spool, and their rows."""
    paths, rows = [], []
    for number in range(count):
        uid = f"1.2.{number}"
        stem = file_stem(uid)
        name = f"{stem[:2]}/{stem}{'' if version == 1 else f'.{version}'}.dcm"
        paths.append(SpoolFolders.of(folder).instances / name)
        paths[-1].touch()
        values = dict.fromkeys((column.name for column in instance.c if column.name != "id"), 0)
        texts = {column.name: "" for column in instance.c if column.type.python_type is str}
        rows.append(
            {**values, **texts, "sop_instance_uid": uid, "version": version, "file_name": name,
             "is_input": True, "file_deleted_at": None}
        )  # fmt: skip
    with writing(node.engine) as connection:
        connection.execute(insert(instance), rows)
    return paths


def test_the_index_is_read_in_one_pass_whatever_it_holds(tmp_path: Path, url: str) -> None:
    with opened_node(tmp_path, url=url) as node:
        lay_indexed(node, tmp_path, 4000)
        asked: list[str] = []
        event.listen(node.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

        assert rebuild_index(node.engine, SpoolFolders.of(tmp_path)) == NOTHING

        assert len([each for each in asked if each.startswith("SELECT")]) == 2


def test_no_file_without_a_row_hides_among_those_that_have_one(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        node.store(ct_slice(1))
        amended = ct_slice(1)
        amended.PatientName = "Phantom^Corrected"
        assert node.store(amended).state is InstanceState.AMENDED
        first, second = node.rows("instance")
        lay_indexed(node, tmp_path, 300)
        lay_indexed(node, tmp_path, 300, version=2)

        for row in (first, second):
            with writing(node.engine) as connection:
                its = instance.c.file_name == row["file_name"]
                connection.execute(instance.delete().where(its))
            rebuilt = rebuild_index(node.engine, SpoolFolders.of(tmp_path))

            assert rebuilt == Rebuilt(instances=1, quarantined=0, stale_parts=0)
            assert {**node.rows("instance")[-1], "id": 0} == {**row, "id": 0}


def test_a_receiver_at_work_beside_it_gets_one_row_per_file(tmp_path: Path, url: str) -> None:
    is_over = Event()
    with opened_node(tmp_path, url=url) as receiver, opened_node(tmp_path, url=url) as other:

        def verify() -> list[Rebuilt]:
            found = []
            while not is_over.is_set():
                found.append(rebuild_index(other.engine, SpoolFolders.of(tmp_path)))
            return found

        with ThreadPoolExecutor(1) as pool:
            verified = pool.submit(verify)
            for number in range(60):
                assert receiver.store(ct_slice(number)).state is InstanceState.STORED
                refused_one = ct_slice(1000 + number)
                with pytest.raises(InstanceRejected):
                    receiver.store(refused_one, data_set_bytes(refused_one)[:-10])
            receiver.index.flush()
            is_over.set()
            rounds = verified.result()

        kept = Counter(row["file_name"] for row in receiver.rows("instance"))
        refused = Counter(row["file_name"] for row in receiver.rows("quarantine"))
        losses = {row["image"] for row in receiver.rows("loss")}
        on_disk = Counter(path.name for path in receiver.files())
        assert len(rounds) > 1
        assert sum(each.stale_parts for each in rounds) == 0
        assert (set(kept.values()), set(refused.values())) == ({1}, {1})
        assert (len(kept), len(refused), len(losses)) == (60, 60, 60)
        assert Counter(name.partition("/")[2] for name in kept) + refused == on_disk


def test_a_row_that_was_on_its_way_is_written_once(tmp_path: Path, url: str) -> None:
    with opened_node(tmp_path, url=url) as node:
        node.store(ct_slice(1))
        with pytest.raises(InstanceRejected):
            node.store(ct_slice(2), data_set_bytes(ct_slice(2))[:-10])
        (refused,) = node.rows("quarantine")
        ((_, kept),) = Arrivals(node.engine).arrivals_of(SERIES_UID)
        with writing(node.engine) as connection:
            for table in (instance, quarantine, loss):
                connection.execute(table.delete())
        rebuilt = rebuild_index(node.engine, SpoolFolders.of(tmp_path))
        before = node.rows("instance"), node.rows("quarantine"), node.rows("loss")

        node.index.record_instance(kept)
        node.index.record_quarantine({name: refused[name] for name in refused if name != "id"})

        assert rebuilt == Rebuilt(instances=1, quarantined=1, stale_parts=0)
        assert (node.rows("instance"), node.rows("quarantine"), node.rows("loss")) == before
        assert [len(rows) for rows in before] == [1, 1, 1]


def test_its_rows_become_visible_in_the_order_of_their_ids(
    tmp_path: Path, empty_postgresql: Callable[[], str]
) -> None:
    url = empty_postgresql()
    with opened_node(tmp_path, url=url) as node:
        node.store(ct_slice(1))
        node.index.flush()
        with writing(node.engine) as connection:
            connection.execute(instance.delete())
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        watcher = open_engine(url)

        with ThreadPoolExecutor(1) as pool:
            with writing(node.engine) as another:
                hold_arrivals(another)
                rebuilt = pool.submit(rebuild_index, node.engine, SpoolFolders.of(tmp_path))
                with watcher.connect() as connection:
                    wait_for("it to wait", lambda: connection.execute(waiting).scalar() == 1)

            assert rebuilt.result().instances == 1
        watcher.dispose()


def test_a_part_that_is_not_locked_yet_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_node(tmp_path) as node:
        lock, removed = fcntl.flock, []

        def late(descriptor: int, how: int) -> None:
            if how == fcntl.LOCK_SH and not removed:
                removed.append(parts.remove_stale_parts(SpoolFolders.of(tmp_path).incoming))
            lock(descriptor, how)

        monkeypatch.setattr(parts, "_MAKING_S", 0.0)  # its maker stood still for long
        monkeypatch.setattr(parts.fcntl, "flock", late)
        arrival = node.ingest.begin(ORIGIN, announced(ct_slice()))
        arrival.write(data_set_bytes(ct_slice()))

        assert arrival.finish().state is InstanceState.STORED
        assert removed == [1]


def test_told_to_stop_it_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        node.store(ct_slice(1))
        node.index.flush()
        with writing(node.engine) as connection:
            connection.execute(instance.delete())
        stop = Event()
        stop.set()

        stopped = rebuild_index(node.engine, SpoolFolders.of(tmp_path), stop=stop)

        assert stopped == NOTHING
        assert rebuild_index(node.engine, SpoolFolders.of(tmp_path)).instances == 1
