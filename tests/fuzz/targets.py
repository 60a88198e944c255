"""What reads bytes of strangers, each as a function that may refuse them in one way and in no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from node.domain.errors import InstanceRejected
from node.receive.dimse_messages import ProtocolFault, decode_command
from node.receive.mime import (
    MediaTypeMalformed,
    MultipartMalformed,
    MultipartReader,
    PartStarted,
    boundary_of,
    parse_media_type,
)
from node.receive.scp.negotiation import HEAD_BYTES, decode_head, decode_request
from node.receive.walk import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, walk, walk_head
from tests.faults.content import CONTENT, ct, implicit_ct
from tests.faults.framing import FRAMING, NOISE
from tests.support import raw_dimse as raw

Target = Callable[[bytes], None]
_MOST_ELEMENTS = 20_000


def data_set(data: bytes) -> None:
    """The walk of the ingest; and where it takes a data set, the walk of its beginning agrees."""
    for encoding in (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG):
        try:
            whole = walk(data, encoding, max_elements=_MOST_ELEMENTS)
        except InstanceRejected:
            continue
        head = walk_head(data, encoding)
        if head is not None and not whole.notes:
            before = {tag: each for tag, each in head.elements.items() if tag < 0x7FE00008}
            assert before.items() <= whole.elements.items()


def request(data: bytes) -> None:
    """A-ASSOCIATE-RQ behind its PDU header; of a shorter one nothing is decoded."""
    if len(data) < HEAD_BYTES:
        return
    with suppress(ProtocolFault):
        decode_head(memoryview(data))
        decode_request(memoryview(data), "192.0.2.1")


def command(data: bytes) -> None:
    """A command set."""
    with suppress(ProtocolFault):
        decode_command(data)


def multipart(data: bytes) -> None:
    """A body, in one piece and in pieces of seven bytes: the same parts, or the same refusal."""
    assert _parts(data, len(data) or 1) == _parts(data, 7)


def media_type(data: bytes) -> None:
    """A Content-Type."""
    with suppress(MediaTypeMalformed, MultipartMalformed):
        boundary_of(parse_media_type(data.decode("latin-1")))


def _parts(data: bytes, step: int) -> list[bytes] | None:
    reader, parts = MultipartReader(b"x"), list[bytes]()
    try:
        for start in range(0, len(data), step):
            for event in reader.feed(data[start : start + step]):
                if isinstance(event, PartStarted):
                    parts.append(b"")
                elif isinstance(event, memoryview):
                    parts[-1] += event
        reader.finish()
    except MultipartMalformed:
        return None
    return parts


TARGETS: Mapping[str, Target] = {
    each.__name__: each for each in (data_set, request, command, multipart, media_type)
}

_BODY = b"--x\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--x\r\n\r\ndef\r\n--x--\r\n"
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "data_set": (ct(), implicit_ct(), *(each for each in CONTENT.values() if len(each) < 20_000)),
    "request": (raw.associate_request()[6:], *(sent[6:] for sent in NOISE.values())),
    "command": (
        raw.store_command("1.2.3"),
        raw.echo_command(),
        *(s[6:] for s, _ in FRAMING.values()),
    ),
    "multipart": (_BODY, _BODY.replace(b"\r\n", b"\n"), _BODY[:-6]),
    "media_type": (b'multipart/related; type="application/dicom"; boundary=x', b"text/plain"),
}
