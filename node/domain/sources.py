"""Values from the nearest of several data sets, as functional groups ask for.

A list of sources runs from what is nearest to a frame (its own functional group macros) to what is
farthest (the top level). An empty element says as little as an absent one.

Source: PS3.3 C.7.6.16 (functional groups).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.domain.header import UNREADABLE, Missing, tag_of, value_of


def is_filled(source: Dataset, keyword: str) -> bool:
    """Whether an element is there and has a value, readable or not."""
    tag = tag_of(keyword)
    if tag not in source:
        return False
    value = source.get_item(tag).value
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def is_given(sources: Iterable[Dataset], keyword: str) -> bool:
    """Whether any source has a value, readable or not."""
    return any(is_filled(source, keyword) for source in sources)


def numbers(sources: Iterable[Dataset], keyword: str, count: int) -> tuple[float, ...] | None:
    """Finite numbers from the nearest source that gives them; None where that one is malformed."""
    for source in sources:
        if not is_filled(source, keyword):
            continue
        value = value_of(source, keyword)
        if isinstance(value, Missing) or len(value) != count:
            return None
        try:
            values = tuple(float(each) for each in value)
        except UNREADABLE:
            return None
        return values if all(map(math.isfinite, values)) else None
    return None


def number(sources: Iterable[Dataset], keyword: str) -> float | None:
    """One finite number; None where it is absent, empty or malformed."""
    found = numbers(sources, keyword, 1)
    return found[0] if found else None


def texts(sources: Iterable[Dataset], keyword: str) -> tuple[str, ...]:
    """Values of text, trimmed, from the nearest source that gives them; empty where none can."""
    for source in sources:
        if not is_filled(source, keyword):
            continue
        value = value_of(source, keyword)
        return () if isinstance(value, Missing) else tuple(map(str, value))
    return ()


def text(sources: Iterable[Dataset], keyword: str) -> str:
    """The first value of text, or nothing."""
    found = texts(sources, keyword)
    return found[0] if found else ""


def integer(source: Dataset, keyword: str) -> int | None:
    """A whole number; None where it is absent, empty or malformed."""
    value = value_of(source, keyword)
    if isinstance(value, Missing) or len(value) != 1:
        return None
    try:
        return int(value[0])
    except UNREADABLE:
        return None


def items(sources: Iterable[Dataset], keyword: str) -> list[Dataset]:
    """The items of a sequence in the nearest source that has any; none where it is malformed."""
    for source in sources:
        if is_filled(source, keyword):
            try:
                value = source[keyword].value
            except (*UNREADABLE, EOFError, struct.error):
                return []
            return list(value) if isinstance(value, Sequence) else []
    return []
