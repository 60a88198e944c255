"""Health: whether the node takes instances, and what needs a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the node takes work, and what needs a person.

    Args:
        is_ready: False when instances sent now would be refused, as with a full disk.
        degraded: Reason such as ``held``, ``parked``, ``blocked``, ``disk`` -> one plain sentence
            without names of patients: this is shown to everybody.
    """

    is_ready: bool
    degraded: Mapping[str, str] = field(default_factory=dict)
