"""A C-STORE client made of bytes: it can send what no library would.

Independent of pynetdicom and of the node: it writes its own PDUs and reads its own answers.

Source: PS3.8 9.3 (PDUs), PS3.7 9.3 (command sets).
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.support.waiting import PATIENCE_S

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 0x04, 0x05, 0x06, 0x07

Offer = tuple[str, Sequence[str]]
STORAGE_AND_ECHO: tuple[Offer, ...] = (
    (CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    (MR_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
)


@dataclass(frozen=True)
class Pdu:
    """One PDU as it came; ``kind`` 0 stands for a closed connection."""

    kind: int
    body: bytes


CLOSED = Pdu(0, b"")


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


def uid(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return raw + b"\0" * (len(raw) % 2)


def us(number: int) -> bytes:
    return struct.pack("<H", number)


def command_set(elements: Mapping[int, bytes], group_length: int | None = None) -> bytes:
    body = b"".join(element(number, value) for number, value in sorted(elements.items()))
    length = len(body) if group_length is None else group_length
    return element(0x0000, struct.pack("<L", length)) + body


def store_command(
    sop_instance_uid: str | bytes | None,
    *,
    sop_class_uid: str | None = CT_IMAGE_STORAGE,
    message_id: int = 1,
    data_set_type: int = 0x0000,
) -> bytes:
    elements = {
        0x0100: us(0x0001),
        0x0110: us(message_id),
        0x0700: us(0),
        0x0800: us(data_set_type),
    }
    if sop_class_uid is not None:
        elements[0x0002] = uid(sop_class_uid)
    if sop_instance_uid is not None:
        elements[0x1000] = uid(sop_instance_uid)
    return command_set(elements)


def echo_command(message_id: int = 1, sop_class_uid: str = VERIFICATION) -> bytes:
    return command_set(
        {
            0x0002: uid(sop_class_uid),
            0x0100: us(0x0030),
            0x0110: us(message_id),
            0x0800: us(0x0101),
        }
    )


def associate_request(
    offers: Sequence[Offer] = STORAGE_AND_ECHO,
    *,
    calling: bytes = b"RAW",
    called: bytes = b"SEGNODE",
    application_context: str = APPLICATION_CONTEXT,
    max_pdu_bytes: int = 16384,
    context_ids: Sequence[int] | None = None,
    version: int = 1,
    user_items: bytes = b"",
    more_items: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ.

    Args:
        user_items: Sub-items of the user information behind maximum length and implementation class.
        more_items: Items behind the user information.
    """
    ids = context_ids or range(1, 2 * len(offers), 2)
    items = [item(0x10, application_context.encode())]
    for context_id, (abstract, transfers) in zip(ids, offers, strict=True):
        syntaxes = item(0x30, abstract.encode())
        syntaxes += b"".join(item(0x40, transfer.encode()) for transfer in transfers)
        items.append(item(0x20, bytes([context_id, 0, 0, 0]) + syntaxes))
    user = item(0x51, struct.pack(">L", max_pdu_bytes)) + item(0x52, b"1.2.3.4") + user_items
    items += [item(0x50, user), more_items]
    head = struct.pack(">HH16s16s32x", version, 0, called.ljust(16), calling.ljust(16))
    return pdu(ASSOCIATE_RQ, head + b"".join(items))


def decode(data: bytes) -> dict[int, bytes]:
    """A command set as element number -> value."""
    found, position = {}, 0
    while position < len(data):
        _, number, length = struct.unpack_from("<HHL", data, position)
        found[number] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return found


