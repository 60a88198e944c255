"""Which label of the model a segment of an output is: by its codes, else by its name.

Source: PS3.3 C.8.20.4 (segment description).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from node.domain.errors import JobRefused
from node.domain.segment import Code, Segment

Key: TypeAlias = frozenset[tuple[str, int]]

_NAMED_AT_MOST = 5
_LONG_STRING = 64


def match_segments(described: Sequence[Dataset], segments: Sequence[Segment]) -> dict[int, int]:
    """Segment Number -> label value, for the items of a Segment Sequence.

    Several segments may be one label: instances of one structure become its union.

    Raises:
        JobRefused: A segment is not one of the model's labels, or may be several.
    """
    matched: dict[int, int] = {}
    unknown: list[str] = []
    for item in described:
        found = _candidates(item, segments)
        if len(found) == 1:
            matched[int(item.SegmentNumber)] = found[0].label_value
        else:
            reason = "may be several labels" if found else "is unknown"
            unknown.append(f"{_shown(item)!r} {reason}")
    if unknown:
        more = f" and {len(unknown) - _NAMED_AT_MOST} more" if len(unknown) > _NAMED_AT_MOST else ""
        named = ", ".join(unknown[:_NAMED_AT_MOST])
        raise JobRefused(f"labels.csv does not describe the container's segments: {named}{more}")
    return matched


def name_key(name: str) -> Key:
    """Words of a name in any order and spelling: "Left kidney", LEFT_KIDNEY, kidney_left."""
    return frozenset(Counter(re.findall(r"[a-z]+|[0-9]+", name.casefold())).items())


def _candidates(item: Dataset, segments: Sequence[Segment]) -> list[Segment]:
    """Labels that a segment may be; the narrower tests decide only between several."""
    names = {name_key(name) for name in _names(item) if name_key(name)}
    kind = _first(item, "SegmentedPropertyTypeCodeSequence")
    category = _first(item, "SegmentedPropertyCategoryCodeSequence")
    modifier = _first(kind, "SegmentedPropertyTypeModifierCodeSequence")
    by_code = [
        segment
        for segment in segments
        if _is(segment.type, kind)
        and _is(segment.modifier, modifier)
        and _is(segment.category, category)
    ]
    if not by_code:
        return [segment for segment in segments if name_key(segment.name) in names]
    region = _first(item, "AnatomicRegionSequence")
    side = _first(region, "AnatomicRegionModifierSequence")
    in_region = [s for s in by_code if _is(s.region, region) and _is(s.region_modifier, side)]
    found = in_region or by_code
    named = [segment for segment in found if name_key(segment.name) in names]
    return named if len(found) > 1 and named else found


def _is(ours: Code | None, theirs: Dataset | None) -> bool:
    """Whether two codes are one concept; pydicom knows SNOMED's old codes (SRT) and the new."""
    if ours is None or theirs is None:
        return ours is None and theirs is None
    value = str(theirs.get("CodeValue") or theirs.get("LongCodeValue") or "")
    scheme = str(theirs.get("CodingSchemeDesignator") or "")
    if not value or not scheme:
        return False
    return bool(DicomCode(ours.value, ours.scheme, "") == DicomCode(value, scheme, ""))


def _first(holder: Dataset | None, keyword: str) -> Dataset | None:
    items: Sequence[Dataset] = (holder.get(keyword) if holder is not None else None) or []
    return items[0] if items else None


def _names(item: Dataset) -> list[str]:
    return [str(item.get(keyword) or "") for keyword in ("SegmentLabel", "SegmentDescription")]


def _shown(item: Dataset) -> str:
    name = next((name for name in _names(item) if name), f"number {item.SegmentNumber}")
    return "".join(mark for mark in name if mark.isprintable())[:_LONG_STRING]
