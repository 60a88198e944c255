"""Which elements of a source are what the dictionary says, and so may be compared and copied.

Source: PS3.5 7.1 (groups), 7.5 (items), 7.8 (private elements).
"""

from __future__ import annotations

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

FIRST_GROUP = 0x0008
# an item or the end of the sequence, in both byte orders
_BEGINNINGS = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\xff\xfe\xe0\x00",
    b"\xff\xfe\xe0\xdd",
)


def is_text_for_sequence(dataset: Dataset, tag: BaseTag, vr: str) -> bool:
    """Whether an element is a sequence by its tag and holds something else than items.

    Args:
        vr: Its value representation, by the file or the dictionary.
    """
    element: DataElement | RawDataElement = dataset.get_item(tag)
    return (
        vr == "SQ"
        and isinstance(element, RawDataElement)
        and bool(element.value)
        and not (element.value or b"").startswith(_BEGINNINGS)
    )


def is_carried(tag: BaseTag) -> bool:
    """Whether a result may carry an element of this tag over from a source."""
    return not tag.is_private and tag.element != 0 and tag.group >= FIRST_GROUP
