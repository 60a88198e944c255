"""One association that asked to come in: judged, served and ended by a thread of its own.

``Machine``, which is without IO, says what may happen when; what only a requestor can be in or do is
left out of its table.

Source: PS3.8 9.2, Tables 9-6 to 9-10.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from threading import Event as Flag
from threading import Thread
from typing import Protocol

from node.domain.instance import Ending
from node.domain.limits import DimseLimits
from node.observe import counts
from node.receive.dimse_messages import (
    UNEXPECTED_PDU,
    Context,
    ProtocolFault,
    Transfer,
)
from node.receive.scp.negotiation import (
    AssociationRequest,
    Head,
    Refusal,
    abort,
    accept,
    reject,
    release_reply,
)
from node.receive.scp.wire import LineLost, Wire

# PS3.8 Table 9-26: who aborts, and a reason that says nothing
_BY_USER, _BY_PROVIDER, _NO_REASON = 0, 2, 0

_log = logging.getLogger(__name__)


class State(StrEnum):
    """Where an association stands."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    AWAITING_DECISION = "Sta3"
    ESTABLISHED = "Sta6"
    AWAITING_RELEASE = "Sta8"
    AWAITING_CLOSE = "Sta13"


class Event(StrEnum):
    """What the peer, the timer or this side does."""

    GOT_ACCEPT = "Evt3"
    GOT_REJECT = "Evt4"
    CONNECTED = "Evt5"
    GOT_REQUEST = "Evt6"
    ACCEPT = "Evt7"
    REJECT = "Evt8"
    GOT_DATA = "Evt10"
    GOT_RELEASE_REQUEST = "Evt12"
    GOT_RELEASE_REPLY = "Evt13"
    RELEASE = "Evt14"
    ABORT = "Evt15"
    GOT_ABORT = "Evt16"
    CLOSED = "Evt17"
    TIMER_EXPIRED = "Evt18"
    GOT_INVALID = "Evt19"


class Action(StrEnum):
    """What is to be done about it."""

    START_TIMER = "AE-5"
    JUDGE_REQUEST = "AE-6"
    SEND_ACCEPT = "AE-7"
    SEND_REJECT = "AE-8"
    TAKE_DATA = "DT-2"
    ASK_FOR_RELEASE = "AR-2"
    SEND_RELEASE_REPLY = "AR-4"
    STOP_TIMER = "AR-5"
    SEND_ABORT = "AA-1"
    CLOSE = "AA-2"
    TELL_ABORT_AND_CLOSE = "AA-3"
    TELL_ABORT = "AA-4"
    FORGET = "AA-5"
    IGNORE = "AA-6"
    SEND_ABORT_AGAIN = "AA-7"
    SEND_PROVIDER_ABORT = "AA-8"


_Rows = Mapping[Event, tuple[Action, State]]

_ANY_PDU = (
    Event.GOT_ACCEPT,
    Event.GOT_REJECT,
    Event.GOT_REQUEST,
    Event.GOT_DATA,
    Event.GOT_RELEASE_REQUEST,
    Event.GOT_RELEASE_REPLY,
    Event.GOT_INVALID,
)


def _on_any_pdu(action: Action) -> _Rows:
    return dict.fromkeys(_ANY_PDU, (action, State.AWAITING_CLOSE))


_GONE: _Rows = {
    Event.GOT_ABORT: (Action.TELL_ABORT_AND_CLOSE, State.IDLE),
    Event.CLOSED: (Action.TELL_ABORT, State.IDLE),
}
_AT_WILL: _Rows = {Event.ABORT: (Action.SEND_ABORT, State.AWAITING_CLOSE)}

TABLE: Mapping[State, _Rows] = {
    State.IDLE: {Event.CONNECTED: (Action.START_TIMER, State.AWAITING_REQUEST)},
    State.AWAITING_REQUEST: {
        **_on_any_pdu(Action.SEND_ABORT),
        Event.GOT_REQUEST: (Action.JUDGE_REQUEST, State.AWAITING_DECISION),
        Event.GOT_ABORT: (Action.CLOSE, State.IDLE),
        Event.CLOSED: (Action.FORGET, State.IDLE),
        Event.TIMER_EXPIRED: (Action.CLOSE, State.IDLE),
    },
    State.AWAITING_DECISION: {
        **_on_any_pdu(Action.SEND_PROVIDER_ABORT),
        **_GONE,
        **_AT_WILL,
        Event.ACCEPT: (Action.SEND_ACCEPT, State.ESTABLISHED),
        Event.REJECT: (Action.SEND_REJECT, State.AWAITING_CLOSE),
    },
    State.ESTABLISHED: {
        **_on_any_pdu(Action.SEND_PROVIDER_ABORT),
        **_GONE,
        **_AT_WILL,
        Event.GOT_DATA: (Action.TAKE_DATA, State.ESTABLISHED),
        Event.GOT_RELEASE_REQUEST: (Action.ASK_FOR_RELEASE, State.AWAITING_RELEASE),
    },
    State.AWAITING_RELEASE: {
        **_on_any_pdu(Action.SEND_PROVIDER_ABORT),
        **_GONE,
        **_AT_WILL,
        Event.RELEASE: (Action.SEND_RELEASE_REPLY, State.AWAITING_CLOSE),
    },
    State.AWAITING_CLOSE: {
        **_on_any_pdu(Action.IGNORE),
        Event.GOT_REQUEST: (Action.SEND_ABORT_AGAIN, State.AWAITING_CLOSE),
        Event.GOT_INVALID: (Action.SEND_ABORT_AGAIN, State.AWAITING_CLOSE),
        Event.GOT_ABORT: (Action.CLOSE, State.IDLE),
        Event.CLOSED: (Action.STOP_TIMER, State.IDLE),
        Event.TIMER_EXPIRED: (Action.CLOSE, State.IDLE),
    },
}

