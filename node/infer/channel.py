"""Messages between a runner and its child: JSON objects, each behind its length.

Nothing is pickled: what a crashed or hostile library leaves on the line cannot become code.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024

_LENGTH = struct.Struct(">I")


class ChannelBroken(Exception):
    """What came over the line is not a message."""


def send(line: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message whole.

    Raises:
        OSError: The other side is gone.
        ValueError: The message is too long, or holds what JSON cannot.
    """
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a message of {len(body)} bytes")
    line.sendall(_LENGTH.pack(len(body)) + body)


class Inbox:
    """Puts the pieces of a stream together again."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages completed by these bytes, oldest first.

        Raises:
            ChannelBroken: The stream holds something else.
        """
        self._pending += data
        messages: list[Message] = []
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MESSAGE_LIMIT_BYTES:
                raise ChannelBroken(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._pending) < end:
                break
            messages.append(_decoded(bytes(self._pending[_LENGTH.size : end])))
            del self._pending[:end]
        return messages


def _decoded(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise ChannelBroken("not JSON") from error
    if not isinstance(message, dict):
        raise ChannelBroken("not an object")
    return message
