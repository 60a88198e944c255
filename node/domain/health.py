"""Health: whether the node takes instances, and what needs a person."""

from __future__ import annotations

from dataclasses import dataclass

COUNTED = 10_000
"""How far rows are counted for people: what there is above costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the node takes work, and how much of it needs a person; it names no patient.

    Of each kind rows are counted up to ``COUNTED``.

    Args:
        held: Series, and sets of series, that wait for a person.
        parked: Matches that cannot run.
        implausible: Results that are kept back.
        blocked: Deliveries that do not leave.
        shortage: Why instances sent now would be refused, as with a full disk; empty where not.
        ahead_s: How far the time of the node is ahead of the clock, since somebody set that.
        database: Why they would be refused for the database; nothing is counted where it cannot be read.
    """

    held: int = 0
    parked: int = 0
    implausible: int = 0
    blocked: int = 0
    shortage: str = ""
    ahead_s: int = 0
    database: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether instances sent now would be taken."""
        return not self.shortage and not self.database
