"""Segments: what a label value means.

Source: PS3.3 C.8.20.4 (segment description), PS3.3 8.8 (coded entries), PS3.3 8.2 (coding scheme
designators: 99 begins those that are private).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

PRIVATE_SCHEME = "99SEGNODE"
"""Designator of codes for labels whose meaning no published scheme is known to hold."""
PRIVATE_SCHEME_UID = "2.25.60039109117905752732839476343974480116"

_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Code:
    """One coded concept, such as ``Code("39607008", "SCT", "Lung")``."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        if not (self.value and self.scheme and self.meaning):
            raise ValueError(f"incomplete code {self.value!r} {self.scheme!r} {self.meaning!r}")
        if len(self.value) > 16 or len(self.scheme) > 16 or len(self.meaning) > 64:
            raise ValueError(f"code {self.value} exceeds 16/16/64 characters (PS3.5 SH, LO)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one label value of a model's output stands for.

    Args:
        label_value: The value in the label volume, 1 or above; 0 is background.
        rgb: Display colour, 0 to 255 each.
    """

    label_value: int
    name: str
    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None
    rgb: tuple[int, int, int]

    def __post_init__(self) -> None:
        if self.label_value < 1:
            raise ValueError(
                f"{self.name}: label value {self.label_value} is background or negative"
            )
        if not self.name or any(not 0 <= part <= 255 for part in self.rgb):
            raise ValueError(f"label {self.label_value}: empty name or colour outside 0..255")

    @property
    def codes(self) -> tuple[Code | None, ...]:
        """Category, type, modifier, region and region modifier: what tells segments apart."""
        return (self.category, self.type, self.modifier, self.region, self.region_modifier)

    @property
    def is_private(self) -> bool:
        """Its type is known to nobody else."""
        return self.type.scheme == PRIVATE_SCHEME


def segments_named(segments: Sequence[Segment], wanted: Sequence[str]) -> list[Segment]:
    """The segments of these names, each once, in the order wanted.

    A name is its words: ``kidney_left``, ``Left kidney`` and ``left-kidney`` are one.

    Raises:
        ValueError: A name is unknown, or is that of several segments.
    """
    by_words: dict[tuple[str, ...], list[Segment]] = {}
    for segment in segments:
        by_words.setdefault(name_words(segment.name), []).append(segment)
    found: dict[int, Segment] = {}
    for name in wanted:
        matches = by_words.get(name_words(name), [])
        if not matches:
            raise ValueError(f"no label is named {name!r}{_nearest(name, segments)}")
        if len(matches) > 1:
            which = ", ".join(f"{match.name!r} ({match.label_value})" for match in matches)
            raise ValueError(f"{name!r} names {len(matches)} labels: {which}")
        found.setdefault(matches[0].label_value, matches[0])
    return list(found.values())


def name_words(name: str) -> tuple[str, ...]:
    """The words of a name, sorted; case, underscores and punctuation do not count."""
    folded = name.casefold()
    return tuple(sorted(re.findall(r"[^\W_]+", folded))) or (folded,)


def _nearest(name: str, segments: Sequence[Segment]) -> str:
    """A clause that lists what may have been meant; empty where nothing is near."""
    words = name_words(name)
    holding = [s.name for s in segments if set(words) <= set(name_words(s.name))]
    by_text = {" ".join(name_words(segment.name)): segment.name for segment in segments}
    near = [by_text[text] for text in get_close_matches(" ".join(words), by_text, n=_NEAREST)]
    listed = list(dict.fromkeys([*holding, *near]))[:_NEAREST]
    return f"; the nearest are {', '.join(listed)}" if listed else ""
