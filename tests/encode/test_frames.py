"""Bits of frames: packed end to end, whatever the size of a frame."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.encode.frames import (
    Plane,
    occupied_planes,
    packed_bits,
    packed_size_bytes,
    values_in_slices,
)

label_volumes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 11)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2, 255]))
)


@given(label_volumes)
def test_frames_follow_each_other_without_a_gap(labels: np.ndarray) -> None:
    planes = occupied_planes(values_in_slices(labels), [255, 1, 2])

    packed = b"".join(packed_bits(labels, planes))

    frames = [labels[plane.slice_index] == plane.label_value for plane in planes]
    flat = np.array(frames, bool).ravel()
    unpacked = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    assert len(packed) == packed_size_bytes(labels, planes)
    assert len(packed) % 2 == 0
    assert np.array_equal(unpacked[: flat.size], flat)
    assert not unpacked[flat.size :].any()
    assert unpacked.size - flat.size < 16


@given(label_volumes)
def test_planes_are_those_with_a_voxel_by_segment_then_slice(labels: np.ndarray) -> None:
    planes = occupied_planes(values_in_slices(labels), [255, 1, 2])

    wanted = [
        Plane(value, index)
        for value in (255, 1, 2)
        for index in range(len(labels))
        if (labels[index] == value).any()
    ]
    assert list(planes) == wanted


def test_pieces_are_small_whatever_the_volume() -> None:
    labels = np.ones((80, 512, 512), np.uint8)
    planes = [Plane(1, index) for index in range(80)] * 2

    pieces = [len(piece) for piece in packed_bits(labels, planes)]

    assert sum(pieces) == packed_size_bytes(labels, planes)
    assert max(pieces) <= 2 << 20
