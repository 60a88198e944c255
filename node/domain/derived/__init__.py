"""Derived attributes: what rules may ask for beside DICOM keywords.

Each is one ``DerivedAttribute`` in the file of its subject and one entry of ``DERIVED``: rules, their
explanations and ``docs/rules.md`` take it from there. What the headers do not tell is ``Missing`` with the
reason: unknown, never a silent no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node.domain.derived.attribute import Attribute, DerivedAttribute, Kind, SeriesFacts
from node.domain.derived.body_region import BODY_REGION
from node.domain.derived.contrast import CONTRAST
from node.domain.derived.image_type import IMAGE_TYPE
from node.domain.derived.origin import ORIGIN
from node.domain.derived.planes import PLANES, QUANTITY, VOLUME
from node.domain.derived.sequence import SEQUENCE
from node.domain.frames import Frame
from node.domain.grid import GateVerdict
from node.domain.header import Header, Value
from node.domain.instance import Origin

__all__ = ["DERIVED", "Attribute", "DerivedAttribute", "Kind", "SeriesFacts", "derive"]

DERIVED: Mapping[str, DerivedAttribute] = {
    each.name: each
    for each in (*PLANES, *IMAGE_TYPE, *VOLUME, QUANTITY, SEQUENCE, CONTRAST, BODY_REGION, *ORIGIN)
}


def derive(
    header: Header, frames: Sequence[Frame], verdict: GateVerdict, origin: Origin | None
) -> dict[str, Value]:
    """The derived attributes of a series, by name; the arguments are those of ``SeriesFacts``."""
    facts = SeriesFacts(header=header, frames=frames, verdict=verdict, origin=origin)
    return {name: attribute.of(facts) for name, attribute in DERIVED.items()}
