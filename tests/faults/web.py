"""STOW requests and HTTP that no well-behaved client sends.

Source: RFC 9112, RFC 2046, PS3.18 10.5; F40 to F58.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from tests.faults.case import ANSWER_S, Case, Expected, Target
from tests.faults.content import ct, file_head
from tests.faults.framing import FORGED
from tests.support.http_server import BOUNDARY, MULTIPART, body_of

STUDIES = "/dicom-web/studies"
UID = "1.2.826.0.1.3680043.8.498.54"
_PIECE_BYTES = 1 << 20


def part10(uid: str = UID) -> bytes:
    """The small CT as a file."""
    return file_head(uid) + ct(uid)


FILE = part10()


def _head(target: Target, *fields: str, path: str = STUDIES, host: str = "") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host or target.host}",
        f"Content-Type: {MULTIPART}",
        *fields,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def statuses(line: socket.socket) -> str:
    """Statuses of all answers until the node closes, or says no more."""
    line.settimeout(ANSWER_S)
    came = b""
    with suppress(TimeoutError, ConnectionError):
        while part := line.recv(65536):
            came += part
            line.settimeout(5.0)
    found = re.findall(rb"HTTP/1\.1 (\d{3})", came)
    return ", ".join(code.decode() for code in found) or "closed"


def _talk(pieces: Callable[[Target], Iterable[bytes]], target: Target) -> str:
    """Send what is sent until the node has enough, and read what it answered."""
    with target.site.connect() as line:
        with suppress(ConnectionError):
            for piece in pieces(target):
                line.sendall(piece)
        return statuses(line)


def _raw(*fields: str, body: bytes = b"", **how: str) -> Callable[[Target], str]:
    def pieces(target: Target) -> Iterator[bytes]:
        yield _head(target, "Connection: close", *fields, **how) + body

    return partial(_talk, pieces)


def _posted(body: bytes, target: Target, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = target.site.request("POST", STUDIES, body, {"Content-Type": MULTIPART, **named})
    return str(answer.status)


def _got(path: str, target: Target, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return str(target.site.request("GET", path, headers=named).status)


def _is(*codes: int, sentence: str = "") -> Expected:
    words = " or ".join(map(str, codes))
    return Expected(sentence=sentence or words, pattern="|".join(map(str, codes)))


_BOTH_LENGTHS = "Content-Length: 5\r\nTransfer-Encoding: chunked"
# a request inside the body of another one, which only one of two readers would see
_SMUGGLED = (
    f"0\r\n\r\nPOST {STUDIES}/1.2.3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".encode()
)
_JSON = json.dumps(
    [{"7FE00010": {"vr": "OW", "BulkDataURI": "http://169.254.169.254/latest/meta-data"}}]
).encode()
_XML = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;">
<!ENTITY x SYSTEM "file:///etc/passwd">]><NativeDicomModel>&c;&x;</NativeDicomModel>"""


def _typed(kind: str) -> str:
    return MULTIPART.replace("application/dicom", kind)


def _chunked(chunks: Callable[[], Iterable[bytes]]) -> Callable[[Target], str]:
    def pieces(target: Target) -> Iterator[bytes]:
        yield _head(target, "Transfer-Encoding: chunked", "Connection: close")
        for chunk in chunks():
            yield f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
        yield b"0\r\n\r\n"

    return partial(_talk, pieces)


def _tiny_parts() -> Iterator[bytes]:
    part = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\nx".encode()
    for _ in range(100):
        yield part * 1000
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def _endless_part() -> Iterator[bytes]:
    """One part of noise that goes on for 600 MB, and whose end is missing."""
    yield f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    for _ in range(600):
        yield b"\xff" * _PIECE_BYTES


def _endless_headers(target: Target) -> Iterator[bytes]:
    yield _head(target)[:-2]
    for number in range(200_000):
        yield f"X-{number}: {'y' * 100}\r\n".encode()


def _endless_part_header() -> Iterator[bytes]:
    yield f"\r\n--{BOUNDARY}\r\n".encode()
    for number in range(100_000):
        yield f"X-{number}: {'y' * 100}\r\n".encode()


