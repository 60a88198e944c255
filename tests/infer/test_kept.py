"""What a child keeps from job to job: one network, and hashes of files that did not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from node.infer.kept import Kept


def test_a_network_is_loaded_once_and_makes_room_for_another() -> None:
    kept, told = Kept(), []

    def network(key: str) -> str:
        def load() -> str:
            told.append(f"load {key}")
            return key.upper()

        def make_room() -> None:
            assert kept.is_empty
            told.append("room")

        return kept.network(key, load, make_room)

    found = [network(key) for key in ("a", "a", "b", "a")]

    assert found == ["A", "A", "B", "A"]
    assert told == ["room", "load a", "room", "load b", "room", "load a"]


def test_a_network_that_could_not_be_loaded_is_not_kept() -> None:
    kept = Kept()

    def fail() -> str:
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            kept.network("a", fail, lambda: None)

    assert kept.is_empty


def test_a_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    hashes, path = Kept().hashes, tmp_path / "weights"
    found = []

    for content in (b"one", b"two and more"):
        path.write_bytes(content)
        found.append((hashes.of(path), hashlib.sha256(content).hexdigest()))

    assert all(ours == truth for ours, truth in found)
