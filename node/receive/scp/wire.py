"""A socket and its buffer: whole PDUs in, answers out, each within its bounds.

Nothing is copied between the kernel and whoever takes a PDU's body. A PDU longer than its type may be
is refused by its header; memory grows as bytes come, never by what a header promises. Under TLS the socket
is one of ``ssl``: its handshake is made step by step, as bytes come.

Source: PS3.8 9.3.1 (PDU header), D.1 (maximum length).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from node.receive.dimse_messages import (
    INVALID_PDU_PARAMETER,
    P_DATA_TF,
    PDU_HEADER,
    UNRECOGNIZED_PDU,
    ProtocolFault,
)
from node.receive.scp.negotiation import REQUEST_LIMIT_BYTES

_FIRST_BUFFER_BYTES = 1024
_FIXED_BYTES = 4
# How long a read may hold its thread before it looks around, and a write in all.
_PATIENCE_S = 0.25
_SEND_LIMIT_S = 20.0
_TIMEVAL = struct.Struct("@ll")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


_NOT_NOW = (
    BlockingIOError,
    InterruptedError,
    TimeoutError,
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
)


class LineLost(Exception):
    """The connection is broken, or its peer does not read what is sent."""


class Wire:
    """One connection.

    Args:
        max_pdu_bytes: The maximum length that the association advertises.
    Attributes:
        heard_at_s: When bytes came last, on the monotonic clock; a long answer may set it anew.
        heard_bytes: How many came so far.
        waited_s: How long was waited for them: what this side takes over an answer is not in it.
    """

    def __init__(self, connection: socket.socket, max_pdu_bytes: int) -> None:
        self._connection = connection
        self._tls = connection if isinstance(connection, ssl.SSLSocket) else None
        self._has_shaken_hands = self._tls is None
        self._largest = {
            **dict.fromkeys((0x01, 0x02), REQUEST_LIMIT_BYTES),
            **dict.fromkeys((0x03, 0x05, 0x06, 0x07), _FIXED_BYTES),
            P_DATA_TF: max_pdu_bytes,
        }
        # two of the longest, so that one is read while the other is taken apart
        self._capacity = 2 * (max_pdu_bytes + PDU_HEADER.size)
        self._buffer = memoryview(bytearray(_FIRST_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._may_wait = False
        self.heard_at_s = time.monotonic()
        self.heard_bytes = 0
        self.waited_s = 0.0
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setblocking(False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def wait_from_now_on(self) -> None:
        """Reads and writes may hold their thread: a thread of its own takes over."""
        self._may_wait = True
        if self._tls is not None:  # which waits by itself, and takes the kernel's end for a failure
            self._connection.settimeout(_PATIENCE_S)
            return
        self._connection.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            value = _TIMEVAL.pack(int(_PATIENCE_S), int(_PATIENCE_S % 1 * 1_000_000))
            self._connection.setsockopt(socket.SOL_SOCKET, option, value)

    def shake_hands(self) -> bool:
        """Go on with the handshake of TLS; whether it is over, as it is at once without TLS.

        Raises:
            OSError: It failed.
        """
        if self._tls is not None and not self._has_shaken_hands:
            try:
                self._tls.do_handshake()
            except _NOT_NOW:
                return False
            self._has_shaken_hands = True
        return True

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """What the peer showed and an authority vouches for; None without TLS."""
        return None if self._tls is None else self._tls.getpeercert() or {}

    @property
    def holds_more(self) -> bool:
        """Whether bytes wait that were deciphered already: no selector tells of them."""
        return self._tls is not None and self._has_shaken_hands and self._tls.pending() > 0

    def fill(self) -> bool:
        """Read what has come; False at the end of the stream.

        Raises:
            LineLost: The connection is broken.
        """
        self._make_room()
        began_s = time.monotonic()
        try:
            size = self._connection.recv_into(self._buffer[self._end :])
        except _NOT_NOW:
            self.waited_s += time.monotonic() - began_s
            return True
        except OSError as error:
            raise LineLost from error
        self._end += size
        self.heard_bytes += size
        self.heard_at_s = time.monotonic()
        self.waited_s += self.heard_at_s - began_s
        if _QUICKACK is not None:
            # The kernel leaves this mode by itself: a peer whose Nagle algorithm is on would wait
            # 40 ms for each delayed acknowledgement.
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return size > 0

    def send(self, data: bytes) -> None:
        """Send all of it, in ``_SEND_LIMIT_S`` at most, or at once.

        Raises:
            LineLost: The connection is broken, or the peer does not read.
        """
        rest, deadline_s = memoryview(data), time.monotonic() + _SEND_LIMIT_S
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except _NOT_NOW as busy:
                if not self._may_wait or time.monotonic() > deadline_s:
                    raise LineLost from busy
            except OSError as error:
                raise LineLost from error
        self.heard_at_s = time.monotonic()  # the time we took is not the peer's silence

    def whole_pdu(self) -> int:
        """Length of the PDU at the front of the buffer, its header included; 0 while it is cut.

        Raises:
            ProtocolFault: No such PDU type, or longer than this type may be.
        """
        if self._end - self._start < PDU_HEADER.size:
            return 0
        pdu_type, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        limit = self._largest.get(pdu_type)
        if limit is None:
            raise ProtocolFault("no such PDU type", UNRECOGNIZED_PDU)
        if length > limit:
            raise ProtocolFault("PDU is longer than allowed", INVALID_PDU_PARAMETER)
        whole = PDU_HEADER.size + int(length)
        return whole if self._end - self._start >= whole else 0

    @property
    def is_empty(self) -> bool:
        """Whether all that came was taken."""
        return self._start == self._end

    @property
    def next_type(self) -> int | None:
        """Type of the PDU at the front of the buffer; None where nothing came."""
        return self._buffer[self._start] if self._end > self._start else None

    def body_so_far(self) -> memoryview:
        """What has come of the body of the PDU at the front, valid until the next ``fill``."""
        return self._buffer[self._start + PDU_HEADER.size : self._end]

    def take_body(self) -> memoryview:
        """The body of the whole PDU at the front, valid until the next ``fill``."""
        first, self._start = self._start + PDU_HEADER.size, self._start + self.whole_pdu()
        return self._buffer[first : self._start]

    def end_sending(self) -> None:
        """Nothing follows: the peer reads the end of the stream after what was sent."""
        with suppress(OSError):
            self._connection.setblocking(False)
        if self._tls is not None and self._has_shaken_hands:
            with suppress(OSError, ValueError):  # what the peer says to it is not waited for
                self._tls.unwrap()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Read and forget what has come; False at the end of the stream or of the connection."""
        self._start = self._end = 0
        try:
            return self.fill()
        except LineLost:
            return False

    def cut(self) -> None:
        """End both directions: whoever waits here is woken."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _make_room(self) -> None:
        """Space for more, if possible without moving anything."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._end < len(self._buffer):
            return
        waiting = self._buffer[self._start : self._end]
        size = len(self._buffer)
        if 2 * len(waiting) > size:
            largest = max(self._capacity, PDU_HEADER.size + PDU_HEADER.unpack_from(waiting)[1])
            size = min(2 * size, largest)
        if size > len(self._buffer):
            larger = memoryview(bytearray(size))
            larger[: len(waiting)] = waiting
            self._buffer = larger
        else:
            self._buffer[: len(waiting)] = waiting  # an overlapping move is safe here
        self._start, self._end = 0, len(waiting)
