"""Segment descriptions: codes, colours, tracking and the algorithm that drew them.

Source: PS3.3 C.8.20.4, 10.16 (Algorithm Identification), C.10.7.1.1 (CIELab encoding).
"""

from __future__ import annotations

import unicodedata

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes

from node.domain.job import ResultIdentity
from node.domain.result import Provenance
from node.domain.segment import Code, Segment

LONG_STRING = 64
LONG_TEXT = 10240
IMPLAUSIBLE = "IMPLAUSIBLE"
"""In Series and Content Description of a result that no patient can have."""
RESEARCH_NOTICE = "For research use only, not for diagnostic use"


def plain_text(text: str, limit: int = LONG_STRING) -> str:
    """Text of ours in the default repertoire, cut to length.

    The Specific Character Set is the source's, whatever it is; ASCII reads the same in all of them.
    A backslash would separate values (PS3.5 6.2).
    """
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    clean = "".join(mark if mark.isprintable() else " " for mark in folded.replace("\\", "/"))
    return clean[:limit].strip()


def describe_segments(
    segments: list[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
    inputs: dict[str, str],
) -> list[SegmentDescription]:
    """Items of the Segment Sequence, numbered from 1 in the order given.

    Args:
        inputs: What else belongs into Algorithm Parameters, such as the UIDs of the input series.
    """
    algorithm = _algorithm(provenance, inputs)
    return [
        _describe(number, segment, algorithm, provenance, identity)
        for number, segment in enumerate(segments, 1)
    ]


def _describe(
    number: int,
    segment: Segment,
    algorithm: AlgorithmIdentificationSequence,
    provenance: Provenance,
    identity: ResultIdentity,
) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=plain_text(segment.name) or f"label {segment.label_value}",
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=identity.uid(f"tracking.{segment.label_value}"),
        tracking_id=plain_text(f"{provenance.model_name} {segment.name}"),
        anatomic_regions=[_concept(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )
    if provenance.research_use:
        description.SegmentDescription = RESEARCH_NOTICE
    if segment.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(segment.modifier)]
    if segment.region and segment.region_modifier:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_concept(segment.region_modifier)]
    return description


def _algorithm(provenance: Provenance, inputs: dict[str, str]) -> AlgorithmIdentificationSequence:
    facts = {
        "model_digest": provenance.model_digest,
        "weights_digest": provenance.weights_digest or "none",
        "config_digest": provenance.config_digest,
        "node_version": provenance.node_version,
        "revision": str(provenance.revision),
        **({"replaces": provenance.replaces} if provenance.replaces else {}),
        **({"incomplete_input": provenance.incomplete} if provenance.incomplete else {}),
        **({"implausible": provenance.implausible} if provenance.implausible else {}),
        **inputs,
        **{name: provenance.parameters[name] for name in sorted(provenance.parameters)},
    }
    identification = AlgorithmIdentificationSequence(
        name=plain_text(provenance.model_name),
        family=codes.DCM.ArtificialIntelligence,
        version=plain_text(provenance.model_version),
        source=plain_text(f"segnode {provenance.node_version}"),
    )
    parameters = "\r\n".join(f"{name}={value}" for name, value in facts.items())
    lines = (plain_text(line, LONG_TEXT) for line in parameters.split("\r\n"))
    identification[0].AlgorithmParameters = "\r\n".join(lines)[:LONG_TEXT]
    return identification


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(
        value=code.value, scheme_designator=code.scheme, meaning=plain_text(code.meaning)
    )
