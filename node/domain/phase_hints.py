"""Phase hints: the attributes of a frame that may tell it from others in its plane.

Source: PS3.3 C.7.6.16 (functional groups), C.8.3.1 (MR image), C.7.6.18 (cardiac phases).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from pydicom.dataset import Dataset

from node.domain.frames import frame_sources
from node.domain.header import Value, tag_of, value_of

PhaseHints: TypeAlias = Mapping[str, Value]

# images that show different things, such as magnitude and phase: no phases of one thing
KINDS = ("ComplexImageComponent", "ImageType", "FrameType")
# from what the Standard made for the purpose to mere clock times
SPLITTERS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "TemporalPositionTimeOffset"),
    *("EchoNumbers", "EchoTime", "EffectiveEchoTime", "InversionTime"),
    *("DiffusionBValue", "DiffusionGradientOrientation"),
    *("NominalCardiacTriggerDelayTime", "TriggerTime"),
    *("AcquisitionNumber", "StackID", "ConvolutionKernel", "SequenceName"),
    *("SeriesTime", "AcquisitionTime", "ContentTime"),
)


_HINTS = tuple((keyword, tag_of(keyword)) for keyword in (*KINDS, *SPLITTERS))


def phase_hints_of(instance: Dataset) -> tuple[PhaseHints, ...]:
    """For each frame of an instance the attributes that may tell phases apart."""
    return tuple(
        {
            keyword: value_of(source, tag)
            for keyword, tag in _HINTS
            if (source := next((each for each in sources if tag in each), None)) is not None
        }
        for sources in frame_sources(instance)
    )
