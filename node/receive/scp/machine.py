"""The state machine of an acceptor, without IO: events in, actions out.

Source: PS3.8 9.2, Tables 9-6 to 9-10; what only a requestor can be in or do is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


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
