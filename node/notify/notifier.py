"""What notifiers are in general: who is told of what, and how often."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from node.domain.health import HealthCode
from node.domain.notice import Notice, Told
from node.domain.settings import KeyName, Mistake, Seconds, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier(Settings, ABC):
    """One place where people are told.

    A kind has, besides its own keys, ``kind: Literal[...]`` with the name it has in ``KINDS``.

    Args:
        only: Codes of health that are told there; empty: all.
        again_after_s: What begins anew, or grows, so soon after it was told waits until then.
    """

    most_at_once: ClassVar[int] = 1

    name: KeyName
    only: tuple[str, ...] = ()
    again_after_s: Seconds = 300.0

    @abstractmethod
    def send(self, notices: Sequence[Notice]) -> Told:
        """Tell at most ``most_at_once``; what the other side does, down to silence, is an answer."""

    def wants(self, code: str) -> bool:
        return not self.only or code in self.only

    def mistakes(self) -> Iterator[Mistake]:
        for index, code in enumerate(self.only):
            if code not in list(HealthCode):
                yield f"only.{index}", f"no code {code}; there are: {', '.join(HealthCode)}"
        yield from self._own_mistakes()

    def _own_mistakes(self) -> Iterator[Mistake]:
        yield from ()
