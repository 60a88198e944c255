"""What an A-ASSOCIATE-RQ says, and what is answered: bytes in, values out, without IO.

A request is bounded before it is taken apart: by its length, by the number of its items, by what may
stand where. Titles stand at fixed places, so that whoever is no peer costs next to nothing. Unknown
items are passed over, as PS3.8 9.3.1 has it; roles and asynchronous operations are not answered, which
declines them (PS3.7 D.3.3), and neither is a user identity that nobody asks for.

Source: PS3.8 9.3.2 to 9.3.8, Annex D; PS3.7 D.3.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.receive.dimse_messages import (
    INVALID_PDU_PARAMETER,
    PDU_HEADER,
    Context,
    ProtocolFault,
)

APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
A_RELEASE_RP, A_ABORT = 0x06, 0x07

# 128 contexts with every known syntax and a user identity token stay below these.
REQUEST_LIMIT_BYTES = 512 * 1024
ITEM_LIMIT = 8192

_HEAD = struct.Struct(">HH16s16s32s")
HEAD_BYTES = _HEAD.size
_ITEM = struct.Struct(">BxH")
_LENGTH = struct.Struct(">L")
_IDENTITY = struct.Struct(">BBH")
_FIELD_LENGTH = struct.Struct(">H")
_APPLICATION_CONTEXT, _USER_INFORMATION = 0x10, 0x50
_CONTEXT_RQ, _CONTEXT_AC, _ABSTRACT, _TRANSFER = 0x20, 0x21, 0x30, 0x40
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x55
_USER_IDENTITY_RQ, _USER_IDENTITY_AC = 0x58, 0x59
_USERNAME, _PASSCODE = 1, 2
_NO_RESPONSE = b"\0\0"  # of length 0, as types 1 and 2 have it
_ACCEPTED, _ABSTRACT_UNKNOWN, _TRANSFER_UNKNOWN = 0, 3, 4
# of a peer that names none; the smallest that is usual
_USUAL_PDU_BYTES = 16384
_BLANK = " \0"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An A-ASSOCIATE-RJ. PS3.8 Table 9-21"""

    result: int
    source: int
    reason: int


