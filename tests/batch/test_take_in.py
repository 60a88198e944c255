"""The folder of a run: what is opened, what is said of it, and what the next run knows of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.batch.take_in import TakenIn, take_in
from node.spool import tables
from node.spool.files import SpoolFolders
from node.spool.rebuild import rebuild_index
from tests.support.instances import ct_slice, part10_bytes
from tests.support.node_in_process import NodeInProcess, SharedWorker, node_in_process

RULES = [{"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeInProcess]:
    with node_in_process(tmp_path, {"rules": RULES}, SharedWorker()) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images, one of them twice and once with another header, one cut off, and a text."""
    folder = tmp_path / "in"
    corrected = ct_slice(2)
    corrected.PatientName = "Phantom^Corrected"
    for name, data in {
        "a/1": part10_bytes(ct_slice(1)),
        "a/2": part10_bytes(ct_slice(2)),
        "a/2 again": part10_bytes(ct_slice(2)),
        "b/2 corrected": part10_bytes(corrected),
        "b/3.dcm": part10_bytes(ct_slice(3)),
        "b/4.dcm": part10_bytes(ct_slice(4))[:-50],
        "notes.txt": b"nothing here " * 40,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def take(node: NodeInProcess, source: Path) -> tuple[TakenIn, list[str]]:
    said: list[str] = []
    taken = take_in(node.door, source, said.append)
    node.door.index.flush()
    return taken, said


def replace_unseen(path: Path, data: bytes) -> None:
    """Other content of the same size and time: what no run can see without opening the file."""
    facts = path.stat()
    path.write_bytes(data.ljust(facts.st_size)[: facts.st_size])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_second_run_says_the_same_and_opens_nothing_that_was_taken(
    node: NodeInProcess, source: Path
) -> None:
    first = take(node, source)
    for path in source.rglob("*"):
        if path.is_file() and path.name not in ("4.dcm", "notes.txt"):
            replace_unseen(path, b"no image any more")

    second = take(node, source)

    assert second == first
    assert first[1][-1] == "3 instances taken in, 2 duplicates, 2 files refused"
    assert [one.path.name for one in first[0].duplicates] == ["2 again", "2 corrected"]
    assert first[0].duplicates[0].reason == f"duplicate of {source / 'a/2'}"
    assert "the later file counts" in first[0].duplicates[1].reason


def test_a_file_that_changed_is_taken_again(node: NodeInProcess, source: Path) -> None:
    take(node, source)
    corrected = ct_slice(3)
    corrected.PatientName = "Phantom^Corrected"
    (source / "b/3.dcm").write_bytes(part10_bytes(corrected))
    (source / "a/1").write_bytes(b"nothing here " * 40)

    taken, _ = take(node, source)

    versions = [
        row["version"] for row in node.rows("instance") if row["sop_instance_uid"].endswith(".3")
    ]
    assert versions == [1, 2]
    assert source / "a/1" in {one.path for one in taken.refused}


def test_a_file_that_is_new_may_hold_what_another_holds(node: NodeInProcess, source: Path) -> None:
    take(node, source)
    (source / "a/0").write_bytes((source / "a/1").read_bytes())

    taken, said = take(node, source)

    assert said[-1] == "3 instances taken in, 3 duplicates, 2 files refused"
    assert (source / "a/1", f"duplicate of {source / 'a/0'}") in {
        (one.path, one.reason) for one in taken.duplicates
    }


def test_what_the_spool_lost_is_taken_again(node: NodeInProcess, source: Path) -> None:
    take(node, source)
    kept = next(path for path in (node.data_dir / "spool/instances").rglob("*.dcm"))
    kept.unlink()

    take(node, source)

    assert kept.exists()


def test_files_that_are_gone_are_forgotten(node: NodeInProcess, source: Path) -> None:
    take(node, source)
    assert len(node.rows("source_file")) == 5
    (source / "a/1").unlink()

    take(node, source)

    assert len(node.rows("source_file")) == 4
    assert len(node.rows("instance")) == 4


def test_a_run_that_was_killed_before_it_remembered_takes_files_again(
    node: NodeInProcess, source: Path
) -> None:
    first = take(node, source)
    with node.engine.begin() as connection:
        connection.execute(tables.source_file.delete())

    second = take(node, source)

    assert second[1] == first[1]
    assert len(node.rows("instance")) == 4


def test_whatever_an_earlier_run_refused_is_judged_anew(node: NodeInProcess, source: Path) -> None:
    take(node, source)
    folders = SpoolFolders.of(node.data_dir)
    refused = next(folders.quarantine.iterdir()).read_bytes()
    for number in range(1000):
        (folders.quarantine / f"{number:032x}.dcm").write_bytes(refused)
    rebuild_index(node.engine, folders)

    take(node, source)

    states = [row["state"] for row in node.rows("quarantine")]
    assert (states.count("kept"), len(list(folders.quarantine.iterdir()))) == (2, 2)
