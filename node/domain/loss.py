"""Losses: images that a sender meant to be kept and the node did not keep.

What the node refused it knows to be missing: a series of which images were refused is not complete,
however regular the rest of it looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One image that was refused, could not be read, was cut off, or came without pixels.

    Args:
        series_instance_uid: The series it names; empty where its header could not say.
        image: Its SOP Instance UID, or else what tells it from other images of its sender: a path,
            the number of a part in a request.
        sop_instance_uid: Empty where nobody could say.
        association_id: Of the association, STOW request or folder scan that carried it.
    """

    series_instance_uid: str = ""
    image: str
    sop_instance_uid: str = ""
    association_id: str
    dimse_status: int
    reason: str

    def __post_init__(self) -> None:
        if not self.image:
            raise ValueError("a loss that nothing tells from another")


def refused_told(losses: Sequence[Loss], images: int) -> str:
    """How many of how many images were refused, and why.

    Args:
        images: As many are kept.
    """
    were = "was" if len(losses) == 1 else "were"
    return f"{len(losses)} of {len(losses) + images} images {were} refused ({reasons_told(losses)})"


def reasons_told(losses: Sequence[Loss]) -> str:
    """Why, the most frequent reason first: ``8 x the pixel data are ...; 1 x ...``."""
    counted = Counter(loss.reason for loss in losses).most_common()
    told = [f"{count} x {reason}" for reason, count in counted[:_MOST_REASONS]]
    more = sum(count for _, count in counted[_MOST_REASONS:])
    return "; ".join([*told, f"{more} for other reasons"] if more else told)
