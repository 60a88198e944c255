"""Bits of frames: packed end to end, whatever the size of a frame, by however many threads."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.encode.frames import occupied_planes, packed_bits, packed_size_bytes, rows_in_slices
from tests.support.segmentations import volume_of

# frames that begin with a byte, and such that do not; more of them than are packed at once
label_volumes = st.tuples(st.integers(1, 30), st.integers(1, 17), st.integers(1, 11)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2, 255]))
)


@given(label_volumes, st.integers(1, 3))
def test_frames_follow_each_other_without_a_gap(labels: np.ndarray, threads: int) -> None:
    volume = volume_of(labels)
    planes = occupied_planes(rows_in_slices(volume), [255, 1, 2])

    packed = b"".join(packed_bits(volume, planes, threads))

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
    planes = occupied_planes(rows_in_slices(volume_of(labels)), [255, 1, 2])

    wanted = [
        (value, index)
        for value in (255, 1, 2)
        for index in range(len(labels))
        if (labels[index] == value).any()
    ]
    assert [(plane.label_value, plane.slice_index) for plane in planes] == wanted


def test_organs_and_regions_that_overlap_are_packed_whole_by_threads() -> None:
    labels = np.zeros((300, 64, 48), np.uint8)
    labels[10:280, 3:41, 5:40] |= 1
    labels[50:290, 33:60, 20:47] |= 2
    volume = volume_of(labels, overlapping=True)
    planes = occupied_planes(rows_in_slices(volume), [2, 1])

    packed = b"".join(packed_bits(volume, planes, 3))

    masks = [labels[50:290] & 2, labels[10:280] & 1]
    assert packed == np.packbits(np.concatenate(masks) != 0, bitorder="little").tobytes()


def test_pieces_are_small_whatever_the_volume() -> None:
    volume = volume_of(np.ones((80, 512, 512), np.uint8))
    planes = occupied_planes(rows_in_slices(volume), [1, 1])

    pieces = [len(piece) for piece in packed_bits(volume, planes)]

    assert sum(pieces) == packed_size_bytes(volume.labels, planes)
    assert max(pieces) <= 2 << 20
