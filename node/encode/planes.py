"""Which frames a label volume needs, and their bits.

Source: PS3.5 8.1.1 and Annex D (bits of one-bit pixels run on from frame to frame, lowest first).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.domain.result import LabelArray, LabelVolume, label_values_of, mask_of
from node.domain.segment import Segment

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame to write: the voxels of one label value in one slice."""

    label_value: int
    slice_index: int


def values_in_slices(labels: LabelArray, *, overlapping: bool = False) -> list[frozenset[int]]:
    """The label values present in each slice, background left out."""
    seen = np.zeros(int(np.iinfo(labels.dtype).max) + 1, np.bool_)
    present = []
    for plane in labels:
        seen[:] = False
        seen[plane] = True
        stored: list[int] = np.flatnonzero(seen).tolist()
        present.append(
            frozenset(v for each in stored for v in label_values_of(each, overlapping=overlapping))
        )
    return present


def described_values(volume: LabelVolume, segments: Sequence[Segment]) -> list[frozenset[int]]:
    """The label values present in each slice, each of which one segment describes.

    Raises:
        JobFailed: One is described by none or two; permanent.
    """
    described = [segment.label_value for segment in segments]
    if len(set(described)) != len(described):
        raise JobFailed("two segments of the model describe one label value", permanent=True)
    present = values_in_slices(volume.labels, overlapping=volume.overlapping)
    unknown = sorted(frozenset[int]().union(*present) - set(described))
    if unknown:
        raise JobFailed(
            f"the result holds label {', '.join(map(str, unknown))}, which the model's"
            " labels do not describe",
            permanent=True,
        )
    return present


def occupied_planes(
    present: Sequence[frozenset[int]], label_values: Sequence[int]
) -> tuple[Plane, ...]:
    """Frames in order of segment, then slice; planes without a voxel are left out."""
    return tuple(
        Plane(value, index)
        for value in label_values
        for index, values in enumerate(present)
        if value in values
    )


def packed_bits(
    labels: LabelArray, planes: Sequence[Plane], *, overlapping: bool = False
) -> Iterator[bytes]:
    """The value of Pixel Data in pieces of about a megabyte, padded to even length at the end.

    Only one piece is in memory at a time: 104 segments need no more than one.
    """
    left_over: NDArray[np.bool_] = np.zeros(0, np.bool_)
    pieces: list[bytes] = []
    piece_bytes = total_bytes = 0
    for plane in planes:
        mask = mask_of(labels[plane.slice_index], plane.label_value, overlapping=overlapping)
        bits = mask.ravel()
        if left_over.size:
            bits = np.concatenate((left_over, bits))
        whole = bits.size - bits.size % 8
        pieces.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        left_over = bits[whole:]
        piece_bytes += whole // 8
        if piece_bytes >= _CHUNK_BYTES:
            yield b"".join(pieces)
            total_bytes += piece_bytes
            pieces, piece_bytes = [], 0
    tail = np.packbits(left_over, bitorder="little").tobytes()
    total_bytes += piece_bytes + len(tail)
    yield b"".join(pieces) + tail + b"\0" * (total_bytes % 2)


def packed_size_bytes(labels: LabelArray, planes: Sequence[Plane]) -> int:
    """Length of Pixel Data, even."""
    _, rows, columns = labels.shape
    bits = rows * columns * len(planes)
    whole = (bits + 7) // 8
    return int(whole + whole % 2)
