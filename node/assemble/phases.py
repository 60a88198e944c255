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

# images that show different things, such as magnitude and phase: no phases of one thing
KINDS = ("ComplexImageComponent", "ImageType", "FrameType")
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
        for keyword in (*KINDS, *SPLITTERS):
            for source in sources:
                if keyword in source:
                    own[keyword] = value_of(source, keyword)
                    break
        hints.append(own)
    return tuple(hints)


def how_split(planes: Sequence[Sequence[int]], hints: Sequence[PhaseHints]) -> dict[str, object]:
    """How the images of every plane could be told apart, as facts; empty where nothing tells.

    Images of different kinds (Image Type, Frame Type) are named first: what else differs between a
    magnitude image and a field map makes them no phases of one thing.

    Args:
        planes: For each plane the indices of its frames, equally many in each.
        hints: For each frame what its header says.
    """
    images = len(planes[0])
    for keyword in KINDS:
        kinds = _alike_in_all(keyword, planes, hints)
        if kinds == images:
            return {"kinds": kinds, "by": keyword, "could_be_split": True}
        if kinds > 1:
            return {"kinds": kinds, "by": keyword, "could_be_split": False}
    for keyword in SPLITTERS:
        if _alike_in_all(keyword, planes, hints) == images:
            return {"phases": images, "by": keyword}
    return {}


def _alike_in_all(
    keyword: str, planes: Sequence[Sequence[int]], hints: Sequence[PhaseHints]
) -> int:
    """How many values the attribute takes in every plane, where they are the same in all; else 0."""
    values = [list(_known(keyword, plane, hints)) for plane in planes]
    is_complete = all(len(own) == len(plane) for own, plane in zip(values, planes, strict=True))
    sets = [set(own) for own in values]
    return len(sets[0]) if is_complete and all(own == sets[0] for own in sets) else 0


def _known(
    keyword: str, plane: Sequence[int], hints: Sequence[PhaseHints]
) -> Iterator[tuple[object, ...]]:
    for index in plane:
        value = hints[index].get(keyword)
        if value is not None and not isinstance(value, Missing) and value:
            yield value
