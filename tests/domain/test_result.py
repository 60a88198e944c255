"""Labels are counted once, slice by slice, and whoever uses the counts gets those of its labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.domain.result import LabelCounts
from tests.support.segmentations import volume_of


@st.composite
def label_arrays(draw: st.DrawFn) -> np.ndarray:
    """Blocks or noise, of few values or of any."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    chance = np.random.default_rng(draw(st.integers(0, 9)))
    values = np.array(draw(st.sampled_from([[0, 1, 7], [3], [0, np.iinfo(dtype).max]])), dtype)
    if draw(st.booleans()):
        return chance.choice(values, shape)
    labels = np.zeros(shape, dtype)
    for value in values:
        low = [chance.integers(0, size) for size in shape]
        labels[tuple(slice(at, at + chance.integers(1, 30)) for at in low)] = value
    return labels


@given(label_arrays())
def test_counts_and_rows_are_those_of_each_slice(labels: np.ndarray) -> None:
    counts = LabelCounts.of(labels)

    assert counts.values.tolist() == sorted({0, *np.unique(labels).tolist()})
    for plane, voxels, rows in zip(labels, counts.voxels, counts.rows, strict=True):
        for value, number, (first, stop) in zip(counts.values, voxels, rows, strict=True):
            held = np.flatnonzero((plane == value).any(axis=1))
            assert number == np.count_nonzero(plane == value)
            assert not held.size or (first <= held[0] and held[-1] < stop)


def test_rows_of_organs_are_no_more_than_they_need() -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, 20:31, 5:40] = 9

    counts = LabelCounts.of(labels)

    assert counts.rows[0, 1].tolist() == [20, 31]


def test_totals_leave_background_out() -> None:
    assert LabelCounts.of(np.array([[[0, 0, 9]], [[9, 3, 0]]], np.uint16)).totals == {3: 1, 9: 2}


@pytest.mark.parametrize("value", [1, 5])
def test_counts_of_other_labels_are_not_believed(value: int) -> None:
    labels = np.ones((2, 8, 8), np.uint8)
    volume = volume_of(labels)
    assert volume.counts is volume.counts

    other = replace(volume, labels=labels * np.uint8(value))

    assert other.counts.totals == {value: 128}
