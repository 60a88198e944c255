"""Where pynetdicom ends and our data path begins: the only file that touches its internals.

pynetdicom keeps the association: state machine, negotiation, release, abort. Between acceptance and
release, P-DATA goes from the socket to the ``Transfer`` of a ``Session`` in the thread that reads it,
and the response leaves from that thread.

Written against pynetdicom 3.0.4 (floor 3.0.4, below 4). Used beyond its public interface, and
watched by ``tests/receive/test_dimse_upper_layer.py``:

- ``DULServiceProvider``: ``run_reactor`` (its loop asks ``_is_transport_event`` and calls
  ``_read_pdu_data``), ``_send``, ``_recv_pdu``, ``_decode_pdu``, ``_run_loop_delay``,
  ``_kill_thread``, ``event_queue``, ``to_user_queue``, ``idle_timer_expired``, ``stop_dul``,
  ``state_machine.current_state`` and the event names Evt10, Evt17, Evt19;
- ``AssociationSocket``: ``recv``, ``socket``;
- ``ACSE``: ``_negotiate_as_acceptor``, ``send_reject``, ``send_abort``;
- ``Association``: ``_reactor_checkpoint``, ``_sent_abort``;
- ``RequestHandler._create_association``, ``AssociationServer.handle_error``.

Objects that pynetdicom has made become ours by assigning ``__class__`` before their threads start:
it offers no place to name these classes, and copying its constructors would age worse.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socketserver import TCPServer
from threading import Event, Lock, Thread
from typing import Any, Protocol, TypeAlias, cast

from pynetdicom import _config
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RP
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from node.domain.instance import Ending
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.receive.dimse_messages import (
    INVALID_PDU_PARAMETER,
    P_DATA_TF,
    PDU_HEADER,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
    Context,
    ProtocolFault,
    Transfer,
)

# How long a peer may take to close after release, reject or abort. PS3.8 9.2 (Sta13)
LINGER_S = 2.0
_ESTABLISHED, _CLOSING, _GONE = "Sta6", "Sta13", "Sta1"
_FIRST_BUFFER_BYTES = 16 * 1024
# 128 contexts with every known syntax and a user identity token stay below this.
_NEGOTIATION_LIMIT_BYTES = 512 * 1024
_FIXED_BYTES = 4
# How long a read or write may hold its thread before it looks around.
_PATIENCE_S = 0.25
_SEND_LIMIT_S = 20.0
_TIMEVAL = struct.Struct("@ll")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
# What pynetdicom raises when a peer's PDU decodes but makes no sense to it.
_NONSENSE = (InvalidEventError, ValueError, LookupError, AttributeError, TypeError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ says, as far as admission asks."""

    calling_ae_title: str
    called_ae_title: str
    application_context_name: str
    address: str
    abstract_syntaxes: frozenset[str]
    is_well_formed: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An A-ASSOCIATE-RJ. PS3.8 Table 9-21"""

    result: int
    source: int
    reason: int


class Session(Protocol):
    """One admitted association, which holds its slot from admission to its end."""

    def establish(self, contexts: Mapping[int, Context], peer_max_pdu_bytes: int) -> Transfer:
        """Negotiation is over; whoever takes the messages that follow."""

    def end(self, ending: Ending) -> None:
        """The association is over; called at least once, the first call counts."""


Gate: TypeAlias = Callable[[AssociationRequest], Session | Refusal]
"""Judges who may come in."""


class _Shared(list[PresentationContext]):
    """Supported contexts, never changed: a copy per association would cost milliseconds."""

    def __deepcopy__(self, _memo: object) -> _Shared:
        return self


class _Handler(RequestHandler):
    def _create_association(self) -> Association:
        association = super()._create_association()
        association.acse.__class__ = _Negotiation
        association.dul.__class__ = _Provider
        provider = _provider(association)
        provider.daemon = True
        provider.prepare(self.request, cast(UpperLayer, self.server))
        return association


class UpperLayer(AssociationServer):
    """A listening port and its associations.

    Args:
        contexts: Transfer syntaxes by abstract syntax, in our order of preference.
    Raises:
        OSError: The address cannot be bound.
    """

    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        ae_title: str,
        contexts: Mapping[str, Sequence[str]],
        gate: Gate,
        *,
        max_pdu_bytes: int,
        negotiation_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        # its standard event handlers describe PDUs and data sets to the log, and cost time
        _config.LOG_HANDLER_LEVEL = "none"
        entity = ApplicationEntity(ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = max_pdu_bytes
        entity.acse_timeout = negotiation_timeout_s
        entity.network_timeout = idle_timeout_s
        entity.maximum_associations = 1_000_000  # the gate counts
        for abstract_syntax, transfer_syntaxes in contexts.items():
            entity.add_supported_context(abstract_syntax, list(transfer_syntaxes))
        self.gate = gate
        self.providers: set[_Provider] = set()  # every use is one call, which no thread interrupts
        self._thread = Thread(
            target=self.serve_forever, args=(0.1,), name="dimse-listen", daemon=True
        )
        shared = _Shared(entity.supported_contexts)
        super().__init__(entity, address, ae_title, shared, request_handler=_Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Let every association end after the message in hand, by A-ABORT."""
        for provider in list(self.providers):
            provider.retire()

    def stop(self, timeout_s: float) -> None:
        """Stop listening, abort what is left, wait for the threads."""
        if self._thread.is_alive():
            TCPServer.shutdown(self)  # the stock one expects a registration at its entity
        self.server_close()
        deadline_s = time.monotonic() + timeout_s
        providers = list(self.providers)
        for provider in providers:
            provider.cut()
        for provider in providers:
            provider.join(max(deadline_s - time.monotonic(), 0.05))
            provider.assoc.join(max(deadline_s - time.monotonic(), 0.05))
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def service_actions(self) -> None:
        """Nothing: the stock action runs a garbage collection in the accept loop."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        _log.exception("a connection could not be set up")


class _Negotiation(ACSE):
    """Asks our gate before pynetdicom negotiates."""

    def _negotiate_as_acceptor(self) -> None:
        association = self.assoc
        request = association.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            association.kill()
            return
        try:
            admitted = cast(UpperLayer, association._server).gate(_described(association, request))
            if isinstance(admitted, Refusal):
                self.send_reject(admitted.result, admitted.source, admitted.reason)
                association.kill()
                return
            _provider(association).attach(admitted)
            super()._negotiate_as_acceptor()
        finally:
            if not (
                association.is_established or association.is_rejected or association.is_aborted
            ):
                self.send_abort(0x02)  # an error on our side must not leave the peer waiting


def _provider(association: Association) -> _Provider:
    return cast(_Provider, association.dul)


def _described(association: Association, request: A_ASSOCIATE) -> AssociationRequest:
    contexts = request.presentation_context_definition_list
    address = association.requestor.address_info
    return AssociationRequest(
        calling_ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
        application_context_name=str(request.application_context_name),
        address=address.address if address else "",
        abstract_syntaxes=frozenset(str(context.abstract_syntax) for context in contexts),
        is_well_formed=all(context.transfer_syntax for context in contexts),
    )


class _Wire:
    """The socket of one association: whole PDUs out of one reused buffer.

    Nothing is copied between the kernel and whoever takes a PDU's body, and a PDU longer than its
    type may be is refused by its header, before its body is read.

    Args:
        max_pdu_bytes: The maximum length that the association advertises.
    Attributes:
        heard_at_s: When bytes came last, on the monotonic clock; a long answer may set it anew.
    Source: PS3.8 9.3.1 (PDU header), D.1 (maximum length).
    """

    def __init__(self, connection: socket.socket, max_pdu_bytes: int) -> None:
        self._connection = connection
        self._largest = {
            **dict.fromkeys((0x01, 0x02), _NEGOTIATION_LIMIT_BYTES),
            **dict.fromkeys((0x03, 0x05, 0x06, 0x07), _FIXED_BYTES),
            P_DATA_TF: max_pdu_bytes,
        }
        self._capacity = 2 * (max_pdu_bytes + PDU_HEADER.size)
        self._buffer = memoryview(bytearray(min(_FIRST_BUFFER_BYTES, self._capacity)))
        self._start = 0
        self._end = 0
        self.heard_at_s = time.monotonic()
        _set_limits(connection)

    def fill(self) -> bool:
        """Read what has come, waiting ``_PATIENCE_S`` at most; False at the end of the stream.

        Raises:
            OSError: The connection is broken.
        """
        self._make_room()
        try:
            size = self._connection.recv_into(self._buffer[self._end :])
        except (BlockingIOError, InterruptedError):
            return True
        self._end += size
        self.heard_at_s = time.monotonic()
        if _QUICKACK is not None:
            # The kernel leaves this mode by itself: a peer whose Nagle algorithm is on would wait
            # 40 ms for each delayed acknowledgement.
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return size > 0

    def whole_pdu(self) -> int:
        """Length of the PDU at the front of the buffer, its header included; 0 while it is cut.

        Raises:
            ProtocolFault: No such PDU type, or longer than this type may be.
        """
        if self._end - self._start < PDU_HEADER.size:
            return 0
        pdu_type, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        limit = self._largest.get(pdu_type)
        if limit is None:
            raise ProtocolFault("no such PDU type", UNRECOGNIZED_PDU)
        if length > limit:
            raise ProtocolFault("PDU is longer than allowed", INVALID_PDU_PARAMETER)
        whole = PDU_HEADER.size + int(length)
        return whole if self._end - self._start >= whole else 0

    @property
    def next_type(self) -> int:
        """Type of the PDU at the front of the buffer."""
        return self._buffer[self._start]

    def take(self, size: int) -> memoryview:
        """The next bytes of the buffer, valid until the next ``fill``."""
        taken = self._buffer[self._start : min(self._start + size, self._end)]
        self._start += len(taken)
        return taken

    def take_body(self) -> memoryview:
        """The body of the whole PDU at the front, valid until the next ``fill``."""
        return self.take(self.whole_pdu())[PDU_HEADER.size :]

    def discard_buffered(self) -> None:
        """Forget what was read and not taken."""
        self._start = self._end = 0

    def discard(self) -> bool:
        """Read and forget what has come; False at the end of the stream or of the connection."""
        self.discard_buffered()
        try:
            return self.fill()
        except OSError:
            return False

    def _make_room(self) -> None:
        """Space for more, if possible without moving anything."""
        if self._start == self._end:
            self._start = self._end = 0
        waiting = self._buffer[self._start : self._end]
        needed = PDU_HEADER.size
        if len(waiting) >= PDU_HEADER.size:
            needed += PDU_HEADER.unpack_from(waiting)[1]
        if needed > _FIRST_BUFFER_BYTES // 2 and len(self._buffer) < max(needed, self._capacity):
            larger = memoryview(bytearray(max(needed, self._capacity)))
            larger[: len(waiting)] = waiting
            self._buffer, self._start, self._end = larger, 0, len(waiting)
        elif self._start + needed > len(self._buffer) or self._end == len(self._buffer):
            self._buffer[: len(waiting)] = waiting  # an overlapping move is safe here
            self._start, self._end = 0, len(waiting)


def _set_limits(connection: socket.socket) -> None:
    """No waiting for more to send, and no call that holds a thread for long."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setblocking(True)
    for option, seconds in ((socket.SO_RCVTIMEO, _PATIENCE_S), (socket.SO_SNDTIMEO, _SEND_LIMIT_S)):
        value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, option, value)