PDU_EVENTS: Mapping[int, Event] = {
    0x01: Event.GOT_REQUEST,
    0x02: Event.GOT_ACCEPT,
    0x03: Event.GOT_REJECT,
    0x04: Event.GOT_DATA,
    0x05: Event.GOT_RELEASE_REQUEST,
    0x06: Event.GOT_RELEASE_REPLY,
    0x07: Event.GOT_ABORT,
}
"""PDU type -> the event that its arrival is. PS3.8 9.3.1"""


class Machine:
    """One association's state.

    Attributes:
        state: Where it stands.
    """

    def __init__(self) -> None:
        self.state = State.IDLE

    def take(self, event: Event) -> Action:
        """Go on to the next state; what is to be done on the way.

        Raises:
            KeyError: This side did what it may not do in this state: an error of the caller's. No
                peer can bring it about, since every PDU has a row in every state but ``IDLE``.
        """
        action, self.state = TABLE[self.state][event]
        return action


class Session(Protocol):
    """One admitted association, which holds its slot from admission to its end."""

    @property
    def is_user_known(self) -> bool:
        """Whether the user identity of the request was verified."""

    def establish(self, contexts: Mapping[int, Context], peer_max_pdu_bytes: int) -> Transfer:
        """Negotiation is over; whoever takes the messages that follow."""

    def end(self, ending: Ending) -> None:
        """The association is over; called at least once, the first call counts."""


class Gate(Protocol):
    """Judges who may come in."""

    def refusal_by(self, head: Head, address: str) -> Refusal | None:
        """Whether the head of a request is a reason to refuse it; at once, without asking anybody."""

    def admit(self, request: AssociationRequest) -> Session | Refusal:
        """Judge a whole request; this may take its time."""


class Line:
    """A connection and where it stands: what the door and an association hand to each other."""

    def __init__(self, wire: Wire, address: str) -> None:
        self.wire = wire
        self.address = address
        self.machine = Machine()
        self.machine.take(Event.CONNECTED)

    def next_event(self) -> Event | None:
        """The event that the PDU at the front of the buffer is; None while it is cut.

        Raises:
            ProtocolFault: It is none.
        """
        if not self.wire.whole_pdu():
            return None
        return PDU_EVENTS[self.wire.next_type or 0]

    def refuse(self, refusal: Refusal) -> None:
        """Answer a request by a rejection; the peer closes."""
        self.machine.take(Event.REJECT)
        self.say(reject(refusal))

    def break_off(self, event: Event, reason: int) -> None:
        """The peer broke the protocol: tell it, and let it close."""
        is_ours = self.machine.take(event) is Action.SEND_PROVIDER_ABORT
        self.say(abort(_BY_PROVIDER, reason) if is_ours else abort(_BY_USER, _NO_REASON))

    def say(self, data: bytes) -> None:
        """Send what may be the last; a line that is broken by then needs to hear nothing."""
        try:
            self.wire.send(data)
        except LineLost:
            self.wire.cut()


