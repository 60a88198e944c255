"""Frames: every plane of pixels of an instance, classic or enhanced, in one form.

Source: PS3.3 C.7.6.2 (Image Plane), C.7.6.16.2 (Functional Groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pydicom.dataset import Dataset

Triple: TypeAlias = tuple[float, float, float]
Sextuple: TypeAlias = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One plane: where it lies and which frame of which instance it is.

    Args:
        frame_number: 1-based inside a multi-frame instance, None in a single-frame instance.
        position_mm: Image Position (Patient), LPS; None where absent or malformed.
        orientation: Image Orientation (Patient), row then column cosines.
        pixel_spacing_mm: Distance between rows, then between columns.
        slope: Rescale Slope; stored values times slope plus intercept is the modality's unit.
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


def frames_of(instance: Dataset) -> tuple[Frame, ...]:
    """The frames of one image instance, in stored order.

    Absent or malformed geometry becomes None: the geometry gate names it, with all else it finds.
    """
    count = _integer(instance, "NumberOfFrames") or 1
    if "PerFrameFunctionalGroupsSequence" not in instance and count == 1:
        return (_frame(instance, (instance,), None),)
    shared = _first_item(instance, "SharedFunctionalGroupsSequence")
    per_frame = list(instance.get("PerFrameFunctionalGroupsSequence") or [])
    frames = []
    for index in range(count):
        own = per_frame[index] if index < len(per_frame) else None
        sources = [*_macros(own), *_macros(shared), instance]
        frames.append(_frame(instance, tuple(sources), index + 1))
    return tuple(frames)


def _frame(instance: Dataset, sources: tuple[Dataset, ...], frame_number: int | None) -> Frame:
    position = _numbers(sources, "ImagePositionPatient", 3)
    orientation = _numbers(sources, "ImageOrientationPatient", 6)
    spacing = _numbers(sources, "PixelSpacing", 2)
    slope = _numbers(sources, "RescaleSlope", 1)
    intercept = _numbers(sources, "RescaleIntercept", 1)
    return Frame(
        sop_instance_uid=str(instance.get("SOPInstanceUID", "")),
        frame_number=frame_number,
        rows=_integer(instance, "Rows") or 0,
        columns=_integer(instance, "Columns") or 0,
        position_mm=(position[0], position[1], position[2]) if position else None,
        orientation=(
            (*orientation[:3], *orientation[3:]) if orientation else None  # type: ignore[arg-type]
        ),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing else None,
        frame_of_reference_uid=str(instance.get("FrameOfReferenceUID", "") or "").strip() or None,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
    )


def _macros(group: Dataset | None) -> Iterator[Dataset]:
    """The single items of the functional group macros of one frame."""
    for element in group or ():
        if element.VR == "SQ" and element.value:
            yield element.value[0]


def _first_item(instance: Dataset, keyword: str) -> Dataset | None:
    items = instance.get(keyword)
    return items[0] if items else None


def _numbers(sources: tuple[Dataset, ...], keyword: str, count: int) -> tuple[float, ...] | None:
    for source in sources:
        if keyword not in source:
            continue
        try:
            value = source[keyword].value
            values = [float(v) for v in (value if count > 1 else [value])]
        except (TypeError, ValueError):
            return None
        return tuple(values) if len(values) == count else None
    return None


def _integer(instance: Dataset, keyword: str) -> int | None:
    try:
        return int(instance.get(keyword))
    except (TypeError, ValueError):
        return None
