"""Health: whether the node takes instances, and what needs a person, as codes with facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from node.domain.reasons import Facts

COUNTED = 10_000
"""How far rows are counted for people: what there is above costs nothing."""


class HealthCode(StrEnum):
    """What is the matter with the node; the values are those of ``/readyz``, metrics and notifications."""

    # new instances are refused
    DISK = "disk"
    DATABASE = "database"

    # a process of the node
    ROLE_GONE = "role_gone"
    ROLE_SILENT = "role_silent"
    ROLE_RESTARTED = "role_restarted"
    RELOAD_REFUSED = "reload_refused"

    # somebody has to decide
    HELD = "held"
    PARKED = "parked"
    IMPLAUSIBLE = "implausible"
    BLOCKED = "blocked"

    # what comes in, waits, and goes out
    QUARANTINE_FULL = "quarantine_full"
    QUARANTINE_GROWS = "quarantine_grows"
    JOBS_TRIED_AGAIN = "jobs_tried_again"
    QUEUE_LATE = "queue_late"
    DESTINATION_SICK = "destination_sick"

    # the machine
    CLOCK = "clock"
    CERTIFICATE = "certificate"


RECEIVE = "receive"
"""The process that takes instances; where several share its port each has a number behind that."""

_REFUSES = (HealthCode.DISK, HealthCode.DATABASE)
_AWAY = (HealthCode.ROLE_GONE, HealthCode.ROLE_SILENT)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is the matter; it names no patient.

    Args:
        subject: Which one, where there may be several: a process, a destination, a key of the file.
        facts: As those of a ``Reason``.
    """

    code: HealthCode
    subject: str = ""
    facts: Facts = field(default_factory=dict)

    @property
    def key(self) -> tuple[HealthCode, str]:
        """What it is about: the same thing a moment later has the same key, and other facts."""
        return self.code, self.subject


@dataclass(frozen=True, slots=True)
class Health:
    """How the node is at one moment.

    Args:
        findings: Each key once; none where all is well.
        receivers: Processes that take instances by DIMSE: one of them is enough.
    """

    findings: tuple[Finding, ...] = ()
    receivers: tuple[str, ...] = (RECEIVE,)

    @property
    def is_ready(self) -> bool:
        """Whether instances sent now would be taken."""
        away = {finding.subject for finding in self.findings if finding.code in _AWAY}
        is_refused = any(finding.code in _REFUSES for finding in self.findings)
        return not is_refused and not away.issuperset(self.receivers)