class _Socket(AssociationSocket):
    """Lets pynetdicom's own reading see the bytes that are already in our buffer."""

    wire: _Wire

    def recv(self, nr_bytes: int) -> bytearray:
        return bytearray(self.wire.take(nr_bytes))


class _Provider(DULServiceProvider):
    """The reading thread of one association."""

    def prepare(self, connection: socket.socket, server: UpperLayer) -> None:
        """Stands for a constructor: the object exists already, its thread does not run yet."""
        self._connection = connection
        self._wire = _Wire(connection, self.assoc.ae.maximum_pdu_size)
        self._transport = cast(_Socket, self.socket)
        self._transport.__class__ = _Socket
        self._transport.wire = self._wire
        self._run_loop_delay = 0  # our transport check waits, so the loop need not
        self._owner = server
        self._session: Session | None = None
        self._session_lock = Lock()
        self._transfer: Transfer | None = None
        self._is_over = False
        self._is_retiring = Event()
        self._abort_reason = 0
        self._close_at_s = 0.0
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        server.providers.add(self)

    # ---- called by other threads

    def attach(self, session: Session) -> None:
        """Hand over the admitted session; it ends at once if the line is gone already."""
        with self._session_lock:
            self._session = session
            is_over = self._is_over
        if is_over:
            session.end(Ending.ABORTED)

    def retire(self) -> None:
        """End the association after the message in hand."""
        self._is_retiring.set()
        self._wake()

    def cut(self) -> None:
        """End the association now."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._kill_thread = True
        self._wake()

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._wake()

    def stop_dul(self) -> bool:
        if self.state_machine.current_state != _GONE:
            return False
        self._kill_thread = True
        self._wake()
        self.join(1.0)
        return True

    def idle_timer_expired(self) -> bool:
        limit_s = self.network_timeout
        return limit_s is not None and time.monotonic() - self._wire.heard_at_s > limit_s

    # ---- the thread

    def run(self) -> None:
        try:
            super().run()
        except _NONSENSE as error:
            _log.warning("association ended by a PDU that makes no sense: %s", type(error).__name__)
        finally:
            self._finish()

    def _is_transport_event(self) -> bool:
        state = self.state_machine.current_state
        if state == _CLOSING:
            return self._linger()
        if state == _ESTABLISHED and self._is_retiring.is_set() and self._is_idle():
            if not self.assoc._sent_abort:
                self.assoc._sent_abort = True
                self.assoc.acse.send_abort(0x00)
            return False
        self._let_reactor_run(state)
        if not self.event_queue.empty():
            return True
        if self._has_whole_pdu() or (self._wait(_PATIENCE_S) and self._fill()):
            self._read_pdu_data()
            return True
        return False

    def _read_pdu_data(self) -> None:
        """Serve what is in the buffer, and go on reading while a message is half received."""
        while self._has_whole_pdu():
            if self._wire.next_type != P_DATA_TF:
                super()._read_pdu_data()
                return
            if not self._take_pdu() or self._is_idle() or self._kill_thread:
                return
            while not self._has_whole_pdu():
                if self._must_look_around() or not self._fill():
                    return

    def _take_pdu(self) -> bool:
        """Give one P-DATA-TF to the session; False when the state machine must act first."""
        session = self._session
        if self.state_machine.current_state != _ESTABLISHED or session is None:
            self._fault(ProtocolFault("P-DATA-TF outside an association", UNEXPECTED_PDU))
            return False
        if self._transfer is None:
            peer_max_pdu_bytes = self.assoc.requestor.maximum_length or 0
            self._transfer = session.establish(_accepted(self.assoc), peer_max_pdu_bytes)
        try:
            reply = self._transfer.receive(self._wire.take_body())
        except ProtocolFault as fault:
            self._fault(fault)
            return False
        if reply is not None:
            try:
                self._connection.sendall(reply)
            except OSError:
                self.event_queue.put("Evt17")
                return False
            self._wire.heard_at_s = time.monotonic()  # the time we took is not the peer's silence
        return True

    def _has_whole_pdu(self) -> bool:
        try:
            return self._wire.whole_pdu() > 0
        except ProtocolFault as fault:
            self._fault(fault)
            return False

    def _fill(self) -> bool:
        """Read more; False when nothing more can be read now."""
        if not self.event_queue.empty():
            return False
        with suppress(OSError):
            if self._wire.fill():
                return True
        self.event_queue.put("Evt17")
        return False

    def _must_look_around(self) -> bool:
        """Whether something other than more data wants this thread."""
        is_wanted = self._kill_thread or not self.to_provider_queue.empty()
        return is_wanted or self.idle_timer_expired()

    def _fault(self, fault: ProtocolFault) -> None:
        _log.warning("association aborted: %s", fault)
        self._abort_reason = fault.reason
        self._wire.discard_buffered()
        if self.event_queue.empty():
            self.event_queue.put("Evt19")

    def _send(self, pdu: Any) -> None:
        if isinstance(pdu, A_RELEASE_RP):
            self._end_session(Ending.RELEASED)
        elif isinstance(pdu, A_ABORT_RQ):
            self._end_session(Ending.ABORTED)
            if self._abort_reason:
                pdu.source, pdu.reason_diagnostic = 0x02, self._abort_reason
        super()._send(pdu)

    def _let_reactor_run(self, state: str) -> None:
        """Wake pynetdicom's association thread only when there is something for it.

        Left alone it looks around every millisecond, for each association, in the way of the data.
        """
        needed = (
            state != _ESTABLISHED or not self.to_user_queue.empty() or self.idle_timer_expired()
        )
        checkpoint = self.assoc._reactor_checkpoint
        checkpoint.set() if needed else checkpoint.clear()

    def _linger(self) -> bool:
        """Sta13: give the peer time to read what we sent and to close first."""
        now_s = time.monotonic()
        if not self._close_at_s:
            self._close_at_s = now_s + LINGER_S
            try:
                self._connection.shutdown(socket.SHUT_WR)
            except OSError:
                self._close_at_s = now_s
        may_wait = now_s < self._close_at_s and not self._kill_thread
        limit_s = min(self._close_at_s - now_s, _PATIENCE_S)
        if may_wait and (not self._wait(limit_s) or self._wire.discard()):
            return True
        self._transport.close()
        return True

    def _wait(self, limit_s: float) -> bool:
        """Whether the socket has something, within the limit; another thread may wake us."""
        poll = select.poll()
        poll.register(self._wakened, select.POLLIN)
        connection = self._connection.fileno()
        if connection >= 0:
            poll.register(connection, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(limit_s * 1000)}
        if self._wakened.fileno() in ready:
            self._wakened.recv(64)
        return connection in ready

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: it is gone
            self._waker.send(b"\0")

    def _is_idle(self) -> bool:
        """Whether no message is half received."""
        return self._transfer is None or self._transfer.is_idle

    def _end_session(self, ending: Ending) -> None:
        if self._session is not None:
            self._session.end(ending)

    def _finish(self) -> None:
        """The thread ends: whatever the state, nothing stays open or half done."""
        with self._session_lock:
            self._is_over = True
        self._end_session(Ending.ABORTED)
        if self.state_machine.current_state != _GONE:
            self._say_goodbye()
        # an association thread that still waits for a request stops waiting
        self.to_user_queue.put(cast(A_ASSOCIATE, None))
        self.assoc._reactor_checkpoint.set()
        self._owner.providers.discard(self)
        self._connection.close()  # pynetdicom forgets to where the peer closed first
        self._waker.close()
        self._wakened.close()

    def _say_goodbye(self) -> None:
        """A-ABORT past the state machine, which gave up."""
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, UNEXPECTED_PDU
        with suppress(OSError):
            self._connection.sendall(abort.encode())
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self._transport.close()


def _accepted(association: Association) -> dict[int, Context]:
    return {
        context.context_id: Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
        if context.context_id is not None
    }
