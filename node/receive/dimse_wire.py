"""The socket of one association: PDUs out of one reused buffer.

Nothing is copied between the kernel and whoever takes a PDU's body, and a PDU longer than its type
may be is refused by its header, before its body is read.

Source: PS3.8 9.3.1 (PDU header), D.1 (maximum length).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping

from node.receive.dimse_command import INVALID_PDU_PARAMETER, UNRECOGNIZED_PDU, ProtocolFault
from node.receive.dimse_transfer import P_DATA_TF

_HEADER = struct.Struct(">BxL")
_FIRST_BUFFER_BYTES = 16 * 1024
# 128 contexts with every known syntax and a user identity token stay below this.
_NEGOTIATION_LIMIT_BYTES = 512 * 1024
_FIXED_BYTES = 4
# How long a read or write may hold its thread before it looks around.
PATIENCE_S = 0.25
_SEND_LIMIT_S = 20.0
_TIMEVAL = struct.Struct("@ll")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Wire:
    """Reads whole PDUs from a connected socket.

    Args:
        max_pdu_bytes: The maximum length that the association advertises.
    Attributes:
        heard_at_s: When bytes came last, on the monotonic clock; a long answer may set it anew.
    """

    def __init__(self, connection: socket.socket, max_pdu_bytes: int) -> None:
        self._connection = connection
        self._largest: Mapping[int, int] = {
            0x01: _NEGOTIATION_LIMIT_BYTES,
            0x02: _NEGOTIATION_LIMIT_BYTES,
            0x03: _FIXED_BYTES,
            P_DATA_TF: max_pdu_bytes,
            0x05: _FIXED_BYTES,
            0x06: _FIXED_BYTES,
            0x07: _FIXED_BYTES,
        }
        self._capacity = 2 * (max_pdu_bytes + _HEADER.size)
        self._buffer = memoryview(bytearray(min(_FIRST_BUFFER_BYTES, self._capacity)))
        self._start = 0
        self._end = 0
        self.heard_at_s = time.monotonic()
        _prepare(connection)

    def fill(self) -> bool:
        """Read what has come, waiting ``PATIENCE_S`` at most; False at the end of the stream.

        Raises:
            OSError: The connection is broken.
        """
        self._make_room()
        try:
            size = self._connection.recv_into(self._buffer[self._end :])
        except (BlockingIOError, InterruptedError):
            return True
        self._end += size
        self.heard_at_s = time.monotonic()
        if _QUICKACK is not None:
            # The kernel leaves this mode by itself: a peer whose Nagle algorithm is on would wait
            # 40 ms for each delayed acknowledgement.
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return size > 0

    def whole_pdu(self) -> int:
        """Length of the PDU at the front of the buffer, its header included; 0 while it is cut.

        Raises:
            ProtocolFault: No such PDU type, or longer than this type may be.
        """
        if self._end - self._start < _HEADER.size:
            return 0
        pdu_type, length = _HEADER.unpack_from(self._buffer, self._start)
        limit = self._largest.get(pdu_type)
        if limit is None:
            raise ProtocolFault("no such PDU type", UNRECOGNIZED_PDU)
        if length > limit:
            raise ProtocolFault("PDU is longer than allowed", INVALID_PDU_PARAMETER)
        whole = _HEADER.size + int(length)
        return whole if self._end - self._start >= whole else 0

    @property
    def next_type(self) -> int:
        """Type of the PDU at the front of the buffer."""
        return self._buffer[self._start]

    def take(self, size: int) -> memoryview:
        """The next bytes of the buffer, valid until the next ``fill``."""
        taken = self._buffer[self._start : min(self._start + size, self._end)]
        self._start += len(taken)
        return taken

    def take_body(self, whole: int) -> memoryview:
        """The body of the PDU of ``whole`` bytes at the front, valid until the next ``fill``."""
        return self.take(whole)[_HEADER.size :]

    def put_back(self, data: bytes) -> None:
        """Let ``data`` be taken next; what was in front of it has been taken."""
        rest = bytes(self._buffer[self._start : self._end])
        if len(data) + len(rest) > len(self._buffer):
            self._buffer = memoryview(bytearray(len(data) + len(rest)))
        self._start, self._end = 0, len(data) + len(rest)
        self._buffer[: self._end] = data + rest

    def discard_buffered(self) -> None:
        """Forget what was read and not taken."""
        self._start = self._end = 0

    def discard(self) -> bool:
        """Read and forget what has come; False at the end of the stream or of the connection."""
        self.discard_buffered()
        try:
            return self.fill()
        except OSError:
            return False

    def _make_room(self) -> None:
        """Space for more, if possible without moving anything."""
        if self._start == self._end:
            self._start = self._end = 0
        waiting = self._buffer[self._start : self._end]
        needed = _HEADER.size
        if len(waiting) >= _HEADER.size:
            needed += _HEADER.unpack_from(waiting)[1]
        if needed > _FIRST_BUFFER_BYTES // 2 and len(self._buffer) < max(needed, self._capacity):
            larger = memoryview(bytearray(max(needed, self._capacity)))
            larger[: len(waiting)] = waiting
            self._buffer, self._start, self._end = larger, 0, len(waiting)
        elif self._start + needed > len(self._buffer) or self._end == len(self._buffer):
            self._buffer[: len(waiting)] = waiting  # an overlapping move is safe here
            self._start, self._end = 0, len(waiting)


def _prepare(connection: socket.socket) -> None:
    """No waiting for more to send, and no call that holds a thread for long."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setblocking(True)
    for option, seconds in ((socket.SO_RCVTIMEO, PATIENCE_S), (socket.SO_SNDTIMEO, _SEND_LIMIT_S)):
        value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, option, value)
