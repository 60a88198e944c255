"""Forms: what a result is given as, and which destination takes which.

The forms that there are stand in ``node.pipeline.forms``; here a form is a name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
        """What one destination takes."""
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
