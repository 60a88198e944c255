"""Carried: what one association, STOW request or folder scan brought, and whether it lost nothing.

It is handed over when the association ends. A loss that names no series counts against the series
that came beside it; an image without a name that was lost before counts as come after all when its
whole series comes again without any loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.receive.arrival import Receipt

# of one series, before a sender of millions costs memory; beyond it only a person settles a loss
MAX_IMAGES = 65_536


@dataclass(slots=True)
class Carried:
    """Filled instance by instance, by whoever serves the sender.

    Attributes:
        series: Series Instance UID -> SOP Instance UIDs that are kept now, whether they are new or
            were there before.
        losses: Images that were not kept.
    """

    series: dict[str, set[str]] = field(default_factory=dict)
    losses: int = 0

    def note(self, receipt: Receipt) -> None:
        """An instance is kept."""
        images = self.series.setdefault(receipt.series_instance_uid, set())
        if len(images) < MAX_IMAGES:
            images.add(receipt.sop_instance_uid)
