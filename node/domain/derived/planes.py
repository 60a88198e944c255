"""What the planes of a series tell: how many, how large, how they lie, what their numbers measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from node.domain.derived.attribute import DerivedAttribute, Kind, SeriesFacts, told
from node.domain.frames import Triple, quantity_of
from node.domain.grid import GateVerdict
from node.domain.header import Missing, Value
from node.domain.quantity import Quantity

_ALONG_AN_AXIS = 0.8
_AXES = ("sagittal", "coronal", "axial")  # normal along x, y, z of LPS


def plane_name(normal: Triple | None) -> str | None:
    """The anatomical plane with this normal, LPS."""
    if normal is None:
        return None
    cosines = np.abs(normal)
    axis = int(np.argmax(cosines))
    return _AXES[axis] if cosines[axis] >= _ALONG_AN_AXIS else "oblique"


def _common(values: Sequence[int]) -> Value:
    if not values:
        return Missing("no images")
    return (values[0],) if len(set(values)) == 1 else Missing("different between images")


def _spacing_mm(verdict: GateVerdict) -> Value:
    if verdict.spacing_mm is None:
        return Missing(f"spacing cannot be measured: {_faults(verdict)}")
    return (round(max(verdict.spacing_mm), 6),)


def _faults(verdict: GateVerdict) -> str:
    codes = dict.fromkeys(finding.code.value.replace("_", " ") for finding in verdict.findings)
    return ", ".join(codes) or "no stack"


def _quantity(facts: SeriesFacts) -> Value:
    if not facts.frames:
        return Missing("no images")
    found = quantity_of(facts.frames)
    if found is None:
        return Missing("different between images")
    quantity, why = found
    if quantity is Quantity.UNSPECIFIED:
        return Missing(f"not established: {why or 'nothing in the header tells'}")
    return (quantity.value,)


PLANES = (
    DerivedAttribute(
        name="slices",
        kind=Kind.NUMBER,
        meaning="planes of the series; frames count in multi-frame objects",
        of=lambda facts: told(len(facts.frames) or None, "no images"),
    ),
    DerivedAttribute(
        name="rows",
        kind=Kind.NUMBER,
        meaning="rows of every plane",
        of=lambda facts: _common([frame.rows for frame in facts.frames]),
    ),
    DerivedAttribute(
        name="columns",
        kind=Kind.NUMBER,
        meaning="columns of every plane",
        of=lambda facts: _common([frame.columns for frame in facts.frames]),
    ),
    # measured from positions, not from Slice Thickness
    DerivedAttribute(
        name="spacing_mm",
        kind=Kind.NUMBER,
        meaning="largest edge of a voxel: of slice, row and column spacing",
        of=lambda facts: _spacing_mm(facts.verdict),
    ),
    DerivedAttribute(
        name="orientation",
        kind=Kind.TEXT,
        values=("AXIAL", "SAGITTAL", "CORONAL", "OBLIQUE"),
        meaning="the plane that the slices lie in",
        of=lambda facts: told(plane_name(facts.verdict.normal), "no common orientation"),
    ),
)

VOLUME = (
    DerivedAttribute(
        name="is_volume",
        kind=Kind.FLAG,
        meaning="the geometry gate accepts it as one regular volume",
        of=lambda facts: (facts.verdict.stack is not None,),
    ),
    DerivedAttribute(
        name="has_gaps",
        kind=Kind.FLAG,
        meaning="slices are missing inside the stack",
        of=lambda facts: told(facts.verdict.has_gaps, "no stack of slices to look for gaps in"),
    ),
)

QUANTITY = DerivedAttribute(
    name="quantity",
    kind=Kind.TEXT,
    values=tuple(each.value for each in Quantity if each is not Quantity.UNSPECIFIED),
    meaning="what the numbers measure",
    of=_quantity,
)
