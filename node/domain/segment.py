"""Segments: what a label value means.

Source: PS3.3 C.8.20.4 (segment description), PS3.3 8.8 (coded entries).
"""

from __future__ import annotations

from dataclasses import dataclass


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
