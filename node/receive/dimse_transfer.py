"""Messages of one association: P-DATA fragments in, arrivals and responses out.

The data set of a C-STORE goes from the receive buffer to ``Arrival.write``, fragment by fragment;
nothing is collected and nothing is decoded here. A refused instance is read to its end, answered
with its status, and the association goes on. No socket, no pynetdicom.

Source: PS3.7 9.1.1 (C-STORE), 9.3.1 (encoding), PS3.8 9.3.5 and Annex E (P-DATA-TF, PDV).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from node.domain import statuses
from node.domain.errors import InstanceRejected
from node.domain.instance import Origin
from node.receive import dimse_command as dimse
from node.receive.arrival import Arrival
from node.receive.carried import Carried
from node.receive.dimse_command import Command, ProtocolFault
from node.receive.ingest import Announced

VERIFICATION_SOP_CLASS_UID = "1.2.840.10008.1.1"
# A C-STORE command set is about 300 bytes; the largest legal one is far below this.
COMMAND_LIMIT_BYTES = 16 * 1024

P_DATA_TF = 0x04
_PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_COMMAND, _LAST = 0x01, 0x02  # PS3.8 E.2
# A peer may announce a maximum that no message fits in; below this it gets this. PS3.8 D.1
_SMALLEST_FRAGMENT_BYTES = 64

_log = logging.getLogger(__name__)


class InstanceSink(Protocol):
    """Where instances go: the strict ingest."""

    def begin(self, origin: Origin, announced: Announced) -> Arrival: ...

    def record_loss(self, rejection: InstanceRejected, origin: Origin) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class ToProvider:
    """A request that the general DIMSE provider serves (C-ECHO), as one whole P-DATA-TF PDU."""

    pdu: bytes


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
        sink: InstanceSink,
        origin: Origin,
        contexts: Mapping[int, Context],
        peer_max_pdu_bytes: int,
    ) -> None:
        self._sink = sink
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

    def receive(self, body: memoryview) -> bytes | ToProvider | None:
        """Take the body of one P-DATA-TF PDU.

        Returns:
            PDUs to send, a request for the general provider, or nothing yet.
        Raises:
            ProtocolFault: The association must be aborted.
        """
        if not body:
            raise ProtocolFault("P-DATA-TF without a value", dimse.INVALID_PDU_PARAMETER)
        reply: bytes | ToProvider | None = None
        position = 0
        while position < len(body):
            if len(body) - position < _PDV_HEADER.size:
                raise ProtocolFault("PDV header is cut", dimse.INVALID_PDU_PARAMETER)
            length, context_id, control = _PDV_HEADER.unpack_from(body, position)
            end = position + 4 + length
            if length < 2 or end > len(body) or control & ~(_COMMAND | _LAST):
                raise ProtocolFault(
                    "PDV length or control header is wrong", dimse.INVALID_PDU_PARAMETER
                )
            data = body[position + _PDV_HEADER.size : end]
            position = end
            answer = self._fragment(context_id, control, data)
            if answer is not None:
                if reply is not None:
                    # one operation at a time: PS3.7 D.3.3.3, no asynchronous window was granted
                    raise ProtocolFault("several messages in one PDU", dimse.UNEXPECTED_PDU)
                reply = answer
        return reply

    def _fragment(
        self, context_id: int, control: int, data: memoryview
    ) -> bytes | ToProvider | None:
        if control & _COMMAND:
            return self._command_fragment(context_id, data, bool(control & _LAST))
        request = self._request
        if request is None:
            self._stray(bool(control & _LAST))
            return None
        if context_id != request.context_id:
            raise ProtocolFault("data set on another context", dimse.UNEXPECTED_PDU_PARAMETER)
        if request.arrival is not None:
            request.arrival.write(data)
        return self._complete(request) if control & _LAST else None

    def _command_fragment(
        self, context_id: int, data: memoryview, is_last: bool
    ) -> bytes | ToProvider | None:
        if self._request is not None:
            raise ProtocolFault("command inside a data set", dimse.UNEXPECTED_PDU)
        if self._command and context_id != self._command_context_id:
            raise ProtocolFault("command on two contexts", dimse.UNEXPECTED_PDU_PARAMETER)
        if context_id not in self._contexts:
            raise ProtocolFault("context was not accepted", dimse.UNEXPECTED_PDU_PARAMETER)
        if len(self._command) + len(data) > COMMAND_LIMIT_BYTES:
            raise ProtocolFault("command set is too long", dimse.INVALID_PDU_PARAMETER)
        self._command_context_id = context_id
        self._stray_allowed = False
        self._command += data
        if not is_last:
            return None
        whole, self._command = self._command, bytearray()
        return self._dispatch(context_id, bytes(whole))

    def _dispatch(self, context_id: int, encoded: bytes) -> bytes | ToProvider | None:
        command = dimse.decode_command(encoded)
        field = command.number(dimse.COMMAND_FIELD)
        if field is None or field & dimse.RESPONSE_BIT:
            raise ProtocolFault("command set is no request", dimse.UNEXPECTED_PDU)
        if field == dimse.C_CANCEL_RQ:
            return None  # PS3.7 9.3.2.3: has no response, and nothing here can be cancelled
        if command.number(dimse.MESSAGE_ID) is None:
            raise ProtocolFault("request without a Message ID", dimse.INVALID_PDU_PARAMETER)
        request = _Request(context_id, command)
        if field == dimse.C_STORE_RQ:
            self._begin(request)
        elif field == dimse.C_ECHO_RQ and not command.has_data_set:
            if command.uid(dimse.AFFECTED_SOP_CLASS_UID) == VERIFICATION_SOP_CLASS_UID:
                return ToProvider(_pdu(context_id, encoded, is_last=True))
            request.refusal = _refused("C-ECHO of another class", statuses.SOP_CLASS_NOT_SUPPORTED)
        else:
            request.refusal = _refused("operation is not served", statuses.UNRECOGNIZED_OPERATION)
        if command.has_data_set:
            self._request = request
            return None
        self._stray_allowed = field == dimse.C_STORE_RQ
        return self._respond(request)

    def _begin(self, request: _Request) -> None:
        """Judge a C-STORE request by its command and context, then start the arrival."""
        command = request.command
        context = self._contexts[request.context_id]
        announced = Announced(
            sop_class_uid=command.uid(dimse.AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=command.uid(dimse.AFFECTED_SOP_INSTANCE_UID),
            transfer_syntax_uid=context.transfer_syntax,
        )
        request.refusal = self._judge(command, announced, context)
        if request.refusal is not None:
            request.refusal.sop_class_uid = announced.sop_class_uid
            request.refusal.sop_instance_uid = announced.sop_instance_uid
            self.carried.losses += 1
            self._sink.record_loss(request.refusal, self._origin)
            return
        try:
            request.arrival = self._sink.begin(self._origin, announced)
        except InstanceRejected as rejected:
            self.carried.losses += 1
            request.refusal = rejected

    def _judge(
        self, command: Command, announced: Announced, context: Context
    ) -> InstanceRejected | None:
        if not announced.sop_class_uid or not announced.sop_instance_uid:
            return _refused(
                "Affected SOP Class or Instance UID missing", statuses.MISTYPED_ARGUMENT
            )
        if announced.sop_class_uid != context.abstract_syntax:
            known = {accepted.abstract_syntax for accepted in self._contexts.values()}
            if announced.sop_class_uid not in known:
                return _refused("SOP class was not negotiated", statuses.SOP_CLASS_NOT_SUPPORTED)
            return _refused(
                "SOP class is not the one of its context", statuses.DOES_NOT_MATCH_SOP_CLASS
            )
        if not command.has_data_set:
            return _refused("C-STORE without a data set", statuses.CANNOT_UNDERSTAND)
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
            encoded = dimse.encode_response(request.command, statuses.SUCCESS)
        else:
            _log.warning(
                "refused a request: %s",
                refusal.reason,
                extra={
                    "dimse_status": f"{refusal.dimse_status:04X}",
                    "association_id": self._origin.association_id,
                    "sop_instance_uid": refusal.sop_instance_uid,
                },
            )
            encoded = dimse.encode_response(
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
            raise ProtocolFault("data set without a command", dimse.UNEXPECTED_PDU)
        self._stray_allowed = not is_last


def _pdu(context_id: int, part: bytes, is_last: bool) -> bytes:
    """One P-DATA-TF PDU with one fragment of a command set. PS3.8 9.3.5"""
    control = _COMMAND | (_LAST if is_last else 0)
    pdv = _PDV_HEADER.pack(len(part) + 2, context_id, control) + part
    return _PDU_HEADER.pack(P_DATA_TF, len(pdv)) + pdv


def _refused(reason: str, status: int) -> InstanceRejected:
    return InstanceRejected(reason, dimse_status=status, quarantine=False)
