"""How well two label arrays of one series agree, label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from node.domain.result import LabelArray, label_values_of, mask_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two label arrays agree.

    Args:
        dice: Of each label value that either holds.
        equal: Share of voxels that are the same, of those where either is not background.
    """

    dice: Mapping[int, float]
    equal: float

    @property
    def lowest(self) -> tuple[int, float]:
        """The label that agrees least."""
        return min(self.dice.items(), key=lambda item: item[1])


def compare_labels(original: LabelArray, other: LabelArray, *, overlapping: bool) -> Agreement:
    """Dice per label between two arrays of one shape, labels or bits of regions."""
    stored = np.union1d(np.unique(original), np.unique(other)).tolist()
    values = {each for one in stored for each in label_values_of(one, overlapping=overlapping)}
    dice = {}
    for value in sorted(values):
        first = mask_of(original, value, overlapping=overlapping)
        second = mask_of(other, value, overlapping=overlapping)
        both = int(np.count_nonzero(first & second))
        dice[value] = 2 * both / (int(first.sum()) + int(second.sum()))
    either = (original != 0) | (other != 0)
    count = int(either.sum())
    equal = float(np.count_nonzero((original == other) & either)) / count if count else 1.0
    return Agreement(dice=dice, equal=equal)
