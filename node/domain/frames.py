"""Frames: every plane of pixels of an instance, classic or enhanced, in one form.

Source: PS3.3 C.7.6.2 (Image Plane), C.7.6.16.2 (Functional Groups).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

from pydicom.dataset import Dataset

from node.domain.errors import SeriesUnusable
from node.domain.header import macros
from node.domain.quantity import Quantity
from node.domain.reasons import Reason, ReasonCode
from node.domain.sources import integer, is_given, number, numbers, text
from node.domain.stored_values import PLAIN, StoredValues, StoredValuesReader

Triple: TypeAlias = tuple[float, float, float]
Sextuple: TypeAlias = tuple[float, float, float, float, float, float]

MAX_FRAMES = 1_000_000  # a claim beyond it is an attack on memory, not an image


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One plane: where it lies and which frame of which instance it is.

    Args:
        frame_number: 1-based inside a multi-frame instance, None in a single-frame instance.
        position_mm: Image Position (Patient), LPS; None where absent or malformed.
        orientation: Image Orientation (Patient), row then column cosines.
        pixel_spacing_mm: Distance between rows, then between columns; None where absent, NaN where
            it is present and cannot be read.
        slope: Rescale Slope; stored values times slope plus intercept is the modality's unit. NaN
            where it is present and cannot be read, so that it is never silently 1.
        values: What else decides which number a stored value means, and of what quantity.
    """

    sop_instance_uid: str
    frame_number: int | None = None
    rows: int
    columns: int
    position_mm: Triple | None = None
    orientation: Sextuple | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    frame_of_reference_uid: str | None = None
    slope: float = 1.0
    intercept: float = 0.0
    values: StoredValues = PLAIN


def frames_of(instance: Dataset) -> tuple[Frame, ...]:
    """The frames of one image instance, in stored order.

    Absent or malformed geometry becomes None: the geometry gate names it, with all else it finds.

    Raises:
        SeriesUnusable: The instance claims more than ``MAX_FRAMES`` frames.
    """
    is_single = "PerFrameFunctionalGroupsSequence" not in instance and _frame_count(instance) == 1
    reader = StoredValuesReader(instance)
    return tuple(
        _frame(instance, sources, None if is_single else index + 1, reader)
        for index, sources in enumerate(frame_sources(instance))
    )


def frame_sources(instance: Dataset) -> Iterator[tuple[Dataset, ...]]:
    """For each frame the data sets that describe it, nearest first.

    Its own functional groups come before the shared ones, and those before the top level.

    Raises:
        SeriesUnusable: The instance claims more than ``MAX_FRAMES`` frames.
    """
    count = _frame_count(instance)
    if count > MAX_FRAMES:
        facts = {"frames": count, "most": MAX_FRAMES}
        raise SeriesUnusable([Reason(ReasonCode.TOO_MANY_FRAMES, facts)])
    shared = tuple(macros(_first_item(instance, "SharedFunctionalGroupsSequence")))
    per_frame = list(instance.get("PerFrameFunctionalGroupsSequence") or [])
    for index in range(count):
        own = per_frame[index] if index < len(per_frame) else None
        yield (*macros(own), *shared, instance)


def values_of(frames: Iterable[Frame]) -> list[tuple[StoredValues, int]]:
    """The different ways in which stored values are meant, each with its number of frames."""
    counts: dict[int, int] = {}
    shared: dict[int, StoredValues] = {}
    for frame in frames:  # by identity: equal ones are one object, and hashing them takes long
        key = id(frame.values)
        counts[key] = counts.get(key, 0) + 1
        shared[key] = frame.values
    return [(shared[key], number) for key, number in counts.items()]


def quantity_of(frames: Iterable[Frame]) -> tuple[Quantity, str] | None:
    """The quantity that all frames share, with why it is unspecified; None where they differ."""
    found = {(values.quantity, values.why) for values, _ in values_of(frames)}
    quantities = {quantity for quantity, _ in found}
    return sorted(found)[0] if len(quantities) == 1 else None


def _frame_count(instance: Dataset) -> int:
    return max(integer(instance, "NumberOfFrames") or 1, 1)


def _frame(
    instance: Dataset,
    sources: tuple[Dataset, ...],
    frame_number: int | None,
    reader: StoredValuesReader,
) -> Frame:
    slope = _rescale(sources, "RescaleSlope", absent=1.0)
    intercept = _rescale(sources, "RescaleIntercept", absent=0.0)
    spacing = numbers(sources, "PixelSpacing", 2)
    if spacing is None and is_given(sources, "PixelSpacing"):
        spacing = (math.nan, math.nan)
    return Frame(
        sop_instance_uid=text((instance,), "SOPInstanceUID"),
        frame_number=frame_number,
        rows=integer(instance, "Rows") or 0,
        columns=integer(instance, "Columns") or 0,
        position_mm=cast("Triple | None", numbers(sources, "ImagePositionPatient", 3)),
        orientation=cast("Sextuple | None", _one(numbers(sources, "ImageOrientationPatient", 6))),
        pixel_spacing_mm=cast("tuple[float, float] | None", _one(spacing)),
        frame_of_reference_uid=_one(text((instance,), "FrameOfReferenceUID") or None),
        slope=slope,
        intercept=intercept,
        values=reader.read(sources, slope, intercept),
    )


def _one(value: Any) -> Any:
    """The one object that stands for all equal ones: slices of a series share most of their plane."""
    return _shared((value, repr(value)))[
        0
    ]  # 0.0 and -0.0 are equal, and do not stand for each other


@lru_cache(maxsize=1024)
def _shared(value: tuple[Any, str]) -> tuple[Any, str]:
    return value


def _first_item(instance: Dataset, keyword: str) -> Dataset | None:
    items = instance.get(keyword)
    return items[0] if items else None


def _rescale(sources: tuple[Dataset, ...], keyword: str, *, absent: float) -> float:
    """A rescale value; an empty element says as little as an absent one."""
    found = number(sources, keyword)
    if found is not None:
        return found
    return math.nan if is_given(sources, keyword) else absent
