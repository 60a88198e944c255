"""Splits a Part 10 stream into what stood before the data set and the data set itself.

Preamble and group 0002 are not kept (the node writes its own), so an executable in a preamble never
reaches the disk. Files without preamble, or without both, are taken as they come.

Source: PS3.10 7.1, 7.5
"""

from __future__ import annotations

from struct import Struct

from node.domain.errors import InstanceRejected
from node.receive.statuses import CANNOT_UNDERSTAND
from node.receive.syntaxes import EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from node.receive.walk import Buffer

MAX_META_BYTES = 64 * 1024

_HEADER = Struct("<HH2sH")
_LONG_LENGTH = Struct("<I")
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_META_GROUP = 0x0002
_TRANSFER_SYNTAX_UID = 0x0010


class Part10Splitter:
    """Takes a stream in pieces of any size and gives back data-set bytes."""

    def __init__(self) -> None:
        self.transfer_syntax_uid = ""
        self.has_prefix = False  # PS3.10 7.1
        self._held = bytearray()
        self._is_past_meta = False

    def feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """The data-set bytes among those seen so far that were not given yet.

        Raises:
            InstanceRejected: 0xC000, group 0002 cannot be read.
        """
        if self._is_past_meta:
            return data
        self._held += data
        return self._split(is_end=False)

    def end(self) -> bytes:
        """What is left when the stream ended before it was clear where the data set starts."""
        return b"" if self._is_past_meta else self._split(is_end=True)

    def _split(self, *, is_end: bool) -> bytes:
        held = self._held
        if len(held) < 132 and not is_end:
            return b""
        self.has_prefix = held[128:132] == b"DICM"
        start = self._data_set_start(132 if self.has_prefix else 0, is_end)
        if start is None:
            return b""
        self._is_past_meta, self._held = True, bytearray()
        return bytes(held[start:])

    def _data_set_start(self, position: int, is_end: bool) -> int | None:
        """Where group 0002 ends; None when more bytes are needed to tell."""
        held = self._held
        while True:
            if len(held) < position + 12 and not is_end:
                return None
            if len(held) < position + 8 or held[position : position + 2] != b"\x02\x00":
                return position
            _, element, vr, length = _HEADER.unpack_from(held, position)
            value = position + 8
            if vr in _LONG:
                value += 4
                length = _LONG_LENGTH.unpack_from(held, position + 8)[0]
            elif not vr.isalpha():
                raise _unreadable("not in explicit VR little endian")
            if value + length > MAX_META_BYTES:
                raise _unreadable("longer than 64 KiB")
            if len(held) < value + length:
                if is_end:
                    raise _unreadable("cut off")
                return None
            if element == _TRANSFER_SYNTAX_UID:
                text = bytes(held[value : value + length])
                self.transfer_syntax_uid = text.rstrip(b" \0").decode("latin-1")
            position = value + length


def guess_transfer_syntax(content: Buffer) -> str:
    """The native syntax of a data set whose file does not name it, by its first element header."""
    head = bytes(content[:6])
    if not head[4:6].isalpha() or not head[4:6].isupper():
        return IMPLICIT_LITTLE_UID
    # the first group of a data set is low: big endian has its zero byte in front
    return EXPLICIT_BIG_UID if head[0] == 0 and head[1] else EXPLICIT_LITTLE_UID


def _unreadable(reason: str) -> InstanceRejected:
    return InstanceRejected(
        f"the file meta information is {reason}", dimse_status=CANNOT_UNDERSTAND
    )