def _endless_preamble() -> Iterator[bytes]:
    for _ in range(300):
        yield b"\r\n--" * (_PIECE_BYTES // 4)


_LENGTH = f"Content-Length: {len(body_of(FILE))}"
_CASES: Mapping[str, tuple[Callable[[Target], str], Expected]] = {
    "F41: one good part and one of noise": (
        lambda target: _posted(body_of(part10(f"{UID}.41"), b"\x01garbage" * 50), target),
        _is(202),
    ),
    "F42: another boundary": (
        lambda target: _posted(
            body_of(FILE), target, Content_Type=MULTIPART.replace(BOUNDARY, "another")
        ),
        _is(400),
    ),
    "F42: no boundary": (
        lambda target: _posted(
            body_of(FILE), target, Content_Type='multipart/related; type="application/dicom"'
        ),
        _is(400),
    ),
    "F42: a boundary of 5 000 characters": (
        lambda target: _posted(
            body_of(FILE), target, Content_Type=MULTIPART.replace(BOUNDARY, "b" * 5000)
        ),
        _is(400),
    ),
    "F43: a part of text/html": (
        lambda target: _posted(body_of(FILE, part_headers="Content-Type: text/html"), target),
        _is(409),
    ),
    "F44: delimiters that end with LF": (
        lambda target: _posted(body_of(FILE).replace(b"\r\n", b"\n"), target),
        _is(400),
    ),
    "F45: a body without its end": (
        lambda target: _posted(body_of(FILE, close=False)[:-100], target),
        _is(400),
    ),
    "F46: an empty body": (lambda target: _posted(b"", target), _is(400)),
    "F46: no parts": (lambda target: _posted(f"\r\n--{BOUNDARY}--\r\n".encode(), target), _is(400)),
    "F47: metadata and bulk data": (
        lambda target: _posted(
            body_of(_JSON, part_headers="Content-Type: application/dicom+json"),
            target,
            Content_Type=_typed("application/dicom+json"),
        ),
        _is(415),
    ),
    "F48: a bulk data URI elsewhere": (
        lambda target: _posted(
            body_of(_JSON, part_headers="Content-Type: application/dicom+json"), target
        ),
        _is(409),
    ),
    "F50: noise as the only part": (
        lambda target: _posted(body_of(b"\x01garbage" * 50), target),
        _is(400, 409),
    ),
    "F51: another study than the path": (
        _raw(_LENGTH, body=body_of(FILE), path=f"{STUDIES}/1.2.3"),
        _is(409),
    ),
    "F52: a path that climbs": (
        _raw(_LENGTH, body=body_of(FILE), path=f"{STUDIES}/abc..%2f..%2fetc"),
        _is(400),
    ),
    "F52: a path of dots": (
        _raw(_LENGTH, body=body_of(FILE), path="/dicom-web/studies/../../etc/passwd"),
        _is(400, 404, 405),
    ),
    "F53: a length of 4 TB": (_raw(f"Content-Length: {1 << 42}", body=FILE[:200]), _is(413)),
    "F53: a length shorter than the body": (
        _raw("Content-Length: 300", body=body_of(FILE)),
        Expected(sentence="400, and what follows is no request", pattern="400(, 400)?"),
    ),
    "F54: both lengths": (_raw(_BOTH_LENGTHS, body=_SMUGGLED), _is(400)),
    "F54: two lengths": (
        _raw("Content-Length: 5\r\nContent-Length: 6", body=b"hello"),
        _is(400),
    ),
    "F54: two codings of the body": (
        _raw("Transfer-Encoding: chunked, identity", body=_SMUGGLED),
        _is(400, 501),
    ),
    "F54: a coding that looks like chunked": (
        _raw("Transfer-Encoding: xchunked", body=_SMUGGLED),
        _is(400, 411, 501),
    ),
    "F54: a blank before the colon": (
        _raw("Content-Length : 5", body=b"hello"),
        _is(400),
    ),
    "F54: a folded field": (
        _raw("X: y\r\n Content-Length: 5", body=b""),
        _is(400),
    ),
    "F54: a negative length": (_raw("Content-Length: -1"), _is(400)),
    "F54: a chunk of 2^68 bytes": (
        _raw("Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFF\r\nhello"),
        _is(400),
    ),
    "F55: 10 000 header fields": (
        _raw(*(f"X-{n}: {n}" for n in range(10_000))),
        _is(431),
    ),
    "F55: headers without end": (partial(_talk, _endless_headers), _is(431)),
    "F55: a part header without end": (_chunked(_endless_part_header), _is(400)),
    "F55: a preamble without end": (_chunked(_endless_preamble), _is(400)),
    "F56: a gzip bomb": (
        lambda target: _posted(gzip.compress(bytes(50_000_000)), target, Content_Encoding="gzip"),
        _is(415),
    ),
    "F56: a zip as a part": (
        lambda target: _posted(
            body_of(b"PK\x03\x04" + bytes(500), part_headers="Content-Type: application/zip"),
            target,
        ),
        _is(409),
    ),
    "F58: entities that grow": (
        lambda target: _posted(
            body_of(_XML, part_headers="Content-Type: application/dicom+xml"),
            target,
            Content_Type=_typed("application/dicom+xml"),
        ),
        _is(415),
    ),
    "F58: JSON 10 000 deep": (
        lambda target: _posted(
            body_of(b"[" * 10_000, part_headers="Content-Type: application/dicom+json"), target
        ),
        _is(409),
    ),
    "F60b: another method": (
        lambda target: str(target.site.request("DELETE", STUDIES).status),
        _is(405),
    ),
    "F60b: TRACE": (lambda target: str(target.site.request("TRACE", STUDIES).status), _is(405)),
    "page: another host's name": (
        lambda target: _got("/api/v1/series", target, Host="evil.example"),
        _is(403),
    ),
    "page: a page of another site": (
        lambda target: _posted(body_of(FILE), target, Origin="http://evil.example"),
        _is(403),
    ),
    "page: a path that writes a line of the log": (
        lambda target: _got(f"/api/v1/%0d%0a{FORGED.replace(' ', '%20')}%1b%5b31m", target),
        _is(404),
    ),
    "page: a field that writes a line of the log": (
        _raw(f"X: y\rX\x0b{FORGED}", body=b""),
        _is(400),
    ),
    "page: a name in Host that writes a line": (
        lambda target: _got("/api/v1/series", target, Host=f"evil\x1b[31m{FORGED[:10]}"),
        _is(400, 403),
    ),
    "page: limits beyond all numbers": (
        lambda target: _got(f"/api/v1/series?limit={10**30}&after={'9' * 5000}", target),
        _is(400, 404, 422),
    ),
    "page: a UID of the API that is a path": (
        lambda target: _got("/api/v1/series/..%2f..%2f..%2fetc%2fpasswd", target),
        _is(404, 422),
    ),
    "page: a result of the API that is none": (
        lambda target: _got("/api/v1/results/9999999999999999999999/file", target),
        _is(400, 404, 422),
    ),
}
_LONG: Mapping[str, tuple[Callable[[Target], str], Expected]] = {
    "F54: a chunk of 4 GB that does not come": (
        _raw("Transfer-Encoding: chunked", body=b"FFFFFFFF\r\nhello"),
        Expected(sentence="waited for, not allocated", pattern="closed|408"),
    ),
    "F54: a part of 600 MB without its end": (_chunked(_endless_part), _is(400)),
    "F55: 100 000 parts": (_chunked(_tiny_parts), _is(413)),
}


def cases() -> Iterator[Case]:
    """All of this module, in the order in which they are run."""
    for is_long, named in ((False, _CASES), (True, _LONG)):
        for name, (attack, expected) in named.items():
            identity, _, words = name.partition(": ")
            yield Case(
                id=identity,
                name=words,
                attack=attack,
                expected=expected,
                on_http=True,
                is_long=is_long,
                beside=is_long,
            )
