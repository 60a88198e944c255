"""What every kind of destination is: a frozen value of the configuration that sends and can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import ClassVar, Self

from node.domain.delivery import DEFAULT_FORMS, DeliverableObject, Outcome
from node.domain.settings import KeyName, Mistake, Settings

_TIMEOUT = "_timeout_s"


class Health(StrEnum):
    """How an examination ended; ``warning`` is for what need not be wrong."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What came of asking: whether a destination would take results, whether a part of the node works."""

    health: Health
    sentence: str

    @classmethod
    def good(cls, sentence: str) -> Self:
        """Nothing is wrong."""
        return cls(health=Health.GOOD, sentence=sentence)

    @classmethod
    def warning(cls, sentence: str) -> Self:
        """Something may be wrong."""
        return cls(health=Health.WARNING, sentence=sentence)

    @classmethod
    def bad(cls, sentence: str) -> Self:
        """It does not work."""
        return cls(health=Health.BAD, sentence=sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination(Settings, ABC):
    """One place for results.

    A kind has, besides its own keys, ``kind: Literal[...]`` with the name it has in ``KINDS``.

    Args:
        forms: Forms of a result that it is sent.
    """

    needs: ClassVar[str]  # what the file must say, for the manual
    does: ClassVar[str]  # what becomes of a result, for the manual
    service: ClassVar[str]  # what it is on the network, for the conformance statement
    carries_any_file: ClassVar[bool] = False  # else DICOM objects only

    name: KeyName
    forms: tuple[str, ...] = DEFAULT_FORMS

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong with the keys of this kind; those of all kinds are judged by ``config``."""
        yield from ()

    @abstractmethod
    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Send one object; what the peer does, down to silence, is an outcome."""

    @abstractmethod
    def probe(self) -> Probe:
        """Whether it would take results, without sending it one."""

    @classmethod
    def answers(cls) -> Mapping[str, Mapping[str, Outcome]]:
        """For the conformance statement: examples of answers and what they mean, by their sort."""
        return {}

    @classmethod
    def timeouts_s(cls) -> dict[str, float]:
        """Default of each timeout, by its name."""
        return {
            each.name.removesuffix(_TIMEOUT): each.default
            for each in fields(cls)
            if each.name.endswith(_TIMEOUT) and each.default is not MISSING
        }


def table_of(kinds: Mapping[str, type[Destination]]) -> str:
    """The kinds as the manual shows them, in Markdown."""
    rows = [f"| `{name}` | {kind.needs} | {kind.does} |" for name, kind in kinds.items()]
    return "\n".join(["| kind | needs | does |", "| --- | --- | --- |", *rows, ""])
