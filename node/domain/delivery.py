"""Deliveries: what each destination takes, what is sent, and what became of one attempt to send it.

The forms that there are stand in ``node.pipeline.forms``; here a form is a name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from node.domain.uids import is_uid

DEFAULT_FORMS = ("seg",)
"""What a destination takes that does not say what it takes."""

UNKNOWN_DESTINATION = ""
"""Stands in a job's destinations for a sender that nobody knows."""


class TakesForms(Protocol):
    """A destination, as far as forms go."""

    @property
    def forms(self) -> tuple[str, ...]:
        """What it is sent."""
        ...


@dataclass(frozen=True, slots=True)
class FormsTaken:
    """Which forms each destination takes.

    Args:
        by_destination: Name -> forms; any other name takes ``DEFAULT_FORMS``.
    """

    by_destination: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, destination: str) -> tuple[str, ...]:
        return self.by_destination.get(destination, DEFAULT_FORMS)

    def of_all(self, destinations: Collection[str]) -> tuple[str, ...]:
        """What a job with these destinations is made into, each form once.

        A job without destinations keeps its result in the node, in the default forms.
        """
        wanted = [form for name in destinations or (UNKNOWN_DESTINATION,) for form in self.of(name)]
        return tuple(dict.fromkeys(wanted))

    def takers(self, form: str, destinations: Collection[str]) -> tuple[str, ...]:
        """Those of a job's destinations that take a form."""
        names = dict.fromkeys(destinations or (UNKNOWN_DESTINATION,))
        return tuple(name for name in names if form in self.of(name))


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
    """A file of a result, and what a destination must know before reading it.

    Args:
        path: Of a DICOM object a file with preamble and File Meta Information (PS3.10 7.1).
        sop_class_uid: Of a DICOM object; empty for any other file.
        sop_instance_uid: What identifies the file, whether or not it is a DICOM object.
        transfer_syntax_uid: Of a DICOM object.
        source_series_instance_uid: Of the series on whose grid it lies; empty where nobody knows.
        model: Name of the model that made it, for folder layouts.
        modality: For folder layouts.
        output: What it holds, for folder layouts.
        ext: What its name should end with, for folder layouts; without the first dot.
    """

    path: str
    size_bytes: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    source_series_instance_uid: str = ""
    model: str = ""
    modality: str = "OT"
    output: str = "result"
    ext: str = "dcm"

    @property
    def is_dicom(self) -> bool:
        """Whether a PACS could take it."""
        return bool(self.sop_class_uid)

    def __post_init__(self) -> None:
        uids = [self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid]
        if self.is_dicom:
            uids += [self.sop_class_uid, self.transfer_syntax_uid]
        if not all(uid and is_uid(uid) for uid in uids):
            raise ValueError("a deliverable object needs valid UIDs")