PROTOCOL_VERSION_NOT_SUPPORTED = Refusal(1, 2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The fixed part of a request.

    Args:
        echoed: Both titles and the reserved bytes, which an acceptance repeats. PS3.8 9.3.3
    """

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    echoed: bytes

    @property
    def is_version_1(self) -> bool:
        """Whether bit 0 is set: no other bit is looked at. PS3.8 9.3.2"""
        return bool(self.protocol_version & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One presentation context as it is proposed.

    Args:
        abstract_syntaxes: Just one, or the request is not well formed.
    """

    context_id: int
    abstract_syntaxes: tuple[str, ...]
    transfer_syntaxes: tuple[str, ...]

    @property
    def is_well_formed(self) -> bool:
        return len(self.abstract_syntaxes) == 1 and bool(self.transfer_syntaxes)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a requestor says it is; neither is shown.

    Args:
        kind: 1 to 5; of another one nothing else is known.
        passcode: Empty where its kind has none.
    Source: PS3.7 Table D.3-14
    """

    kind: int
    wants_answer: bool
    username: bytes = field(repr=False)
    passcode: bytes = field(repr=False)

    @property
    def is_supported(self) -> bool:
        """Whether it is a name with or without a passcode: no Kerberos, SAML or JWT."""
        return self.kind in (_USERNAME, _PASSCODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """An A-ASSOCIATE-RQ.

    Args:
        address: Whom the connection comes from.
        peer_max_pdu_bytes: The longest P-DATA-TF that the peer takes; 0: of any length. PS3.8 D.1
        identities: Sub-items of user identity as they came: just one may.
        certificate: As ``ssl`` tells it, empty where the peer showed none; None without TLS.
    """

    head: Head
    address: str
    application_context_name: str
    proposals: tuple[Proposal, ...]
    peer_max_pdu_bytes: int
    identities: tuple[bytes, ...] = field(default=(), repr=False)
    certificate: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Identity | None:
        """Who it says that it is; None where that is not said well.

        Source: PS3.7 Table D.3-14
        """
        if len(self.identities) != 1:
            return None
        (item,) = self.identities
        try:
            kind, wants_answer, length = _IDENTITY.unpack_from(item)
            username, rest = _field(item[_IDENTITY.size :], length)
            (length,) = _FIELD_LENGTH.unpack_from(rest)
            passcode, rest = _field(rest[_FIELD_LENGTH.size :], length)
        except (struct.error, ValueError):
            return None
        return None if rest else Identity(kind, wants_answer == 1, username, passcode)

    @property
    def calling_ae_title(self) -> str:
        return self.head.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        return self.head.called_ae_title

    @property
    def abstract_syntaxes(self) -> frozenset[str]:
        return frozenset(name for each in self.proposals for name in each.abstract_syntaxes)

    @property
    def is_well_formed(self) -> bool:
        """Whether each context has one abstract syntax and a transfer syntax, and there is one."""
        return bool(self.proposals) and all(each.is_well_formed for each in self.proposals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The answer to a request that is let in.

    Args:
        contexts: What was accepted, by context ID.
        pdu: The A-ASSOCIATE-AC.
    """

    contexts: Mapping[int, Context]
    pdu: bytes


def decode_head(body: memoryview) -> Head:
    """The first ``HEAD_BYTES`` of the body of a request.

    Titles lose blanks and NULs at both ends, as dcmtk writes and reads them; other bytes that are not
    ASCII survive, to match nobody.
    """
    version, _, called, calling, _ = _HEAD.unpack_from(body)
    return Head(
        protocol_version=version,
        called_ae_title=_title(called),
        calling_ae_title=_title(calling),
        echoed=bytes(body[4:HEAD_BYTES]),
    )


def decode_request(body: memoryview, address: str) -> AssociationRequest:
    """Take a whole request apart.

    Raises:
        ProtocolFault: It is no request, or holds more items than any honest one.
    """
    if len(body) < HEAD_BYTES:
        raise ProtocolFault("request is cut", INVALID_PDU_PARAMETER)
    items = _Items()
    name, peer_max_pdu_bytes = "", _USUAL_PDU_BYTES
    proposals: dict[int, Proposal] = {}
    identities: list[bytes] = []
    for kind, value in items.of(body[HEAD_BYTES:]):
        if kind == _APPLICATION_CONTEXT:
            name = _uid(value)
        elif kind == _CONTEXT_RQ:
            proposal = _proposal(items, value)
            if proposal.context_id in proposals:
                raise ProtocolFault("context ID is given twice", INVALID_PDU_PARAMETER)
            proposals[proposal.context_id] = proposal
        elif kind == _USER_INFORMATION:
            for part, about in items.of(value):
                if part == _MAXIMUM_LENGTH:
                    if len(about) != _LENGTH.size:
                        raise ProtocolFault("maximum length of no length", INVALID_PDU_PARAMETER)
                    (peer_max_pdu_bytes,) = _LENGTH.unpack(about)
                elif part == _USER_IDENTITY_RQ:
                    identities.append(bytes(about))
    if not name:
        raise ProtocolFault("request without an application context", INVALID_PDU_PARAMETER)
    return AssociationRequest(
        head=decode_head(body),
        address=address,
        application_context_name=name,
        proposals=tuple(proposals.values()),
        peer_max_pdu_bytes=peer_max_pdu_bytes,
        identities=tuple(identities),
    )


def accept(
    request: AssociationRequest,
    supported: Mapping[str, Sequence[str]],
    max_pdu_bytes: int,
    *,
    is_user_known: bool = False,
) -> Acceptance:
    """Answer each context: of the transfer syntaxes that are proposed, ours comes first in our order.

    Args:
        supported: Abstract syntax -> transfer syntaxes, the first preferred.
        max_pdu_bytes: The longest P-DATA-TF that is taken here.
        is_user_known: Whether the user identity was verified: then it is answered where that is wanted.
    """
    contexts: dict[int, Context] = {}
    answers = []
    for each in request.proposals:
        abstract, offered = each.abstract_syntaxes[0], each.transfer_syntaxes
        ours = supported.get(abstract)
        chosen = next((syntax for syntax in ours or () if syntax in offered), None)
        result = _ABSTRACT_UNKNOWN if ours is None else _TRANSFER_UNKNOWN
        if chosen is not None:
            result = _ACCEPTED
            contexts[each.context_id] = Context(abstract, chosen)
        # a refused one names a syntax too, which nobody looks at: PS3.8 9.3.3.2
        syntax = _item(_TRANSFER, (chosen or offered[0]).encode("ascii", "replace"))
        answers.append(_item(_CONTEXT_AC, bytes([each.context_id, 0, result, 0]) + syntax))
    information = (
        _item(_MAXIMUM_LENGTH, _LENGTH.pack(max_pdu_bytes))
        + _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode())
        + _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode())
    )
    if is_user_known and request.identity is not None and request.identity.wants_answer:
        information += _item(_USER_IDENTITY_AC, _NO_RESPONSE)
    body = b"".join(
        (
            b"\0\1\0\0",
            request.head.echoed,
            _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode()),
            *answers,
            _item(_USER_INFORMATION, information),
        )
    )
    return Acceptance(contexts=contexts, pdu=_pdu(A_ASSOCIATE_AC, body))