@dataclass
class RawAssociation:
    """One TCP connection that speaks DICOM as far as it is told to."""

    port: int
    host: str = "127.0.0.1"
    timeout_s: float = PATIENCE_S
    connection: socket.socket = field(init=False)
    max_pdu_bytes: int = 16384
    messages: count[int] = field(default_factory=lambda: count(1))
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.connection = socket.create_connection((self.host, self.port), self.timeout_s)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            plain = self.connection
            try:
                self.connection = self.tls.wrap_socket(plain, server_hostname=self.host)
            except OSError:
                plain.close()
                raise

    def __enter__(self) -> RawAssociation:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def read(self) -> Pdu:
        """The next PDU, or CLOSED."""
        header = self._read(6)
        if len(header) < 6:
            return CLOSED
        kind, length = struct.unpack(">BxL", header)
        return Pdu(kind, self._read(length))

    def request(
        self,
        offers: Sequence[Offer] = STORAGE_AND_ECHO,
        *,
        calling: bytes = b"RAW",
        called: bytes = b"SEGNODE",
        application_context: str = APPLICATION_CONTEXT,
        max_pdu_bytes: int = 16384,
        context_ids: Sequence[int] | None = None,
    ) -> Pdu:
        """Send an A-ASSOCIATE-RQ and read the answer; a peer's maximum length is kept."""
        self.send(
            associate_request(
                offers,
                calling=calling,
                called=called,
                application_context=application_context,
                max_pdu_bytes=max_pdu_bytes,
                context_ids=context_ids,
            )
        )
        answer = self.read()
        if answer.kind == ASSOCIATE_AC:
            self.max_pdu_bytes = _maximum_length(answer.body)
        return answer

    def command(self, context_id: int, encoded: bytes) -> None:
        self.send(pdu(P_DATA, pdv(context_id, 0x03, encoded)))

    def stream(self, context_id: int, pieces: Iterable[bytes]) -> None:
        """A data set too long to be held at once, one piece after the other."""
        last = b""
        for number, piece in enumerate(pieces):
            if number:
                self.data(context_id, last, is_whole=False)
            last = piece
        self.data(context_id, last)

    def data(self, context_id: int, data: bytes, *, is_whole: bool = True) -> None:
        """A data set in fragments that the peer can take; ``is_whole`` marks the last one."""
        step = self.max_pdu_bytes - 6
        for start in range(0, max(len(data), 1), step):
            part = data[start : start + step]
            is_last = is_whole and start + step >= len(data)
            self.send(pdu(P_DATA, pdv(context_id, 0x02 if is_last else 0x00, part)))

    def response(self) -> dict[int, bytes]:
        """The next response's command set, put together from its fragments."""
        encoded = b""
        while True:
            answer = self.read()
            assert answer.kind == P_DATA, f"PDU of type {answer.kind}: {answer.body!r}"
            position = 0
            while position < len(answer.body):
                length, _, control = struct.unpack_from(">LBB", answer.body, position)
                encoded += answer.body[position + 6 : position + 4 + length]
                position += 4 + length
            if control & 0x02:
                return decode(encoded)

    def store(
        self,
        data: bytes,
        sop_instance_uid: str | bytes | None = "1.2.3.4.5",
        *,
        sop_class_uid: str | None = CT_IMAGE_STORAGE,
        context_id: int = 1,
    ) -> dict[int, bytes]:
        """A whole C-STORE; returns the response."""
        return self.store_pieces(
            (data,), sop_instance_uid, sop_class_uid=sop_class_uid, context_id=context_id
        )

    def store_pieces(
        self,
        pieces: Iterable[bytes],
        sop_instance_uid: str | bytes | None,
        *,
        sop_class_uid: str | None = CT_IMAGE_STORAGE,
        context_id: int = 1,
    ) -> dict[int, bytes]:
        """A whole C-STORE of a data set that comes in pieces; returns the response."""
        message_id = next(self.messages)
        encoded = store_command(
            sop_instance_uid, sop_class_uid=sop_class_uid, message_id=message_id
        )
        self.command(context_id, encoded)
        self.stream(context_id, pieces)
        return self.response()

    def echo(self, context_id: int = 3) -> int:
        """A C-ECHO; returns its status."""
        self.command(context_id, echo_command(next(self.messages)))
        return status(self.response())

    def release(self) -> Pdu:
        self.send(pdu(RELEASE_RQ, bytes(4)))
        return self.read()

    def abort(self) -> None:
        self.send(pdu(ABORT, bytes(4)))

    def reset(self) -> None:
        """Close with RST, as a crashed machine or a firewall does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.connection.recv(size - len(data))
            except ConnectionError:
                part = b""
            if not part:
                break
            data += part
        return data


def status(response: Mapping[int, bytes]) -> int:
    return int(struct.unpack("<H", response[0x0900])[0])


def comment(response: Mapping[int, bytes]) -> str:
    return response.get(0x0902, b"").decode("ascii")


def accepted(answer: Pdu) -> dict[int, tuple[int, str]]:
    """Context ID -> (result, transfer syntax) of an A-ASSOCIATE-AC."""
    return {
        body[0]: (body[2], body[8:].decode() if len(body) > 8 else "")
        for kind, body in _items(answer.body[68:])
        if kind == 0x21
    }


def user_information(answer: Pdu) -> dict[int, bytes]:
    """Sub-items of the user information of an A-ASSOCIATE-AC."""
    (body,) = (body for kind, body in _items(answer.body[68:]) if kind == 0x50)
    return dict(_items(body))


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 0
    while position < len(data):
        kind, length = struct.unpack_from(">BxH", data, position)
        found.append((kind, data[position + 4 : position + 4 + length]))
        position += 4 + length
    return found


def _maximum_length(body: bytes) -> int:
    information = user_information(Pdu(ASSOCIATE_AC, body))
    return int(struct.unpack(">L", information[0x51])[0]) or 131072
