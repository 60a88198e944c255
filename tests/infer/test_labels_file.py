"""The label file: what is written comes back, and damage is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from node.domain.errors import JobFailed
from node.domain.result import LabelCounts
from node.infer.labels_file import read_labels, write_labels

FACTS = {"model": "ct_tissue", "job_key": "ab"}


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 5, (7, 30, 20)).astype(np.uint8)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        arrays.array_shapes(min_dims=3, max_dims=3, max_side=6),
    )
)
def test_labels_and_facts_come_back(tmp_path_factory: pytest.TempPathFactory, labels) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.zip"
    write_labels(path, LabelCounts.of(labels), FACTS)

    read, facts = read_labels(path)

    assert read.dtype == labels.dtype
    assert np.array_equal(read, labels)
    assert facts == FACTS


def test_the_same_labels_give_the_same_bytes(tmp_path: Path, labels: np.ndarray) -> None:
    first = write_labels(tmp_path / "a", LabelCounts.of(labels), FACTS)
    second = write_labels(tmp_path / "b", LabelCounts.of(labels), dict(reversed(FACTS.items())))

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first == second == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


def test_writing_again_replaces_the_file_and_leaves_no_other(
    tmp_path: Path, labels: np.ndarray
) -> None:
    (tmp_path / "a.part").write_bytes(b"left by a crash")
    write_labels(tmp_path / "a", LabelCounts.of(labels), FACTS)
    write_labels(tmp_path / "a", LabelCounts.of(labels * 0), FACTS)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not read_labels(tmp_path / "a")[0].any()


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.95])
def test_a_changed_byte_is_noticed(tmp_path: Path, labels: np.ndarray, place: float) -> None:
    path = tmp_path / "a"
    write_labels(path, LabelCounts.of(labels), FACTS)
    body = bytearray(path.read_bytes())
    body[int(place * len(body))] ^= 0xFF
    path.write_bytes(bytes(body))

    with pytest.raises(JobFailed, match="damaged"):
        read_labels(path)


def test_a_truncated_file_is_noticed(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "a"
    write_labels(path, LabelCounts.of(labels), FACTS)
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(JobFailed, match="damaged"):
        read_labels(path)


def test_labels_shrink_a_hundredfold(tmp_path: Path) -> None:
    labels = np.zeros((40, 256, 256), np.uint8)
    labels[:, 40:200, 60:180] = 3

    write_labels(tmp_path / "a", LabelCounts.of(labels), {})

    assert (tmp_path / "a").stat().st_size * 100 < labels.nbytes
