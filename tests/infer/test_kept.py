"""What a child keeps from job to job: one network, models as read, and hashes of unchanged files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from node.infer.assets import Kept
from node.infer.registry import ModelSpec, load_model

PROBE = Path(__file__).resolve().parents[1] / "support" / "models_probe" / "probe"


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


def test_a_model_is_read_again_only_where_a_job_names_another_digest(tmp_path: Path) -> None:
    kept, folder, told = Kept(), tmp_path / "probe", []
    shutil.copytree(PROBE, folder)

    def load(folder: Path) -> ModelSpec:
        told.append(folder.name)
        return load_model(folder)

    first = kept.model(folder, load)
    assert kept.model(folder, load, first.digest) is first
    with (folder / "model.yaml").open("a") as file:
        file.write("# changed\n")
    assert kept.model(folder, load, first.digest) is first
    second = kept.model(folder, load, load_model(folder).digest)

    assert second.digest != first.digest
    assert kept.model(folder, load, first.digest).digest == second.digest  # the first is gone
    assert told == ["probe"] * 3
