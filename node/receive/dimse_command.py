"""Command sets: the requests we read and the responses we write.

Only group 0000, implicit VR little endian, without pydicom: a command set is a dozen short elements
and lies in the path of every instance.

Source: PS3.7 6.3 (command set), Annex C (status codes), Annex E (command fields).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.domain.errors import NodeError

# PS3.7 E.1
AFFECTED_SOP_CLASS_UID = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
OFFENDING_ELEMENT = 0x0901
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
RESPONSE_BIT = 0x8000
NO_DATA_SET = 0x0101

# PS3.8 Table 9-26
REASON_NOT_SPECIFIED = 0
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
UNEXPECTED_PDU_PARAMETER = 5
INVALID_PDU_PARAMETER = 6

COMMENT_LENGTH = 64  # Error Comment is LO
OFFENDERS = 16  # enough to act on, and the response stays one small PDU

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")


class ProtocolFault(NodeError):
    """The peer broke the protocol: the association ends with A-ABORT by the service provider.

    Args:
        reason: PS3.8 Table 9-26.
    """

    def __init__(self, text: str, reason: int = REASON_NOT_SPECIFIED) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set: raw values by element number of group 0000."""

    values: Mapping[int, bytes]

    def number(self, element: int) -> int | None:
        """A US value, or None where it is absent or not two bytes long."""
        value = self.values.get(element, b"")
        return int(_US.unpack(value)[0]) if len(value) == _US.size else None

    def uid(self, element: int) -> str:
        """A UI value without its padding; bytes outside ASCII survive, to be refused later."""
        value = self.values.get(element, b"")
        return value.removesuffix(b"\0").decode("ascii", "surrogateescape")

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows. PS3.7 E.1: any value but 0101H says so."""
        return self.number(COMMAND_DATA_SET_TYPE) not in (None, NO_DATA_SET)


def decode_command(data: bytes | bytearray) -> Command:
    """Read a command set.

    Raises:
        ProtocolFault: The bytes are no elements of group 0000.
    """
    values: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if len(data) - position < _ELEMENT.size:
            raise ProtocolFault("command set ends inside an element", INVALID_PDU_PARAMETER)
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        if group != 0 or length > len(data) - position:
            raise ProtocolFault("command set holds no readable elements", INVALID_PDU_PARAMETER)
        values[element] = bytes(data[position : position + length])
        position += length
    return Command(values)


def encode_response(
    request: Command, status: int, *, comment: str = "", offending_tags: Sequence[int] = ()
) -> bytes:
    """The response to a request, affected class and instance echoed as they came.

    Args:
        comment: Becomes Error Comment, cut to 64 characters; no patient data.
    """
    field = (request.number(COMMAND_FIELD) or 0) | RESPONSE_BIT
    elements = [
        _echo(request, AFFECTED_SOP_CLASS_UID),
        _element(COMMAND_FIELD, _US.pack(field)),
        _element(MESSAGE_ID_BEING_RESPONDED_TO, _US.pack(request.number(MESSAGE_ID) or 0)),
        _element(COMMAND_DATA_SET_TYPE, _US.pack(NO_DATA_SET)),
        _element(STATUS, _US.pack(status)),
    ]
    if offending_tags:
        pairs = [struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in offending_tags[:OFFENDERS]]
        elements.append(_element(OFFENDING_ELEMENT, b"".join(pairs)))
    if comment:
        text = comment.encode("ascii", "replace")[:COMMENT_LENGTH]
        elements.append(_element(ERROR_COMMENT, text + b" " * (len(text) % 2)))
    elements.append(_echo(request, AFFECTED_SOP_INSTANCE_UID))
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _echo(request: Command, element: int) -> bytes:
    """A UID as it came, unless it is no value that a UI element can hold."""
    value = request.values.get(element, b"")
    return _element(element, value) if 0 < len(value) <= 64 and len(value) % 2 == 0 else b""
