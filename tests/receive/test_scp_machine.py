"""The state machine against the table that pynetdicom has of the Standard."""

from __future__ import annotations

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from node.receive.scp.association import PDU_EVENTS, TABLE, Action, Event, Machine, State

# what pynetdicom's action functions lead to, as PS3.8 Tables 9-6 to 9-9 say it
_LEADS_TO = {
    "AE-5": {State.AWAITING_REQUEST},
    "AE-6": {State.AWAITING_DECISION},  # a rejection is decided there
    "AE-7": {State.ESTABLISHED},
    "AE-8": {State.AWAITING_CLOSE},
    "DT-2": {State.ESTABLISHED},
    "AR-2": {State.AWAITING_RELEASE},
    "AR-4": {State.AWAITING_CLOSE},
    "AR-5": {State.IDLE},
    "AA-1": {State.AWAITING_CLOSE},
    "AA-2": {State.IDLE},
    "AA-3": {State.IDLE},
    "AA-4": {State.IDLE},
    "AA-5": {State.IDLE},
    "AA-6": {State.AWAITING_CLOSE},
    "AA-7": {State.AWAITING_CLOSE},
    "AA-8": {State.AWAITING_CLOSE},
}
# only who sends requests or data by itself, or releases, is in these
_REQUESTORS = {"Evt1", "Evt2", "Evt9", "Evt11"}


def test_every_row_is_that_of_the_standard() -> None:
    ours = {
        (event.value, state.value): action.value
        for state, rows in TABLE.items()
        for event, (action, _) in rows.items()
    }
    theirs = {
        (event, state): action
        for (event, state), action in TRANSITION_TABLE.items()
        if state in {each.value for each in State} and event not in _REQUESTORS
    }
    # data that this side sends is no event here; the rest of the acceptor's rows are all there
    assert ours.items() <= theirs.items()
    left_out = theirs.keys() - ours.keys()
    assert {event for event, _ in left_out} <= {"Evt7", "Evt8", "Evt14", "Evt15", "Evt18"}


def test_every_action_leads_where_the_standard_says() -> None:
    for rows in TABLE.values():
        for action, after in rows.values():
            assert after in _LEADS_TO[action.value], action


@pytest.mark.parametrize("state", [state for state in State if state is not State.IDLE])
def test_no_pdu_and_no_end_of_the_line_is_without_an_answer(state: State) -> None:
    for event in (*PDU_EVENTS.values(), Event.GOT_INVALID, Event.CLOSED):
        machine = Machine()
        machine.state = state

        assert isinstance(machine.take(event), Action)


def test_one_association_from_its_beginning_to_its_end() -> None:
    machine = Machine()
    road = [
        (Event.CONNECTED, State.AWAITING_REQUEST),
        (Event.GOT_REQUEST, State.AWAITING_DECISION),
        (Event.ACCEPT, State.ESTABLISHED),
        (Event.GOT_DATA, State.ESTABLISHED),
        (Event.GOT_RELEASE_REQUEST, State.AWAITING_RELEASE),
        (Event.RELEASE, State.AWAITING_CLOSE),
        (Event.CLOSED, State.IDLE),
    ]

    for event, after in road:
        machine.take(event)
        assert machine.state is after