def reject(refusal: Refusal) -> bytes:
    """An A-ASSOCIATE-RJ. PS3.8 9.3.4"""
    return _pdu(A_ASSOCIATE_RJ, bytes([0, refusal.result, refusal.source, refusal.reason]))


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT. PS3.8 9.3.8"""
    return _pdu(A_ABORT, bytes([0, 0, source, reason]))


def release_reply() -> bytes:
    """An A-RELEASE-RP. PS3.8 9.3.7"""
    return _pdu(A_RELEASE_RP, bytes(4))


class _Items:
    """Walks items, and counts them over the whole request."""

    def __init__(self) -> None:
        self._left = ITEM_LIMIT

    def of(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Type and value of each item.

        Raises:
            ProtocolFault: One is cut, or there are too many.
        """
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise ProtocolFault("request of too many items", INVALID_PDU_PARAMETER)
            if len(data) - at < _ITEM.size:
                raise ProtocolFault("item header is cut", INVALID_PDU_PARAMETER)
            kind, length = _ITEM.unpack_from(data, at)
            at += _ITEM.size
            if length > len(data) - at:
                raise ProtocolFault("item is longer than what holds it", INVALID_PDU_PARAMETER)
            yield kind, data[at : at + length]
            at += length


def _proposal(items: _Items, value: memoryview) -> Proposal:
    if len(value) < 4 or value[0] % 2 == 0:
        raise ProtocolFault("context ID is no odd number", INVALID_PDU_PARAMETER)
    abstract, transfer = [], []
    for kind, name in items.of(value[4:]):
        if kind == _ABSTRACT:
            abstract.append(_uid(name))
        elif kind == _TRANSFER:
            transfer.append(_uid(name))
    return Proposal(
        context_id=value[0],
        abstract_syntaxes=tuple(abstract),
        transfer_syntaxes=tuple(transfer),
    )


def _field(data: bytes, length: int) -> tuple[bytes, bytes]:
    """A field of so many bytes, and what follows it."""
    if length > len(data):
        raise ValueError("a field is longer than what holds it")
    return data[:length], data[length:]


def _title(value: bytes) -> str:
    return value.decode("ascii", "surrogateescape").strip(_BLANK)


def _uid(value: memoryview) -> str:
    return bytes(value).decode("ascii", "replace").strip(_BLANK)


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _pdu(kind: int, body: bytes) -> bytes:
    return PDU_HEADER.pack(kind, len(body)) + body
