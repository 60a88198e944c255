"""Splits a Part 10 stream into what stood before the data set and the data set itself.

Preamble and group 0002 are not kept (the node writes its own), so an executable in a preamble never
reaches the disk. Files without preamble, or without both, are taken as they come. Where group 0002
comes twice the first one counts; what its group length excludes and is not in its encoding is part
of the data set.

Source: PS3.10 7.1, 7.5
"""

from __future__ import annotations

from struct import Struct

from node.domain.errors import InstanceRejected
from node.domain.received import Note
from node.domain.statuses import CANNOT_UNDERSTAND
from node.receive.syntaxes import EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from node.receive.walk import Buffer

MAX_META_BYTES = 64 * 1024

_HEADER = Struct("<HH2sH")
_LONG_LENGTH = Struct("<I")
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_META_GROUP = 0x0002
_GROUP_LENGTH, _TRANSFER_SYNTAX_UID = 0x0000, 0x0010


class Part10Splitter:
    """Takes a stream in pieces of any size and gives back data-set bytes.

    Args:
        is_bare: The stream should be a data set and begins with group 0002 all the same.

    Attributes:
        notes: What was unusual.
    """

    def __init__(self, *, is_bare: bool = False) -> None:
        self.transfer_syntax_uid = ""
        self.has_prefix = False  # PS3.10 7.1
        self.notes: set[Note] = set()
        self._is_bare = is_bare
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
        held, seen = self._held, set[int]()
        meta_end: int | None = 0 if self._is_bare else None
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
                if meta_end is not None and position >= meta_end:
                    return position
                raise _unreadable("not in explicit VR little endian")
            if value + length > MAX_META_BYTES:
                raise _unreadable("longer than 64 KiB")
            if len(held) < value + length:
                if is_end:
                    raise _unreadable("cut off")
                return None
            text = bytes(held[value : value + length])
            if element in seen or self._is_bare:
                self.notes.add(Note.FILE_META_REPEATED)
            elif element == _TRANSFER_SYNTAX_UID:
                self.transfer_syntax_uid = text.rstrip(b" \0").decode("latin-1")
            elif element == _GROUP_LENGTH and length == 4:
                meta_end = value + length + int.from_bytes(text, "little")
            seen.add(element)
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
