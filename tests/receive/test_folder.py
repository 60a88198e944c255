"""The watched folder: what is taken, when, and what becomes of the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.receive.folder import FolderWatch, files_below
from node.spool.files import Watermark
from tests.support.instances import Node, ct_slice, opened_node, part10_bytes


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened_node(tmp_path) as opened:
        yield opened


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def watch(node: Node, inbox: Path) -> FolderWatch:
    return FolderWatch(inbox, node.ingest, node.index)


def put(inbox: Path, name: str, data: bytes) -> Path:
    path = inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_file_is_taken_once_it_looked_the_same_in_two_scans(node: Node, inbox: Path) -> None:
    path = put(inbox, "a.dcm", part10_bytes(ct_slice(1))[:400])
    watched = watch(node, inbox)

    assert watched.scan().waiting == 1
    path.write_bytes(part10_bytes(ct_slice(1)))
    os.utime(path, ns=(5, 5))
    assert watched.scan().waiting == 1
    assert watched.scan().taken == (path,)
    assert watched.scan().taken == ()
    assert len(node.rows("instance")) == 1


def test_one_scan_of_nested_folders_is_one_released_association(node: Node, inbox: Path) -> None:
    for number in (1, 2, 3):
        put(inbox, f"study/series/{number}", part10_bytes(ct_slice(number)))
    put(inbox, "study/DICOMDIR", b"a directory of a medium")
    put(inbox, "study/.hidden.tmp", b"half a copy")

    report = watch(node, inbox).scan(is_settled_at_once=True)

    (association,) = node.rows("association")
    rows = node.rows("instance")
    assert len(report.taken) == 3
    assert report.refused == ()
    assert (association["transport"], association["end"]) == ("folder", "released")
    assert {row["association_id"] for row in rows} == {association["id"]}


def test_text_and_empty_files_are_reported_and_left(node: Node, inbox: Path) -> None:
    text = put(inbox, "readme.txt", b"This is no DICOM file, as anyone can see. " * 9)
    empty = put(inbox, "empty.dcm", b"")
    watched = watch(node, inbox)

    report = watched.scan(is_settled_at_once=True)

    assert {refused.path for refused in report.refused} == {text, empty}
    assert {refused.dimse_status for refused in report.refused} == {0xC000}
    assert text.exists()
    assert empty.exists()
    assert watched.scan(is_settled_at_once=True).refused == ()


def test_without_room_files_wait_and_are_kept(tmp_path: Path, inbox: Path) -> None:
    path = put(inbox, "good.dcm", part10_bytes(ct_slice(1)))
    with opened_node(tmp_path, watermark=Watermark(reserve_gb=1e9)) as full:
        report = watch(full, inbox).scan(is_settled_at_once=True)

    assert (report.taken, report.refused, report.waiting) == ((), (), 1)
    assert path.exists()


def test_links_are_not_followed(node: Node, inbox: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(part10_bytes(ct_slice(1)))
    (inbox / "link.dcm").symlink_to(outside)

    assert watch(node, inbox).scan(is_settled_at_once=True).taken == ()


def test_a_file_that_changes_after_it_was_taken_is_taken_again(node: Node, inbox: Path) -> None:
    path = put(inbox, "a.dcm", part10_bytes(ct_slice(1)))
    watched = watch(node, inbox)
    watched.scan(is_settled_at_once=True)

    path.write_bytes(part10_bytes(ct_slice(2)))
    os.utime(path, ns=(5, 5))

    assert watched.scan().waiting == 1
    assert watched.scan().taken == (path,)
    assert watched.scan().taken == ()


def test_a_watch_remembers_no_file_that_is_gone(node: Node, inbox: Path) -> None:
    watched = watch(node, inbox)
    for number in range(5):
        path = put(inbox, f"{number}.dcm", part10_bytes(ct_slice(number)))
        watched.scan(is_settled_at_once=True)
        path.unlink()

    watched.scan()

    assert (watched._seen, watched._done) == ({}, set())


NAMES = st.sampled_from(["a", "b", "B", "a.dcm", "a b", "0", "é"])


@given(st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=12))
def test_files_come_in_the_order_of_their_paths(names: set[str]) -> None:
    with TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder, name)
            if not path.is_dir():
                with suppress(NotADirectoryError, FileExistsError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()

        found = [path for path, _ in files_below(Path(folder))]

        assert found == sorted(path for path in Path(folder).rglob("*") if path.is_file())
