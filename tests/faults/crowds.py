"""Those that connect and are silent, drip, flood or do not read: each is ended, and nobody waits for them.

F04, F05, F11, F57. Most stand for as long as the node lets them, which is its own deadline.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from tests.faults.case import Case, Expected, Target, is_closed
from tests.support import raw_dimse as raw
from tests.support.http_server import BOUNDARY, MULTIPART

# deadlines of a node as it comes: 30 s for a request, 30 s of pace, 60 s of silence, 15 s of headers
_MOST_S = 130.0
_DRIP_S = 1.0

Begin = Callable[[Target], socket.socket]


def _held(begin: Begin, number: int, drips: bool, target: Target) -> str:
    """Hold so many lines, a byte a second on each, until the node has ended them all."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        lines = [stack.enter_context(begin(target)) for _ in range(number)]
        open_lines = lines
        while open_lines and time.monotonic() - began_s < _MOST_S:
            if drips:
                for line in open_lines:
                    with suppress(OSError):
                        line.settimeout(1.0)
                        line.send(b"x")
            time.sleep(_DRIP_S)
            open_lines = [line for line in open_lines if not _is_over(line)]
        took_s = time.monotonic() - began_s
    ended = len(lines) - len(open_lines)
    return f"{ended} of {number} ended" + (" in time" if took_s < _MOST_S else "")


def _is_over(line: socket.socket) -> bool:
    """Whether the node ended it; what it said before is read and left."""
    line.settimeout(0.01)
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _dimse_line(target: Target) -> socket.socket:
    return target.line().connection


def _half_request(target: Target) -> socket.socket:
    line = target.line().connection
    line.sendall(raw.associate_request(called=target.called.encode())[:90])
    return line


def _begun_store(target: Target) -> socket.socket:
    client = target.association()
    client.command(1, raw.store_command("1.2.3"))
    client.send(raw.pdu(raw.P_DATA, raw.pdv(1, 0x00, bytes(16_000)))[:100])
    return client.connection


def _idle_association(target: Target) -> socket.socket:
    return target.association().connection


def _http_line(target: Target) -> socket.socket:
    return target.site.connect()


def _half_headers(target: Target) -> socket.socket:
    line = target.site.connect()
    line.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nX: ")
    return line


def _begun_body(target: Target) -> socket.socket:
    line = target.site.connect()
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: {target.host}\r\nContent-Type: {MULTIPART}\r\n"
        f"Content-Length: 50000000\r\n\r\n--{BOUNDARY}\r\n"
    )
    line.sendall(head.encode())
    return line


def _deaf(target: Target) -> str:
    """Echoes without end, of which no answer is read, until the node takes no more of them."""
    echo = raw.pdu(raw.P_DATA, raw.pdv(3, 0x03, raw.echo_command()))
    client = target.association()
    with client.connection as line:
        line.settimeout(1.0)
        end_s = time.monotonic() + _MOST_S
        try:
            while time.monotonic() < end_s:
                with suppress(TimeoutError):
                    line.sendall(echo * 200)
        except OSError:
            return "ended"
    return "not ended"


def _deaf_http(target: Target) -> str:
    """Requests in a row of which no answer is read."""
    ask = f"GET /api/v1/openapi.json HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
    with target.site.connect() as line:
        line.settimeout(1.0)
        end_s = time.monotonic() + _MOST_S
        try:
            while time.monotonic() < end_s:
                with suppress(TimeoutError):
                    line.sendall(ask * 100)
        except OSError:
            return "ended"
    return "not ended"


def _many_bare(connect: Begin, number: int, target: Target) -> str:
    """So many bare connections at once, held for some seconds; a newcomer displaces the oldest."""
    with ExitStack() as stack:
        lines: list[socket.socket] = []
        for _ in range(number):
            with suppress(OSError):
                lines.append(stack.enter_context(connect(target)))
        time.sleep(3.0)
        left = sum(not is_closed(line) for line in lines)
    return f"{left} held" if left > 200 else "at most 200 held"


def _tls_beside_idle(number: int, target: Target) -> str:
    """Idle lines on the port of TLS, and an echo over TLS beside them."""
    assert target.tls is not None
    with ExitStack() as stack:
        for _ in range(number):
            address = (target.host, target.tls_port)
            stack.enter_context(socket.create_connection(address, 10))
        began_s = time.monotonic()
        with raw.RawAssociation(target.tls_port, target.host, 30, tls=target.tls) as client:
            client.request(called=target.called.encode())
            word = f"echo {client.echo():04X}"
        return word + (" at once" if time.monotonic() - began_s < 2 else " late")


def _no_hands(sent: bytes, target: Target) -> str:
    """Bytes that are no handshake, where TLS is spoken."""
    with socket.create_connection((target.host, target.tls_port), 10) as line:
        line.sendall(sent)
        return "closed" if _closes(line) else "held"


def _closes(line: socket.socket) -> bool:
    line.settimeout(40.0)
    try:
        while line.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _ended(number: int) -> Expected:
    return Expected(
        sentence="all ended at their deadline", pattern=f"{number} of {number} ended in time"
    )


_CUT = Expected(sentence="ended", pattern="ended")
_FEW = Expected(sentence="the oldest make room", pattern="at most 200 held")


def cases(*, has_tls: bool) -> Iterator[Case]:
    """All of this module, in the order in which they are run."""
    standing: Sequence[tuple[str, str, Begin, int, bool, bool]] = (
        ("F04", "60 silent connections", _dimse_line, 60, False, False),
        ("F04", "50 that ask by half", _half_request, 50, False, False),
        ("F05", "60 requests that drip", _half_request, 60, True, False),
        ("F05", "15 C-STORE that drip", _begun_store, 15, True, False),
        ("page", "15 associations that say nothing", _idle_association, 15, False, False),
        ("F57", "60 silent connections", _http_line, 60, False, True),
        ("F57", "60 header blocks that drip", _half_headers, 60, True, True),
        ("F57", "16 bodies that drip", _begun_body, 16, True, True),
    )
    for identity, name, begin, number, drips, on_http in standing:
        yield Case(
            id=identity,
            name=f"{name} of {'HTTP' if on_http else 'DIMSE'}",
            attack=partial(_held, begin, number, drips),
            expected=_ended(number),
            on_http=on_http,
            is_long=True,
        )
    for on_http, connect in ((False, _dimse_line), (True, _http_line)):
        yield Case(
            id="page",
            name=f"1 000 bare connections of {'HTTP' if on_http else 'DIMSE'}",
            attack=partial(_many_bare, connect, 1000),
            expected=_FEW,
            on_http=on_http,
        )
    yield Case(id="page", name="no answer is read", attack=_deaf, expected=_CUT, is_long=True)
    yield Case(
        id="page",
        name="no answer of HTTP is read",
        attack=_deaf_http,
        expected=_CUT,
        on_http=True,
        is_long=True,
    )
    if not has_tls:
        return
    yield Case(
        id="F11",
        name="60 idle connections where TLS is spoken",
        attack=partial(_tls_beside_idle, 60),
        expected=Expected(
            sentence="an echo over TLS is served at once", pattern="echo 0000 at once"
        ),
    )
    yield Case(
        id="F11",
        name="a request without TLS where it is spoken",
        attack=partial(_no_hands, raw.associate_request()),
        expected=Expected(sentence="closed", pattern="closed"),
    )
