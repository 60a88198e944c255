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
    image_type = header.get("ImageType")
    is_known = not isinstance(image_type, Missing) and bool(image_type)
    if is_known and any(str(value).upper() == "LOCALIZER" for value in _all(image_type)):
        return (True,)
    if (
        1 < verdict.orientations <= LOCALIZER_ORIENTATIONS
        and verdict.images <= LOCALIZER_IMAGES
        and not is_projection(header)
    ):
        return (True,)
    return (False,) if is_known else _why(image_type, "ImageType")


def _is_derived(header: Header) -> Value:
    image_type = header.get("ImageType")
    if isinstance(image_type, Missing) or not image_type:
        return _why(image_type, "ImageType")
    return (str(image_type[0]).upper() == "DERIVED",)


def _why(value: Value, keyword: str) -> Missing:
    return Missing(f"{keyword}: {value.reason if isinstance(value, Missing) else 'empty'}")


def _all(value: Value) -> tuple[object, ...]:
    return () if isinstance(value, Missing) else value


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
