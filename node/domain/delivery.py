"""Deliveries: what is sent, and what became of one attempt to send it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from node.domain.uids import is_uid


class DeliveryClass(StrEnum):
    """How one attempt ended; each class has one consequence for the outbox row."""

    SENT = "sent"  # taken without reservation
    WARNED = "warned"  # taken, with a reservation that an operator may want to read
    RETRY = "retry"  # may succeed by itself: tried again for days
    REFUSED = "refused"  # this object was refused: five times in a row block the row
    BLOCKED = "blocked"  # only a changed configuration or a person can help


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one attempt.

    Args:
        sentence: One plain sentence for the delivery list, without patient data.
        status: DIMSE or HTTP status where the peer gave one.
        retry_after_s: What the peer asked for, in seconds.
        destination_sick: True when nothing else would have got through either: such ends, and only
            they, open the destination's circuit breaker.
    """

    kind: DeliveryClass
    sentence: str
    status: int | None = None
    retry_after_s: float | None = None
    destination_sick: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the destination has the object now."""
        return self.kind in (DeliveryClass.SENT, DeliveryClass.WARNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverableObject:
    """A result object as a file, and what a destination must know before reading it.

    Args:
        path: A DICOM file with preamble and File Meta Information (PS3.10 7.1).
        model: Name of the model that made it, for folder layouts.
    """

    path: str
    size_bytes: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    model: str = ""

    def __post_init__(self) -> None:
        uids = (
            self.sop_class_uid,
            self.sop_instance_uid,
            self.series_instance_uid,
            self.study_instance_uid,
            self.transfer_syntax_uid,
        )
        if not all(uid and is_uid(uid) for uid in uids):
            raise ValueError("a deliverable object needs five valid UIDs")
