"""The way of a request's body from the event loop to the thread that stores it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from node.receive.store import HEARTBEAT_S

BUFFERED_BYTES: Final = 2 * 1024**2


class BodyPipe:
    """Carries a body from the event loop to a thread, and holds the loop's reader back when full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self._ended = False
        self._left = False
        self._room = asyncio.Event()
        self.is_whole = False

    async def put(self, piece: bytes) -> bool:
        """Append a piece, waiting for room; False when nobody reads any more."""
        with self._changed:
            if self._left:
                return False
            self._pieces.append(piece)
            self._size_bytes += len(piece)
            self._changed.notify()
            if self._size_bytes < BUFFERED_BYTES:
                return True
            self._room.clear()
        await self._room.wait()
        return True

    def end(self, *, is_whole: bool = False) -> None:
        """No more pieces come; the first call decides whether the body is whole."""
        with self._changed:
            if not self._ended:
                self._ended, self.is_whole = True, is_whole
            self._changed.notify()

    def leave(self) -> None:
        """Nobody reads any more: called in the event loop."""
        with self._changed:
            self._left = True
            self._pieces.clear()
        self._room.set()

    @property
    def waiting_bytes(self) -> int:
        """What has come and was not taken yet."""
        with self._changed:
            return self._size_bytes

    def pieces(self) -> Iterator[bytes]:
        """What was put, in order; an empty piece whenever ``HEARTBEAT_S`` passed without any."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended, HEARTBEAT_S)
                taken, is_over = list(self._pieces), self._ended
                self._pieces.clear()
                self._size_bytes = 0
            with suppress(RuntimeError):  # the loop is closed: nobody waits for room
                self._loop.call_soon_threadsafe(self._room.set)
            yield from taken
            if is_over:
                return
            if not taken:
                yield b""