class Association(Thread):
    """A line from its request to the moment when only the peer's closing is waited for.

    Args:
        supported: Abstract syntax -> transfer syntaxes, the first preferred.
        done: Takes the line back when all is said.
    """

    def __init__(
        self,
        line: Line,
        request: AssociationRequest,
        gate: Gate,
        supported: Mapping[str, Sequence[str]],
        *,
        limits: DimseLimits,
        done: Callable[[Association], None],
    ) -> None:
        super().__init__(name="dimse-association", daemon=True)
        self.line = line
        self._wire = line.wire
        self._machine = line.machine
        self._request = request
        self._gate = gate
        self._supported = supported
        self._max_pdu_bytes = limits.max_pdu_bytes
        self._pace = _Pace(line.wire, limits)
        self._done = done
        self._is_retiring = Flag()
        self._session: Session | None = None

    def retire(self) -> None:
        """End the association after the message in hand."""
        self._is_retiring.set()

    def cut(self) -> None:
        """End the association now."""
        self._wire.cut()

    def run(self) -> None:
        try:
            self._wire.wait_from_now_on()
            transfer = self._open()
            while transfer is not None and self._machine.state is State.ESTABLISHED:
                self._serve(transfer)
        except LineLost:
            self._lose()
        except Exception:  # noqa: BLE001 - whatever it is, the peer is told and the slot is free
            _log.exception("association ended by an error in the node")
            counts.add(counts.ASSOCIATIONS_ABORTED, "error in the node")
            if self._machine.state not in (State.AWAITING_CLOSE, State.IDLE):
                self._machine.take(Event.ABORT)
                self.line.say(abort(_BY_PROVIDER, _NO_REASON))
        finally:
            self._end(Ending.ABORTED)
            self._done(self)

    def _open(self) -> Transfer | None:
        """Ask the gate, and answer the request; None where it is refused."""
        admitted = self._gate.admit(self._request)
        if isinstance(admitted, Refusal):
            self.line.refuse(admitted)
            return None
        self._session = admitted
        accepted = accept(
            self._request,
            self._supported,
            self._max_pdu_bytes,
            is_user_known=admitted.is_user_known,
        )
        transfer = admitted.establish(accepted.contexts, self._request.peer_max_pdu_bytes)
        self._machine.take(Event.ACCEPT)
        self._wire.send(accepted.pdu)
        return transfer

    def _serve(self, transfer: Transfer) -> None:
        """Take what has come, then wait a moment for more."""
        try:
            while (
                self._machine.state is State.ESTABLISHED
                and (event := self.line.next_event()) is not None
            ):
                self._take(event, transfer)
        except ProtocolFault as fault:
            self._fault(Event.GOT_INVALID, fault)
            return
        if self._machine.state is not State.ESTABLISHED:
            return
        if self._is_retiring.is_set() and transfer.is_idle:
            self._end(Ending.ABORTED)
            self._machine.take(Event.ABORT)
            self._wire.send(abort(_BY_USER, _NO_REASON))
        elif slowness := self._pace.fault(is_between_messages=transfer.is_idle):
            _log.warning("association aborted: %s", slowness, extra={"address": self.line.address})
            counts.add(counts.ASSOCIATIONS_ABORTED, slowness)
            self._end(Ending.ABORTED)
            self._machine.take(Event.ABORT)
            self._wire.send(abort(_BY_PROVIDER, _NO_REASON))
        elif not self._wire.fill():
            self._lose()

    def _take(self, event: Event, transfer: Transfer) -> None:
        body = self._wire.take_body()
        if event is Event.GOT_DATA:
            self._machine.take(event)
            reply = transfer.receive(body)
            if reply is not None:
                self._wire.send(reply)
        elif event is Event.GOT_RELEASE_REQUEST:
            self._machine.take(event)
            self._end(Ending.RELEASED)
            self._machine.take(Event.RELEASE)
            self._wire.send(release_reply())
        elif event is Event.GOT_ABORT:
            self._machine.take(event)
        else:
            self._fault(event, ProtocolFault("PDU out of place", UNEXPECTED_PDU))

    def _fault(self, event: Event, fault: ProtocolFault) -> None:
        _log.warning("association aborted: %s", fault, extra={"address": self.line.address})
        counts.add(counts.ASSOCIATIONS_ABORTED, "protocol")
        self._end(Ending.ABORTED)
        self.line.break_off(event, fault.reason)

    def _lose(self) -> None:
        """The connection is gone."""
        if self._machine.state is not State.IDLE:
            self._machine.take(Event.CLOSED)

    def _end(self, ending: Ending) -> None:
        if self._session is not None:
            self._session.end(ending)


class _Pace:
    """Whether a peer is silent, or slower than any honest line."""

    def __init__(self, wire: Wire, limits: DimseLimits) -> None:
        self._wire = wire
        self._limits = limits
        self._begin_anew()

    def fault(self, *, is_between_messages: bool) -> str:
        """What is wrong with its pace; empty where nothing is."""
        limit = self._limits
        if time.monotonic() - self._wire.heard_at_s > limit.idle_timeout_s:
            return "silent"
        if is_between_messages and self._wire.is_empty:
            self._begin_anew()
            return ""
        waited_s = self._wire.waited_s - self._waited_then_s
        if waited_s < limit.slowest_over_s:
            return ""
        came = self._wire.heard_bytes - self._bytes_then
        self._begin_anew()
        return "too slow" if came < limit.slowest_bytes_s * waited_s else ""

    def _begin_anew(self) -> None:
        self._waited_then_s, self._bytes_then = self._wire.waited_s, self._wire.heard_bytes
