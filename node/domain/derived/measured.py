"""What the numbers measure (``node.domain.quantity``)."""

from __future__ import annotations

from node.domain.derived.attribute import DerivedAttribute, Kind, SeriesFacts
from node.domain.frames import quantity_of
from node.domain.header import Missing, Value
from node.domain.quantity import Quantity


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


QUANTITY = DerivedAttribute(
    name="quantity",
    kind=Kind.TEXT,
    values=tuple(each.value for each in Quantity if each is not Quantity.UNSPECIFIED),
    meaning="what the numbers measure",
    of=_quantity,
)
