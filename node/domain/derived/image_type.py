"""What Image Type tells: localizers and derived images.

Source: PS3.3 C.7.6.1.1.2.
"""

from __future__ import annotations

from node.domain.derived.attribute import DerivedAttribute, Kind
from node.domain.derived.sequence import is_projection
from node.domain.grid import GateVerdict
from node.domain.header import Header, Missing, Value

LOCALIZER_IMAGES = 30
LOCALIZER_ORIENTATIONS = 3  # axial, coronal, sagittal; projections turn in more steps


def _is_localizer(header: Header, verdict: GateVerdict) -> Value:
    image_type = [str(value).upper() for value in header.known("ImageType")]
    lies_like_one = (
        1 < verdict.orientations <= LOCALIZER_ORIENTATIONS and verdict.images <= LOCALIZER_IMAGES
    )
    if "LOCALIZER" in image_type or (lies_like_one and not is_projection(header)):
        return (True,)
    return (False,) if image_type else _why_unknown(header)


def _is_derived(header: Header) -> Value:
    image_type = header.known("ImageType")
    return (str(image_type[0]).upper() == "DERIVED",) if image_type else _why_unknown(header)


def _why_unknown(header: Header) -> Missing:
    value = header.get("ImageType")
    return Missing(f"ImageType: {value.reason if isinstance(value, Missing) else 'empty'}")


IMAGE_TYPE = (
    DerivedAttribute(
        name="is_localizer",
        kind=Kind.FLAG,
        meaning="Image Type says LOCALIZER, or few images lie in two or three planes",
        of=lambda facts: _is_localizer(facts.header, facts.verdict),
    ),
    DerivedAttribute(
        name="is_derived",
        kind=Kind.FLAG,
        meaning="Image Type says DERIVED",
        of=lambda facts: _is_derived(facts.header),
    ),
)
