"""What stands around a data set as it arrives: the head of a Part 10 file, and deflate."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct

from node.domain.errors import InstanceRejected, Status
from node.domain.received import Note
from node.receive.store import Scratch
from node.receive.syntaxes import EXPLICIT_BIG_UID, EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID
from node.receive.walk import LONG_VRS, Buffer, is_zero

MAX_META_BYTES = 64 * 1024

_HEADER = Struct("<HH2sH")
_LONG_LENGTH = Struct("<I")
_META_GROUP = 0x0002
_GROUP_LENGTH, _TRANSFER_SYNTAX_UID = 0x0000, 0x0010

_CHUNK_BYTES = 256 * 1024
# some writers leave the checksum and length of the gzip format behind the stream; others fill up
# with zeros, which every reader passes over as well: the stream itself says where it ends
_MAX_TRAILER_BYTES = 8
# below this size any ratio is harmless: an empty mask deflates a thousand times
_FREE_BYTES = 64 * 1024 * 1024


class Part10Splitter:
    """Takes a Part 10 stream in pieces of any size and gives back data-set bytes.

    Preamble and group 0002 are not kept (the node writes its own), so an executable in a preamble
    never reaches the disk. Files without preamble, or without both, are taken as they come. Where
    group 0002 comes twice the first one counts; what its group length excludes and is not in its
    encoding is part of the data set.

    Args:
        is_bare: The stream should be a data set and begins with group 0002 all the same.
    Attributes:
        notes: What was unusual.
    Source: PS3.10 7.1, 7.5
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
            if vr in LONG_VRS:
                value += 4
                length = _LONG_LENGTH.unpack_from(held, position + 8)[0]
            elif not vr.isalpha():
                if meta_end is not None and position >= meta_end:
                    return position
                raise _broken_head("not in explicit VR little endian")
            if value + length > MAX_META_BYTES:
                raise _broken_head("longer than 64 KiB")
            if len(held) < value + length:
                if is_end:
                    raise _broken_head("cut off")
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


@contextmanager
def inflated(data: Buffer, scratch: Scratch, max_bytes: int, max_ratio: float) -> Iterator[Buffer]:
    """A deflated data set as a buffer of its inflated bytes; memory stays small.

    Raises:
        InstanceRejected: 0xC000, no deflate stream or one cut off; 0xC030, it grows beyond limits;
            0xA700, no room for it.
    Source: PS3.5 A.5
    """
    limit = min(max_bytes, max(_FREE_BYTES, int(len(data) * max_ratio)))
    try:
        size_bytes = _inflate(data, scratch, limit)
    except zlib.error:
        raise _broken("no deflate stream") from None
    except OSError as error:
        raise InstanceRejected(
            "no room to inflate", dimse_status=Status.OUT_OF_RESOURCES, quarantine=False
        ) from error
    if size_bytes == 0:
        yield b""
        return
    with mmap.mmap(scratch.fileno(), size_bytes, prot=mmap.PROT_READ) as mapped:
        yield mapped


def _inflate(data: Buffer, into: Scratch, limit: int) -> int:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    written = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        pending = bytes(data[start : start + _CHUNK_BYTES])
        while pending and not stream.eof:
            piece = stream.decompress(pending, _CHUNK_BYTES)
            pending = stream.unconsumed_tail
            written += len(piece)
            if written > limit:
                raise InstanceRejected(
                    f"inflates to more than {limit} bytes",
                    dimse_status=Status.INFLATES_BEYOND_LIMIT,
                )
            _append(into, piece)
        if stream.eof:
            end = min(start + _CHUNK_BYTES, len(data)) - len(stream.unused_data)
            left = len(data) - end
            if left > _MAX_TRAILER_BYTES and not is_zero(data, end, len(data)):
                raise _broken(f"{left} bytes follow the deflate stream")
            return written
    # what the last call held back for want of room
    tail = stream.flush()
    if not stream.eof or written + len(tail) > limit:
        raise _broken("the deflate stream is cut off")
    _append(into, tail)
    return written + len(tail)


def _append(into: Scratch, data: bytes) -> None:
    while data:
        data = data[into.write(data) :]


def _broken_head(reason: str) -> InstanceRejected:
    return InstanceRejected(
        f"the file meta information is {reason}", dimse_status=Status.CANNOT_UNDERSTAND
    )


def _broken(reason: str) -> InstanceRejected:
    return InstanceRejected(
        f"the data set cannot be read: {reason}", dimse_status=Status.CANNOT_UNDERSTAND
    )
