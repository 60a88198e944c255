"""Losses: images that a sender meant to be kept and the node did not keep.

What the node refused it knows to be missing: a series of which images were refused is not complete,
however regular the rest of it looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from node.domain.reasons import Reason, ReasonCode

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


def images_refused(losses: Sequence[Loss], images: int) -> Reason:
    """How many of how many images were refused, and why, the most frequent reason first.

    Args:
        images: As many are kept.
    """
    whys = Counter(loss.reason for loss in losses).most_common()
    facts = {
        "count": len(losses),
        "of": len(losses) + images,
        "whys": [(number, why) for why, number in whys[:_MOST_REASONS]],
        "others": sum(number for _, number in whys[_MOST_REASONS:]),
    }
    return Reason(ReasonCode.IMAGES_REFUSED, facts)
