"""What is to be looked at, and when: by time until it is due, then in the order in which it became due."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

_Item = TypeVar("_Item", bound=Hashable)

# stale times are left in the heap up to so many, and as many as there are times in force
_STALE = 64


class Agenda(Generic[_Item]):
    """Items that have a time, and those that are due, in a queue."""

    def __init__(self) -> None:
        self._times: dict[_Item, float] = {}
        self._heap: list[tuple[float, int, _Item]] = []
        self._puts = 0  # of equal times the first comes first, and items are not compared
        self._due: OrderedDict[_Item, None] = OrderedDict()

    def put(self, item: _Item, at: float) -> None:
        """Have an item come due at a time; never where that is infinite."""
        if at == inf:
            self._times.pop(item, None)
            return
        self._times[item] = at
        self._puts += 1
        heappush(self._heap, (at, self._puts, item))
        if len(self._heap) > _STALE + 2 * len(self._times):
            self._heap = [each for each in self._heap if self._times.get(each[2]) == each[0]]
            heapify(self._heap)

    def wish(self, item: _Item) -> None:
        """Have an item looked at in its turn; one that is due keeps its place."""
        self._times.pop(item, None)
        self._due.setdefault(item)

    def come_due(self, now: float) -> Sequence[_Item]:
        """Take out what has its time at last, the earliest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            at, _, item = heappop(self._heap)
            if self._times.get(item) == at:
                del self._times[item]
                found.append(item)
        return found

    def first(self) -> _Item | None:
        """What has been due for the longest; it stays until it is done."""
        return next(iter(self._due), None)

    def done(self, item: _Item) -> None:
        """It was looked at; a time that it was given meanwhile stays."""
        self._due.pop(item, None)

    def drop(self, item: _Item) -> None:
        """Nobody wishes to look at it any more."""
        self._times.pop(item, None)
        self._due.pop(item, None)
