"""One case of the fault suite: what is sent, and what a node should make of it.

An answer is a short text, such as ``abort 2/6, closed`` or ``status C000``, so that a table can show what
came where something else was expected.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support import raw_dimse as raw
from tests.support.http_server import Site
from tests.support.raw_dimse import Offer, Pdu, RawAssociation

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
IMPLICIT_CONTEXT, DEFLATED_CONTEXT, JPEG_CONTEXT = 7, 9, 11
OFFERS: Sequence[Offer] = (
    *raw.STORAGE_AND_ECHO,
    (raw.CT_IMAGE_STORAGE, (raw.IMPLICIT_VR_LITTLE_ENDIAN,)),
    (raw.CT_IMAGE_STORAGE, (DEFLATED,)),
    (raw.CT_IMAGE_STORAGE, (JPEG_BASELINE,)),
)
# how long a node may think: above all it waits for by itself, below what a person would wait
ANSWER_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """The node under attack.

    Args:
        http_port, tls_port: 0 where that is not attacked.
        called: Its AE title.
    """

    dicom_port: int
    http_port: int = 0
    tls_port: int = 0
    host: str = "127.0.0.1"
    called: str = "SEGNODE"
    tls: ssl.SSLContext | None = None

    def line(self) -> RawAssociation:
        """A connection on which nothing was said."""
        return RawAssociation(self.dicom_port, self.host, ANSWER_S)

    def association(self, offers: Sequence[Offer] = OFFERS) -> RawAssociation:
        """One that was accepted."""
        line = self.line()
        answer = line.request(offers, called=self.called.encode())
        if answer.kind != raw.ASSOCIATE_AC:
            line.connection.close()
            raise ConnectionError(f"no association: {told(answer)}")
        return line

    @property
    def site(self) -> Site:
        return Site(self.http_port, self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What should come of an attack.

    Args:
        pattern: Of the whole answer.
    """

    sentence: str
    pattern: str

    def holds(self, answer: str) -> bool:
        return re.fullmatch(self.pattern, answer) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is sent and what is expected.

    Args:
        id: Of the list of faults, or "page" for the attacks that the receiver was built against.
        attack: Sends it and says what came of it.
        on_http: Whether it needs HTTP; then an honest STOW client is watched as well.
        is_long: It takes more than some seconds, or hundreds of megabytes.
        beside: An honest series is sent meanwhile, and must become a job in its usual time.
        kept_aside: Words of the reason that quarantine or held series show afterwards.
    """

    id: str
    name: str
    attack: Callable[[Target], str]
    expected: Expected
    on_http: bool = False
    is_long: bool = False
    beside: bool = False
    kept_aside: str = ""

    @property
    def title(self) -> str:
        return f"{self.id} {self.name}"


def told(pdu: Pdu) -> str:
    """A PDU as a word."""
    if pdu.kind == raw.ABORT:
        return f"abort {pdu.body[2]}/{pdu.body[3]}"
    if pdu.kind == raw.ASSOCIATE_RJ:
        return f"reject {pdu.body[1]}/{pdu.body[2]}/{pdu.body[3]}"
    words = {
        raw.CLOSED.kind: "closed",
        raw.ASSOCIATE_AC: "accept",
        raw.P_DATA: "data",
        raw.RELEASE_RP: "release",
    }
    return words.get(pdu.kind, f"PDU {pdu.kind:02X}")


def last_words(client: RawAssociation) -> str:
    """All that the node says until it closes."""
    words = []
    while not words or words[-1] != "closed":
        words.append(_next_word(client))
        if words[-1] == "silence":
            break
    return ", ".join(words)


def first_word(client: RawAssociation) -> str:
    """What the node says next."""
    return _next_word(client)


def _next_word(client: RawAssociation) -> str:
    try:
        return told(client.read())
    except TimeoutError:
        return "silence"


def is_closed(line: socket.socket, within_s: float = 0.01) -> bool:
    """Whether the node has closed a line."""
    line.settimeout(within_s)
    try:
        return line.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def aborted(reason: int) -> Expected:
    """A-ABORT by the provider. PS3.8 Table 9-26"""
    return Expected(
        sentence=f"A-ABORT by the provider, reason {reason}", pattern=f"abort 2/{reason}, closed"
    )


REFUSED = Expected(
    sentence="a status of failure, and the association goes on",
    pattern="status (C[0-9A-F]{3}|A9[0-9A-F]{2}), echo 0000",
)
