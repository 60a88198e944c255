"""What went wrong, and who acts next.

::

    NodeError
    ├── ConfigInvalid       the operator mends the configuration; nothing starts (exit code 2)
    ├── CursorInvalid       who asks for a page takes the cursor that the page before gave
    ├── InstanceRejected    the sender is told that this instance is not kept
    ├── SeriesUnusable      the job is parked until the series changes or a person frees it
    ├── JobFailed           this attempt is over; the job is tried again or parked
    │   └── JobRefused      every attempt would end so: model, inputs or request must be mended
    ├── ResultRefused       the verifier found a fault: the result never leaves
    ├── LeaseLost           the worker or sender drops what it holds: it is in other hands now
    └── TryLater            the same call may succeed later; nothing is wrong with its arguments

Messages carry UIDs and numbers, never a patient's name, ID or birth date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from node.domain.reasons import Reason


class Status(IntEnum):
    """What a sender is answered, the same over DIMSE, STOW-RS and a watched folder.

    The conformance statement prints each by its name.

    Source: PS3.4 Table B.2-1, PS3.7 Annex C, PS3.18 I.2.2
    """

    SUCCESS = 0x0000

    SOP_CLASS_NOT_SUPPORTED = 0x0122
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212

    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    # ours, in the same range: the data set is not of the study that a STOW path names
    DOES_NOT_MATCH_STUDY = 0xA901

    CANNOT_UNDERSTAND = 0xC000
    # Cxxx are ours to number
    PIXELS_CONTRADICT_HEADER = 0xC010
    SAME_UID_OTHER_PIXELS = 0xC020
    PATIENT_MIX_UP = 0xC021
    INFLATES_BEYOND_LIMIT = 0xC030
    TOO_MANY_IN_SERIES = 0xC031
    # PS3.18 I.2.2: referenced transfer syntax not supported
    TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122


def is_out_of_resources(status: int) -> bool:
    """Whether a later try of the same instance may succeed: A7xx."""
    return status & 0xFF00 == Status.OUT_OF_RESOURCES


class NodeError(Exception):
    """Any failure that segnode itself describes."""


class ConfigInvalid(NodeError):
    """The configuration cannot be used; every mistake is listed with its path."""

    def __init__(self, mistakes: Sequence[tuple[str, str]]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{path}: {text}" if path else text for path, text in mistakes))

    def __reduce__(self) -> tuple[type[ConfigInvalid], tuple[object, ...]]:
        return type(self), (self.mistakes,)


class CursorInvalid(NodeError):
    """What stands in place of a cursor is no place in the list; it is not repeated."""

    def __init__(self) -> None:
        super().__init__("after: no place in this list; take it as the page before gave it")


class InstanceRejected(NodeError):
    """The sender must be told that this instance is not kept.

    Args:
        dimse_status: C-STORE status, PS3.4 Table B.2-1 and PS3.7 Annex C; STOW-RS reports the same
            number as Failure Reason (PS3.18 Annex I).
        sop_class_uid: As far as known, with ``sop_instance_uid``: a STOW-RS answer names both.
        offending_tags: Tags named in Offending Element (0000,0901).
        quarantine: Whether the received bytes are kept aside for a person to look at.
    Source: PS3.4 B.2.3
    """

    def __init__(
        self,
        reason: str,
        *,
        dimse_status: int,
        sop_class_uid: str = "",
        sop_instance_uid: str = "",
        offending_tags: Sequence[int] = (),
        quarantine: bool = True,
    ) -> None:
        super().__init__(f"{reason} (0x{dimse_status:04X})")
        self.reason = reason
        self.dimse_status = dimse_status
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.offending_tags = tuple(offending_tags)
        self.quarantine = quarantine


class SeriesUnusable(NodeError):
    """The series is no input for a model; ``node.words`` says why."""

    def __init__(self, reasons: Iterable[Reason]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(", ".join(reason.code for reason in self.reasons))


class JobFailed(NodeError):
    """A run ended without a result.

    Args:
        reason: One sentence for the job list.
        permanent: True when another attempt would end the same way.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class JobRefused(JobFailed):
    """A run ended without a result, and another attempt would end the same way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, permanent=True)


class ResultRefused(NodeError):
    """A result object contradicts its source or the labels it was made of."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


class LeaseLost(NodeError):
    """The row is not leased by this owner any more: expired, cancelled or finished elsewhere."""

    def __init__(self, row: str, owner: str) -> None:
        super().__init__(f"{row} is not leased by {owner}")
        self.row = row


class TryLater(NodeError):
    """A resource is short for now: disk, lease, connection."""
