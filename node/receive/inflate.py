"""Deflated data sets: inflated beside the file, with a cap on bytes and on ratio.

Source: PS3.5 A.5
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from node.domain.errors import InstanceRejected
from node.domain.statuses import (
    CANNOT_UNDERSTAND,
    INFLATES_BEYOND_LIMIT,
    OUT_OF_RESOURCES,
)
from node.receive.walk import Buffer

_CHUNK_BYTES = 256 * 1024
# some writers leave the checksum and length of the gzip format behind the stream; others fill up
# with zeros, which every reader passes over as well: the stream itself says where it ends
_MAX_TRAILER_BYTES = 8
# below this size any ratio is harmless: an empty mask deflates a thousand times
_FREE_BYTES = 64 * 1024 * 1024


@contextmanager
def inflated(
    data: Buffer, scratch: BinaryIO, *, max_bytes: int, max_ratio: float
) -> Iterator[Buffer]:
    """A deflated data set as a buffer of its inflated bytes; memory stays small.

    Raises:
        InstanceRejected: 0xC000, no deflate stream or one cut off; 0xC030, it grows beyond limits;
            0xA700, no room for it.
    """
    limit = min(max_bytes, max(_FREE_BYTES, int(len(data) * max_ratio)))
    try:
        size_bytes = _inflate(data, scratch, limit)
        scratch.flush()
    except zlib.error:
        raise _broken("no deflate stream") from None
    except OSError as error:
        raise InstanceRejected(
            "no room to inflate", dimse_status=OUT_OF_RESOURCES, quarantine=False
        ) from error
    if size_bytes == 0:
        yield b""
        return
    with mmap.mmap(scratch.fileno(), size_bytes, prot=mmap.PROT_READ) as mapped:
        yield mapped


def _inflate(data: Buffer, into: BinaryIO, limit: int) -> int:
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
                    f"inflates to more than {limit} bytes", dimse_status=INFLATES_BEYOND_LIMIT
                )
            into.write(piece)
        if stream.eof:
            end = min(start + _CHUNK_BYTES, len(data)) - len(stream.unused_data)
            left = len(data) - end
            if left > _MAX_TRAILER_BYTES and not _is_zero(data, end):
                raise _broken(f"{left} bytes follow the deflate stream")
            return written
    # what the last call held back for want of room
    tail = stream.flush()
    if not stream.eof or written + len(tail) > limit:
        raise _broken("the deflate stream is cut off")
    into.write(tail)
    return written + len(tail)


def _is_zero(data: Buffer, position: int) -> bool:
    return not any(
        bytes(data[at : at + _CHUNK_BYTES]).strip(b"\0")
        for at in range(position, len(data), _CHUNK_BYTES)
    )


def _broken(reason: str) -> InstanceRejected:
    return InstanceRejected(
        f"the data set cannot be read: {reason}", dimse_status=CANNOT_UNDERSTAND
    )
