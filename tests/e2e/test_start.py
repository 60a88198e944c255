"""A node that starts takes instances at once; what settles series waits for the verified index."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.domain.uids import file_stem
from node.spool.files import SpoolFolders
from tests.support.peers import Node, store
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

RULES = [{"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}]


@pytest.fixture(params=["sqlite", "postgresql"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    config: dict[str, object] = {"rules": RULES}
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("empty_postgresql")
        config["database"] = make()
    return Node(tmp_path / "node", config)


def _unreadable_file(folders: SpoolFolders) -> Path:
    """Where verification stops: a file that gives nothing until somebody writes to it."""
    stem = file_stem("1.2.3")
    path = folders.instances / "00" / f"{stem}.dcm"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    return path


def test_instances_are_taken_while_the_index_is_verified_and_settled_only_then(node: Node) -> None:
    stopper = _unreadable_file(SpoolFolders.of(node.data_dir))
    files = Phantom(study="start", series="start", spacing_mm=(12.0, 5.0, 6.0)).files()
    node.start()
    try:
        assert store(node.dicom_port, files) == [0] * len(files)
        assert node.api("/series")["items"] == []

        node.kill()
        node.start()  # verification begins anew
        assert node.api("/series")["items"] == []
        with stopper.open("wb"):
            stopper.unlink()  # it is gone when the index is verified again

        wait_for("it to settle", lambda: node.api("/series")["items"][0]["state"] == "complete")
        assert node.api("/series")["items"][0]["instances"] == len(files)
    finally:
        if node.process is not None:
            node.kill()
