"""Results: what a model hands on, on the source grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.domain.grid import Stack
from node.domain.job import ResultIdentity
from node.domain.segment import Segment

LabelArray = NDArray[np.uint8] | NDArray[np.uint16]


_MANY_RUNS = 16  # of the voxels of a slice: with more, counting one by one is faster


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelCounts:
    """How often, and in which rows, each stored value occurs in each slice.

    Args:
        labels: What was counted.
        values: The stored values that occur, ascending; 0 first, whether it occurs or not.
        voxels: Shape (slice, place in ``values``).
        rows: Shape (slice, place, 2): from which row to before which one there may be such voxels.
    """

    labels: LabelArray
    values: NDArray[np.integer]
    voxels: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, labels: LabelArray) -> LabelCounts:
        """One pass over labels of shape (slice, row, column)."""
        slices = [_counts_in(plane) for plane in labels]
        zero = np.zeros(1, labels.dtype)
        values = np.unique(np.concatenate([zero, *(present for present, _, _ in slices)]))
        voxels = np.zeros((len(slices), values.size), np.int64)
        rows = np.zeros((*voxels.shape, 2), np.int64)
        for index, (present, number, ends) in enumerate(slices):
            places = np.searchsorted(values, present)
            voxels[index, places], rows[index, places] = number, ends
        return cls(labels=labels, values=values, voxels=voxels, rows=rows)

    @property
    def totals(self) -> dict[int, int]:
        """Stored value -> number of voxels, without background."""
        sums = self.voxels.sum(axis=0).tolist()
        return {value: n for value, n in zip(self.values.tolist(), sums, strict=True) if value}


def _counts_in(
    plane: LabelArray,
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int64]]:
    """The values in one slice, how many voxels have each, and between which rows.

    Organs are long runs of one value, so runs are counted and not voxels; noise is not.
    """
    height, columns = plane.shape
    line = plane.ravel()
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    if changes.size > line.size // _MANY_RUNS:
        number = np.bincount(line)
        present: NDArray[np.integer] = np.flatnonzero(number).astype(plane.dtype)
        return present, number[present], np.full((present.size, 2), (0, height))
    starts, stops = np.append(0, changes), np.append(changes, line.size)
    stored = line[starts]
    present, first = np.unique(stored, return_index=True)
    last = stored.size - 1 - np.unique(stored[::-1], return_index=True)[1]
    number = np.bincount(np.searchsorted(present, stored), stops - starts).astype(np.int64)
    ends = np.stack([starts[first] // columns, (stops[last] - 1) // columns + 1], axis=1)
    return present, number, ends


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVolume:
    """Labels on the source grid, never one-hot.

    Args:
        labels: Shape (slice, row, column), unsigned 8 or 16 bit; 0 is background.
        overlapping: The stored values are bit fields of regions that may overlap, such as a tumour
            and its core: label value n is bit n-1. Otherwise labels are exclusive and stored as they are.
        counted: Of these labels, where they were counted before; see ``counts``.
    """

    labels: LabelArray
    stack: Stack
    overlapping: bool = False
    counted: LabelCounts | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.labels.shape != self.stack.grid.shape:
            raise ValueError(
                f"labels {self.labels.shape} are not on the source grid {self.stack.grid.shape}"
            )
        if self.labels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"labels of type {self.labels.dtype}")

    @property
    def counts(self) -> LabelCounts:
        """What every stage but the verifier counts by; made once."""
        if self.counted is None or self.counted.labels is not self.labels:
            object.__setattr__(self, "counted", LabelCounts.of(self.labels))
        return cast(LabelCounts, self.counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFile:
    """One file of a result in some form; making it twice gives the same bytes.

    Args:
        part: What of the result it holds, such as the name of a region; empty: all of it.
        sop_class_uid: Of a DICOM object; empty for any other file.
        sop_instance_uid: What identifies the file, whether or not it is a DICOM object.
        summary: Facts that are kept beside it, JSON-ready.
        chunks: Makes its bytes, piece by piece.
    """

    part: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str
    series_instance_uid: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    chunks: Callable[[], Iterator[bytes | memoryview]]


def label_values_of(stored: int, *, overlapping: bool) -> tuple[int, ...]:
    """The label values in a stored value: its bits where regions overlap, else itself."""
    if not overlapping:
        return (stored,) if stored else ()
    return tuple(bit + 1 for bit in range(stored.bit_length()) if stored >> bit & 1)


def mask_of(labels: LabelArray, label_value: int, *, overlapping: bool) -> NDArray[np.bool_]:
    """Where one label value is, in an array of any shape."""
    if not overlapping:
        return np.asarray(labels == label_value)
    return np.asarray((labels & labels.dtype.type(1 << (label_value - 1))) != 0)


def voxels_by_label(stored: Mapping[int, int], *, overlapping: bool) -> dict[int, int]:
    """Label value -> number of voxels, from stored value -> number of voxels."""
    voxels: dict[int, int] = {}
    for value, count in stored.items():
        for label_value in label_values_of(value, overlapping=overlapping):
            voxels[label_value] = voxels.get(label_value, 0) + count
    return dict(sorted(voxels.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who made a result, of what, with what: written into the object and into the job's row.

    Args:
        weights_digest: sha256 of the weights, or empty for a model without weights.
        content_date: DA, fixed in the job's row.
        content_time: TM, fixed in the job's row.
        replaces: SOP Instance UID of the result of the revision before, or empty.
        incomplete: Of how many of how many images it was made, where some are known to be missing:
            ``15 of 24 images``; else empty.
        implausible: Why no patient can have what the result shows, or empty; the object is marked.
    """

    model_name: str
    model_version: str
    model_digest: str
    weights_digest: str = ""
    node_version: str
    config_digest: str
    parameters: dict[str, str] = field(default_factory=dict)
    research_use: bool = True
    series_number: int
    content_date: str
    content_time: str
    revision: int = 1
    replaces: str = ""
    incomplete: str = ""
    implausible: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a form is encoded from and verified against.

    Args:
        source: Headers of all input instances in any order, none of them looked at before: an element
            that was has lost its original bytes.
        segments: All of the model, in order.
        threads: How many may work at once on encoding or verifying it.
    """

    volume: LabelVolume
    source: Sequence[Dataset]
    segments: Sequence[Segment]
    provenance: Provenance
    identity: ResultIdentity
    threads: int = 1
