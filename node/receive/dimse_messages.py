"""Messages of one association: P-DATA fragments in, arrivals and responses out.

The data set of a C-STORE goes from the receive buffer to ``Arrival.write``, fragment by fragment;
nothing is collected and nothing is decoded here. A refused instance is read to its end, answered
with its status, and the association goes on. No socket, no pynetdicom, no pydicom: a command set is
a dozen short elements in implicit VR little endian and lies in the path of every instance.

One subject, and so one module of more than 300 lines: a request as it comes, and its response.

Source: PS3.7 6.3 (command set), 9.1.1 (C-STORE), 9.3.1 (encoding), Annexes C and E (statuses,
command fields); PS3.8 9.3.5 and Annex E (P-DATA-TF, PDV).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.domain.errors import InstanceRejected, NodeError, Status
from node.domain.instance import Origin
from node.observe import counts
from node.receive.ingest import Announced, Arrival, Carried, Ingest

VERIFICATION_SOP_CLASS_UID = "1.2.840.10008.1.1"
# A C-STORE command set is about 300 bytes; the largest legal one is far below this.
COMMAND_LIMIT_BYTES = 16 * 1024

P_DATA_TF = 0x04
PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_COMMAND, _LAST = 0x01, 0x02  # PS3.8 E.2
# A peer may announce a maximum that no message fits in; below this it gets this. PS3.8 D.1
_SMALLEST_FRAGMENT_BYTES = 64

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
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
UNEXPECTED_PDU_PARAMETER = 5
INVALID_PDU_PARAMETER = 6

COMMENT_LENGTH = 64  # Error Comment is LO
OFFENDERS = 16  # enough to act on, and the response stays one small PDU

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")

_log = logging.getLogger(__name__)


class ProtocolFault(NodeError):
    """The peer broke the protocol: the association ends with A-ABORT by the service provider.

    Args:
        reason: PS3.8 Table 9-26.
    """

    def __init__(self, text: str, reason: int) -> None:
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


def _echo_request(command: Command) -> Command:
    """A C-ECHO as its response names it: the class padded as is due, and no instance."""
    uid = f"{VERIFICATION_SOP_CLASS_UID}\0".encode()
    values = {name: command.values[name] for name in (COMMAND_FIELD, MESSAGE_ID)}
    return Command({AFFECTED_SOP_CLASS_UID: uid, **values})


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _echo(request: Command, element: int) -> bytes:
    """A UID as it came, unless it is no value that a UI element can hold."""
    value = request.values.get(element, b"")
    return _element(element, value) if 0 < len(value) <= 64 and len(value) % 2 == 0 else b""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(slots=True)
class _Request:
    """A request whose data set is on its way."""

    context_id: int
    command: Command
    arrival: Arrival | None = None
    refusal: InstanceRejected | None = None


class Transfer:
    """What one established association is in the middle of.

    Args:
        contexts: Accepted presentation contexts by their ID.
        peer_max_pdu_bytes: What the peer announced as its maximum length; 0 is no limit.
    """

    def __init__(
        self,
        ingest: Ingest,
        origin: Origin,
        contexts: Mapping[int, Context],
        peer_max_pdu_bytes: int,
    ) -> None:
        self._ingest = ingest
        self._origin = origin
        self._contexts = contexts
        self._fragment_bytes = max(peer_max_pdu_bytes - 6, _SMALLEST_FRAGMENT_BYTES)
        if peer_max_pdu_bytes == 0:
            self._fragment_bytes = COMMAND_LIMIT_BYTES
        self._command = bytearray()
        self._command_context_id = 0
        self._request: _Request | None = None
        self._stray_allowed = False
        self.carried = Carried()

    @property
    def is_idle(self) -> bool:
        """Whether no message is half received."""
        return self._request is None and not self._command

    def abandon(self) -> None:
        """The line is lost: an instance that was on its way leaves nothing behind."""
        request, self._request = self._request, None
        self._command.clear()
        if request is not None and request.arrival is not None:
            self.carried.losses += 1
            request.arrival.abandon()

    def receive(self, body: memoryview) -> bytes | None:
        """Take the body of one P-DATA-TF PDU.

        Returns:
            PDUs to send, or nothing yet.
        Raises:
            ProtocolFault: The association must be aborted.
        """
        if not body:
            raise ProtocolFault("P-DATA-TF without a value", INVALID_PDU_PARAMETER)
        reply: bytes | None = None
        position = 0
        while position < len(body):
            if len(body) - position < _PDV_HEADER.size:
                raise ProtocolFault("PDV header is cut", INVALID_PDU_PARAMETER)
            length, context_id, control = _PDV_HEADER.unpack_from(body, position)
            end = position + 4 + length
            if length < 2 or end > len(body) or control & ~(_COMMAND | _LAST):
                raise ProtocolFault("PDV length or control header is wrong", INVALID_PDU_PARAMETER)
            data = body[position + _PDV_HEADER.size : end]
            position = end
            answer = self._fragment(context_id, control, data)
            if answer is not None:
                if reply is not None:
                    # one operation at a time: PS3.7 D.3.3.3, no asynchronous window was granted
                    raise ProtocolFault("several messages in one PDU", UNEXPECTED_PDU)
                reply = answer
        return reply

    def _fragment(self, context_id: int, control: int, data: memoryview) -> bytes | None:
        if control & _COMMAND:
            return self._command_fragment(context_id, data, bool(control & _LAST))
        request = self._request
        if request is None:
            self._stray(bool(control & _LAST))
            return None
        if context_id != request.context_id:
            raise ProtocolFault("data set on another context", UNEXPECTED_PDU_PARAMETER)
        if request.arrival is not None:
            request.arrival.write(data)
        return self._complete(request) if control & _LAST else None

    def _command_fragment(self, context_id: int, data: memoryview, is_last: bool) -> bytes | None:
        if self._request is not None:
            raise ProtocolFault("command inside a data set", UNEXPECTED_PDU)
        if self._command and context_id != self._command_context_id:
            raise ProtocolFault("command on two contexts", UNEXPECTED_PDU_PARAMETER)
        if context_id not in self._contexts:
            raise ProtocolFault("context was not accepted", UNEXPECTED_PDU_PARAMETER)
        if len(self._command) + len(data) > COMMAND_LIMIT_BYTES:
            raise ProtocolFault("command set is too long", INVALID_PDU_PARAMETER)
        self._command_context_id = context_id
        self._stray_allowed = False
        self._command += data
        if not is_last:
            return None
        whole, self._command = self._command, bytearray()
        return self._dispatch(context_id, bytes(whole))

    def _dispatch(self, context_id: int, encoded: bytes) -> bytes | None:
        command = decode_command(encoded)
        field = command.number(COMMAND_FIELD)
        if field is None or field & RESPONSE_BIT:
            raise ProtocolFault("command set is no request", UNEXPECTED_PDU)
        if field == C_CANCEL_RQ:
            return None  # PS3.7 9.3.2.3: has no response, and nothing here can be cancelled
        if command.number(MESSAGE_ID) is None:
            raise ProtocolFault("request without a Message ID", INVALID_PDU_PARAMETER)
        request = _Request(context_id, command)
        if field == C_STORE_RQ:
            self._begin(request)
        elif field == C_ECHO_RQ and not command.has_data_set:
            if command.uid(AFFECTED_SOP_CLASS_UID) == VERIFICATION_SOP_CLASS_UID:
                request.command = _echo_request(command)
            else:
                request.refusal = _refused(
                    "C-ECHO of another class", Status.SOP_CLASS_NOT_SUPPORTED
                )
        else:
            request.refusal = _refused("operation is not served", Status.UNRECOGNIZED_OPERATION)
        if command.has_data_set:
            self._request = request
            return None
        self._stray_allowed = field == C_STORE_RQ
        return self._respond(request)

    def _begin(self, request: _Request) -> None:
        """Judge a C-STORE request by its command and context, then start the arrival."""
        command = request.command
        context = self._contexts[request.context_id]
        announced = Announced(
            sop_class_uid=command.uid(AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=command.uid(AFFECTED_SOP_INSTANCE_UID),
            transfer_syntax_uid=context.transfer_syntax,
        )
        try:
            refusal = self._judge(command, announced, context)
            if refusal is not None:
                refusal.sop_class_uid = announced.sop_class_uid
                refusal.sop_instance_uid = announced.sop_instance_uid
                self._ingest.record_loss(refusal, self._origin)
                raise refusal
            request.arrival = self._ingest.begin(self._origin, announced)
        except InstanceRejected as rejected:
            self.carried.losses += 1
            request.refusal = rejected

    def _judge(
        self, command: Command, announced: Announced, context: Context
    ) -> InstanceRejected | None:
        if not announced.sop_class_uid or not announced.sop_instance_uid:
            return _refused("Affected SOP Class or Instance UID missing", Status.MISTYPED_ARGUMENT)
        if announced.sop_class_uid != context.abstract_syntax:
            known = {accepted.abstract_syntax for accepted in self._contexts.values()}
            if announced.sop_class_uid not in known:
                return _refused("SOP class was not negotiated", Status.SOP_CLASS_NOT_SUPPORTED)
            return _refused(
                "SOP class is not the one of its context", Status.DOES_NOT_MATCH_SOP_CLASS
            )
        if not command.has_data_set:
            return _refused("C-STORE without a data set", Status.CANNOT_UNDERSTAND)
        return None

    def _complete(self, request: _Request) -> bytes:
        if request.arrival is not None:
            try:
                self.carried.note(request.arrival.finish())
            except InstanceRejected as rejected:
                self.carried.losses += 1
                request.refusal = rejected
        self._request = None
        return self._respond(request)

    def _respond(self, request: _Request) -> bytes:
        refusal = request.refusal
        if refusal is None:
            encoded = encode_response(request.command, Status.SUCCESS)
        else:
            status = f"{refusal.dimse_status:04X}"
            counts.add(counts.INSTANCES_REFUSED, "dimse", status)
            _log.warning(
                "refused a request: %s",
                refusal.reason,
                extra={
                    "dimse_status": status,
                    "address": self._origin.address,
                    "association_id": self._origin.association_id,
                    "sop_instance_uid": refusal.sop_instance_uid,
                },
            )
            encoded = encode_response(
                request.command,
                refusal.dimse_status,
                comment=refusal.reason,
                offending_tags=refusal.offending_tags,
            )
        step = self._fragment_bytes
        return b"".join(
            _pdu(request.context_id, encoded[start : start + step], start + step >= len(encoded))
            for start in range(0, len(encoded), step)
        )

    def _stray(self, is_last: bool) -> None:
        """Data that no command announced: forgiven once, after a C-STORE that said "no data"."""
        if not self._stray_allowed:
            raise ProtocolFault("data set without a command", UNEXPECTED_PDU)
        self._stray_allowed = not is_last


def _pdu(context_id: int, part: bytes, is_last: bool) -> bytes:
    """One P-DATA-TF PDU with one fragment of a command set. PS3.8 9.3.5"""
    control = _COMMAND | (_LAST if is_last else 0)
    pdv = _PDV_HEADER.pack(len(part) + 2, context_id, control) + part
    return PDU_HEADER.pack(P_DATA_TF, len(pdv)) + pdv


def _refused(reason: str, status: int) -> InstanceRejected:
    return InstanceRejected(reason, dimse_status=status, quarantine=False)
