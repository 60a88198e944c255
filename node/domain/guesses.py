"""Whoever guesses secrets is made to wait."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

# of one address: to one account, and to all
MOST_GUESSES: Final = 10
MOST_GUESSES_OF_ADDRESS: Final = 100
FORGOTTEN_AFTER_S: Final = 60.0
_KEPT: Final = 10_000


class Guesses:
    """Sign-ins that failed in the last minute; not for use by two threads at once.

    Args:
        now: A clock that does not go back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failed: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def are_too_many(self, address: str, account: str) -> bool:
        """Whether an address has to wait before it tries this account, or any, again."""
        of_account = self._count((address, account)) if account else 0
        return of_account >= MOST_GUESSES or self._count((address, "")) >= MOST_GUESSES_OF_ADDRESS

    def note(self, address: str, account: str) -> None:
        for key in dict.fromkeys(((address, account), (address, ""))):
            times = self._failed.setdefault(key, deque(maxlen=MOST_GUESSES_OF_ADDRESS))
            times.append(self._now())
            self._failed.move_to_end(key)
        while len(self._failed) > _KEPT:
            self._failed.popitem(last=False)

    def _count(self, key: tuple[str, str]) -> int:
        times = self._failed.get(key, ())
        return sum(1 for at in times if self._now() - at < FORGOTTEN_AFTER_S)
