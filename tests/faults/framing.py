"""PDUs, requests and command sets that no well-behaved peer sends.

Source: PS3.8 9.3, PS3.7 9.3; F01 to F14, F32 to F34.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from tests.faults.case import (
    Case,
    Expected,
    Target,
    aborted,
    first_word,
    last_words,
    told,
)
from tests.support import raw_dimse as raw

UNRECOGNIZED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = 1, 2, 5, 6
# the longest request that is taken, or nearly so
BIG_BYTES = 470_000
# titles and names that try to write a line of their own, or to colour one
FORGED = "2030-01-01T00:00:00.000+00:00 error   FORGED"
UID = "1.2.826.0.1.3680043.8.498.13"

STORE = raw.store_command("1.2.3")
WHOLE = raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, STORE))


def without(number: int, encoded: bytes) -> bytes:
    """A command set without one of its elements."""
    return raw.command_set(
        {key: value for key, value in raw.decode(encoded).items() if key not in (0, number)}
    )


def with_field(field: int, *, has_data_set: bool = False) -> bytes:
    """A request of another operation."""
    return raw.command_set(
        {
            0x0002: raw.uid(raw.CT_IMAGE_STORAGE),
            0x0100: raw.us(field),
            0x0110: raw.us(7),
            0x0800: raw.us(0x0000 if has_data_set else 0x0101),
        }
    )


FRAMING: Mapping[str, tuple[bytes, int]] = {
    "F01: PDU beyond what we advertise": (
        struct.pack(">BxL", raw.P_DATA, 600_000_000),
        INVALID_PARAMETER,
    ),
    "F01: PDU one byte too long": (struct.pack(">BxL", raw.P_DATA, 131073), INVALID_PARAMETER),
    "F01: PDU of 4 GB": (struct.pack(">BxL", raw.P_DATA, 0xFFFFFFFF), INVALID_PARAMETER),
    "F02: PDU of unknown type": (b"\xff" + bytes(9), UNRECOGNIZED_PDU),
    "F02: PDU of type 0": (bytes(10), UNRECOGNIZED_PDU),
    "F32: P-DATA without a PDV": (raw.pdu(raw.P_DATA, b""), INVALID_PARAMETER),
    "F32: PDV of length 0": (raw.pdu(raw.P_DATA, struct.pack(">LBB", 0, 1, 3)), INVALID_PARAMETER),
    "F32: PDV of length 1": (raw.pdu(raw.P_DATA, struct.pack(">LBB", 1, 1, 3)), INVALID_PARAMETER),
    "F32: PDV header cut": (raw.pdu(raw.P_DATA, b"\0\0"), INVALID_PARAMETER),
    "F32: PDV past the end of its PDU": (
        raw.pdu(raw.P_DATA, struct.pack(">LBB", 5000, 1, 3) + b"abc"),
        INVALID_PARAMETER,
    ),
    "F32: PDV of 4 GB": (
        raw.pdu(raw.P_DATA, struct.pack(">LBB", 0xFFFFFFFF, 1, 3) + b"abc"),
        INVALID_PARAMETER,
    ),
    "F32: control header with unknown bits": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x83, STORE)),
        INVALID_PARAMETER,
    ),
    "F32: command that never ends": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x01, bytes(8000))) * 4,
        INVALID_PARAMETER,
    ),
    "F33: command set of noise": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, b"\xde\xad\xbe\xef" * 5)),
        INVALID_PARAMETER,
    ),
    "F33: element longer than the command set": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, struct.pack("<HHL", 0, 2, 9999))),
        INVALID_PARAMETER,
    ),
    "F33: no CommandField": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, without(0x0100, STORE))),
        UNEXPECTED_PDU,
    ),
    "F33: no Message ID": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, without(0x0110, STORE))),
        INVALID_PARAMETER,
    ),
    "F33: a response nobody asked for": (
        raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, with_field(0x8001))),
        UNEXPECTED_PDU,
    ),
    "F32: a context that was not accepted": (
        raw.pdu(raw.P_DATA, raw.pdv(99, 0x03, STORE)),
        UNEXPECTED_PARAMETER,
    ),
    "F32: data on another context than its command": (
        WHOLE + raw.pdu(raw.P_DATA, raw.pdv(5, 0x02, b"abc")),
        UNEXPECTED_PARAMETER,
    ),
    "F32: data without a command": (raw.pdu(raw.P_DATA, raw.pdv(1, 0x02, b"abc")), UNEXPECTED_PDU),
    "F32: a command inside a data set": (WHOLE + WHOLE, UNEXPECTED_PDU),
}
"""What is sent on an open association, and the reason of the A-ABORT that answers it."""

NOISE: Mapping[str, bytes] = {
    "F02: HTTP": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "F02: zeros": bytes(20),
    "F02: ones": b"\xff" * 100,
    "F02: TLS where none is spoken": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    "F06: P-DATA": raw.pdu(raw.P_DATA, b"abc"),
    "F06: A-RELEASE-RQ": raw.pdu(raw.RELEASE_RQ, bytes(4)),
    "F03: a request of no length": raw.pdu(raw.ASSOCIATE_RQ, b""),
    "F03: a request of one byte": raw.pdu(raw.ASSOCIATE_RQ, b"\0"),
    "F03: a request of zeros": raw.pdu(raw.ASSOCIATE_RQ, bytes(200)),
    "F04: a request of 4 GB": struct.pack(">BxL", raw.ASSOCIATE_RQ, 0xFFFFFFFF) + bytes(1000),
}
"""What is sent in place of a request; each is answered by A-ABORT or a rejection."""


def big_request(size_bytes: int, *, calling: bytes = b"RAW", called: bytes = b"SEGNODE") -> bytes:
    """A request that is as long as one may be, of items that nobody knows."""
    padding = raw.item(0x77, bytes(60_000))
    return raw.associate_request(
        calling=calling, called=called, more_items=padding * (size_bytes // len(padding))
    )


# --- cases ----------------------------------------------------------------------------------------


def _on_open(sent: bytes, target: Target) -> str:
    with target.association() as client:
        client.send(sent)
        return last_words(client)


def _on_bare(sent: bytes, target: Target) -> str:
    with target.line() as client:
        client.send(sent)
        return last_words(client)


def _asked(request: Callable[[Target], bytes], target: Target) -> str:
    """A request, and whether an echo works on what it opened."""
    with target.line() as client:
        client.send(request(target))
        answer = client.read()
        if answer.kind != raw.ASSOCIATE_AC:
            return f"{told(answer)}, {last_words(client)}" if answer.kind else "closed"
        accepted = sum(result == 0 for result, _ in raw.accepted(answer).values())
        contexts = f"accept {accepted} contexts"
        return f"{contexts}, echo {client.echo():04X}" if accepted else contexts


def _request(**changes: object) -> Callable[[Target], bytes]:
    return lambda target: raw.associate_request(
        **{"called": target.called.encode(), **changes}  # type: ignore[arg-type]
    )


_ANSWERED = Expected(
    sentence="A-ABORT, a rejection or an acceptance, never silence",
    pattern=r"(abort|reject) [0-9/]+, closed|accept \d contexts(, echo 0000)?",
)
_REJECTED = Expected(sentence="rejected with its reason", pattern="reject 1/[12]/[1237], closed")
_TAKEN = Expected(sentence="accepted as any other", pattern="accept 3 contexts, echo 0000")
_BROKEN_OFF = Expected(sentence="A-ABORT or a rejection", pattern="(abort|reject) [0-9/]+, closed")


def _two_identities(kind: int, primary: bytes, *, length: int | None = None) -> bytes:
    """A user identity sub-item. PS3.7 D.3.3.7"""
    size = len(primary) if length is None else length
    return raw.item(0x58, struct.pack(">BBH", kind, 1, size) + primary + b"\0\0")


_SECRET = b"TOP-SECRET-TOKEN."
_MANY = tuple(
    (f"1.2.840.10008.5.1.4.1.1.{n}", (raw.EXPLICIT_VR_LITTLE_ENDIAN,)) for n in range(128)
)

REQUESTS: Mapping[str, tuple[Callable[[Target], bytes], Expected]] = {
    "F07: context ID 0": (_request(context_ids=(0, 3, 5)), _BROKEN_OFF),
    "F07: even context IDs": (_request(context_ids=(2, 4, 6)), _BROKEN_OFF),
    "F07: a context ID twice": (_request(context_ids=(1, 1, 3)), _BROKEN_OFF),
    "F07: context ID 255": (_request(context_ids=(255, 3, 5)), _ANSWERED),
    "F07: no context": (_request(offers=()), _ANSWERED),
    "F07: a context without transfer syntax": (
        _request(offers=((raw.CT_IMAGE_STORAGE, ()),)),
        _BROKEN_OFF,
    ),
    "F07: 128 contexts of which none is known": (
        _request(offers=_MANY),
        Expected(sentence="answered", pattern=r"accept \d+ contexts(, echo [0-9A-F]{4})?"),
    ),
    "F09: calling title of blanks": (_request(calling=b" " * 16), _REJECTED),
    "F09: calling title of 0xFF": (_request(calling=b"\xff" * 16), _REJECTED),
    "F09: calling title that is SQL": (_request(calling=b"'; DROP TABLE x"), _REJECTED),
    "F09: calling title that is a path": (_request(calling=b"../../etc/passw"), _REJECTED),
    "F09: a title that writes a line of the log": (
        _request(calling=b"X\r\n" + FORGED[:13].encode()),
        _REJECTED,
    ),
    "F09: a called title that colours the log": (
        lambda _: raw.associate_request(called=b"\x1b[31mRED\x07"),
        _REJECTED,
    ),
    "page: titles padded with NUL": (
        lambda target: raw.associate_request(
            calling=b"RAW".ljust(16, b"\0"), called=target.called.encode().ljust(16, b"\0")
        ),
        _TAKEN,
    ),
    "page: a protocol version without bit 0": (
        _request(version=2),
        Expected(sentence="rejected: 1/2/2", pattern="reject 1/2/2, closed"),
    ),
    "page: a protocol version with more bits than bit 0": (_request(version=0xFFFF), _TAKEN),
    "page: another application context": (
        _request(application_context="1.2.3"),
        Expected(sentence="rejected: 1/1/2", pattern="reject 1/1/2, closed"),
    ),
    "page: user information that nobody knows": (
        _request(user_items=raw.item(0x7E, bytes(500)) * 20),
        _TAKEN,
    ),
    "page: items without end": (
        _request(more_items=raw.item(0x77, b"") * 9000),
        _BROKEN_OFF,
    ),
    "page: a request of 470 KB, all of it unknown": (
        lambda target: big_request(BIG_BYTES, called=target.called.encode()),
        _TAKEN,
    ),
    "F10: a token of 64 KB as user identity": (
        _request(user_items=_two_identities(5, (_SECRET * 4000)[:60_000])),
        _TAKEN,
    ),
    "F10: a user identity longer than its item": (
        _request(user_items=_two_identities(2, _SECRET, length=65_000)),
        _ANSWERED,
    ),
    "F10: a user identity of type 9": (_request(user_items=_two_identities(9, _SECRET)), _ANSWERED),
}


def _second_request(target: Target) -> str:
    with target.association() as client:
        client.send(raw.associate_request(called=target.called.encode()))
        return last_words(client)


def _releases(target: Target) -> str:
    with target.association() as client:
        client.send(raw.pdu(raw.RELEASE_RQ, bytes(4)) * 200)
        return first_word(client)


def _released_and_held(target: Target) -> str:
    with target.association() as client:
        client.send(raw.pdu(raw.RELEASE_RQ, bytes(4)))
        return last_words(client)


def _answered(*sent: Callable[[raw.RawAssociation], object]) -> Callable[[Target], str]:
    """Send, read one response, and echo on the same association."""

    def attack(target: Target) -> str:
        with target.association() as client:
            for send in sent:
                send(client)
            status = raw.status(client.response())
            return f"status {status:04X}, echo {client.echo():04X}"

    return attack


def _status(sentence: str, pattern: str) -> Expected:
    return Expected(sentence=sentence, pattern=f"status ({pattern}), echo 0000")


def _command(encoded: bytes, data: bytes = b"") -> Callable[[Target], str]:
    def data_set(client: raw.RawAssociation) -> None:
        if data:
            client.data(1, data)

    return _answered(lambda client: client.command(1, encoded), data_set)


def _cut_off(end: str, target: Target) -> str:
    """A C-STORE that ends in the middle; the next association works."""
    client = target.association()
    client.command(1, raw.store_command(f"{UID}.{len(end)}"))
    client.data(1, bytes(1_000_000), is_whole=False)
    {"abort": client.abort, "reset": client.reset, "close": client.connection.close}[end]()
    client.connection.close()
    with target.association() as other:
        return f"echo {other.echo():04X}"


def _aborts_at_once(target: Target) -> str:
    with target.association() as client:
        client.command(1, STORE)
        client.abort()
        words = last_words(client)
    with target.association() as other:
        return f"{words}, echo {other.echo():04X}"


_GOES_ON = Expected(sentence="the next association is served", pattern="echo 0000")
_TALK: Mapping[str, tuple[Callable[[Target], str], Expected]] = {
    "F08: a second request": (_second_request, aborted(UNEXPECTED_PDU)),
    "F12: a reset in the middle of an image": (partial(_cut_off, "reset"), _GOES_ON),
    "F12: an end of the stream in the middle of an image": (partial(_cut_off, "close"), _GOES_ON),
    "F13: A-ABORT in the middle of an image": (partial(_cut_off, "abort"), _GOES_ON),
    "F13: A-ABORT between command and data set": (
        _aborts_at_once,
        Expected(sentence="closed; the next one is served", pattern="closed, echo 0000"),
    ),
    "F14: 200 A-RELEASE-RQ in a row": (
        _releases,
        Expected(sentence="released or aborted", pattern="release|abort 2/2"),
    ),
    "F14: released, and the line is held": (
        _released_and_held,
        Expected(sentence="released and closed", pattern="release, closed"),
    ),
    "F19: a C-STORE that says it has no data set": (
        _command(raw.store_command("1.2.3", data_set_type=0x0101)),
        _status("cannot be understood", "C000"),
    ),
    "F20: a class of another context": (
        _command(raw.store_command("1.2.3", sop_class_uid=raw.MR_IMAGE_STORAGE), b"abc"),
        _status("does not match: A900", "A900"),
    ),
    "F23: no Affected SOP Instance UID": (
        _command(raw.store_command(None), b"abc"),
        _status("mistyped argument", "0212|C000"),
    ),
    "F24: an instance UID that writes a line of the log": (
        _command(raw.store_command(f"1.2\r\n{FORGED[:40]}"), b"abc"),
        _status("cannot be understood", "C[0-9A-F]{3}|A900"),
    ),
    "page: a class that was not negotiated": (
        _command(raw.store_command("1.2.3", sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1"), b"abc"),
        _status("not supported", "0122"),
    ),
    **{
        f"F33: operation {field:04X}H, {'with' if data else 'without'} a data set": (
            _command(with_field(field, has_data_set=bool(data)), data),
            _status("not recognized: 0211", "0211"),
        )
        for field in (0x0020, 0x0021, 0x0140, 0x7777)
        for data in (b"", bytes(40_000))
    },
}


def _flood(request: bytes, target: Target) -> str:
    """Eight that send one big request after the other, four each."""
    lines = [target.line() for _ in range(8)]
    words = set()
    for _ in range(4):
        for line in lines:
            line.send(request)
        words |= {told(line.read()) for line in lines}
        for line in lines:
            line.connection.close()
        lines = [target.line() for _ in range(8)]
    for line in lines:
        line.connection.close()
    return ", ".join(sorted(words))


def cases() -> Iterator[Case]:
    """All of this module, in the order in which they are run."""
    for name, (sent, reason) in FRAMING.items():
        yield _case(name, partial(_on_open, sent), aborted(reason))
    for name, sent in NOISE.items():
        yield _case(name, partial(_on_bare, sent), _BROKEN_OFF)
    for name, (request, expected) in REQUESTS.items():
        yield _case(name, partial(_asked, request), expected)
    for name, (attack, expected) in _TALK.items():
        yield _case(name, attack, expected)
    yield Case(
        id="page",
        name="eight send 470 KB for a title that is not ours",
        attack=partial(_flood, big_request(BIG_BYTES, called=b"NOBODY")),
        expected=Expected(sentence="rejected: 1/1/7", pattern="reject 1/1/7"),
    )


def _case(name: str, attack: Callable[[Target], str], expected: Expected) -> Case:
    identity, _, words = name.partition(": ")
    return Case(id=identity, name=words, attack=attack, expected=expected)
