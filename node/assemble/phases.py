"""Phases: which attribute tells images at one position apart.

A dynamic, multi-echo or diffusion series holds n images at each of m positions. Where one attribute
takes the same n values at every position the series could be split by it, and the finding says so.
The order below is from what the Standard made for the purpose to mere clock times.

Source: PS3.3 C.7.6.16 (functional groups), C.8.3.1 (MR image), C.7.6.18 (cardiac phases).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pydicom.dataset import Dataset

from node.domain.frames import frame_sources
from node.domain.header import Missing, Value, value_of

PhaseHints: TypeAlias = Mapping[str, Value]

SPLITTERS = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TemporalPositionTimeOffset",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "ImageType",
    "FrameType",
    "StackID",
    "ConvolutionKernel",
    "SequenceName",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
)


def phase_hints_of(instance: Dataset) -> tuple[PhaseHints, ...]:
    """For each frame of an instance the attributes that may tell phases apart."""
    hints = []
    for sources in frame_sources(instance):
        own: dict[str, Value] = {}
        for keyword in SPLITTERS:
            for source in sources:
                if keyword in source:
                    own[keyword] = value_of(source, keyword)
                    break
        hints.append(own)
    return tuple(hints)


def what_splits(planes: Sequence[Sequence[int]], hints: Sequence[PhaseHints]) -> str | None:
    """The first attribute that takes the same set of distinct values in every plane.

    Args:
        planes: For each plane the indices of its frames, equally many in each.
        hints: For each frame what its header says.
    """
    for keyword in SPLITTERS:
        values = [list(_known(keyword, plane, hints)) for plane in planes]
        sets = [set(plane) for plane in values]
        complete = all(len(own) == len(plane) for own, plane in zip(sets, planes, strict=True))
        if complete and all(own == sets[0] for own in sets):
            return keyword
    return None


def _known(
    keyword: str, plane: Sequence[int], hints: Sequence[PhaseHints]
) -> Iterator[tuple[object, ...]]:
    for index in plane:
        value = hints[index].get(keyword)
        if value is not None and not isinstance(value, Missing) and value:
            yield value
