"""Streams of PDUs against a real connection: it answers as the table says, never hangs, frees its slot.

A small model of an acceptor, made from PS3.8 Table 9-10 alone, says which PDUs answer a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.fsm import TRANSITION_TABLE

from node.receive.scp.association import TABLE, Event, Machine, State
from tests.faults.framing import FRAMING, NOISE
from tests.support import raw_dimse as raw
from tests.support.memory_node import Node, serving
from tests.support.waiting import eventually

_STATES = {each.value: each for each in State}


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_every_event_in_every_state_is_as_the_standard_has_it_or_is_refused(
    events: list[Event],
) -> None:
    machine = Machine()
    for event in events:
        before = machine.state
        try:
            action = machine.take(event)
        except KeyError:
            # only this side does such things, or nothing can come in this state
            assert before is State.IDLE or event not in {
                *(Event.GOT_INVALID, Event.CLOSED),
                *(each for each in Event if each.name.startswith("GOT_")),
            }
            assert machine.state is before
        else:
            assert TRANSITION_TABLE[event.value, before.value] == action.value
            assert machine.state in _STATES.values()
            assert TABLE[before][event] == (action, machine.state)


# --- streams --------------------------------------------------------------------------------------

REQUEST = raw.associate_request()
ECHO = raw.pdu(raw.P_DATA, raw.pdv(3, 0x03, raw.echo_command()))
STORE = raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, raw.store_command("1.2.3")))
PART = raw.pdu(raw.P_DATA, raw.pdv(1, 0x00, b"abc"))
LAST = raw.pdu(raw.P_DATA, raw.pdv(1, 0x02, b"abc"))
RELEASE = raw.pdu(raw.RELEASE_RQ, bytes(4))
ABORT = raw.pdu(raw.ABORT, bytes(4))
# what only an acceptor says
OTHERS = tuple(
    raw.pdu(kind, bytes(4)) for kind in (raw.ASSOCIATE_AC, raw.ASSOCIATE_RJ, raw.RELEASE_RP)
)
BROKEN = (*(sent for sent, _ in FRAMING.values()), *NOISE.values())
WELL_FORMED = (REQUEST, ECHO, STORE, PART, LAST, RELEASE, ABORT, *OTHERS)


@dataclass
class Model:
    """What an acceptor says to whole PDUs, as the kinds of its own."""

    said: list[int] = field(default_factory=list)
    is_open: bool = False
    is_over: bool = False
    in_message: bool = False

    def hear(self, sent: bytes) -> None:
        if self.is_over:
            return
        if sent == ABORT:
            self.is_over = True
        elif not self.is_open:
            self._say(raw.ASSOCIATE_AC if sent == REQUEST else raw.ABORT)
            self.is_open, self.is_over = sent == REQUEST, sent != REQUEST
        elif sent == ECHO and not self.in_message:
            self._say(raw.P_DATA)
        elif sent == STORE and not self.in_message:
            self.in_message = True
        elif sent == PART and self.in_message:
            pass
        elif sent == LAST and self.in_message:
            self.in_message = False
            self._say(raw.P_DATA)
        else:
            self._say(raw.RELEASE_RP if sent == RELEASE else raw.ABORT)
            self.is_over = True

    def _say(self, kind: int) -> None:
        self.said.append(kind)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with serving() as serve:
        # who is silent is not ended by a deadline here: what hangs shows
        yield serve(idle_timeout_s=3600.0, negotiation_timeout_s=3600.0)


def talk(node: Node, pieces: list[bytes]) -> list[int]:
    """Send pieces, end the stream, and read all that is answered."""
    with node.connect() as client:
        try:
            for piece in pieces:
                client.send(piece)
            client.connection.shutdown(1)
        except OSError:
            pass  # it was closed on us
        kinds = []
        while (answer := client.read()) != raw.CLOSED:
            kinds.append(answer.kind)
    return kinds


def is_at_rest(node: Node) -> bool:
    return node.server.open_associations() == 0 and node.ingest.open_arrivals == 0


def cut_at(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


# most streams open an association first: else nothing but A-ABORT is seen
_STREAMS = st.tuples(
    st.sampled_from([[REQUEST], [REQUEST], [REQUEST, STORE], []]),
    st.lists(st.sampled_from(WELL_FORMED), max_size=8),
).map(lambda parts: [*parts[0], *parts[1]])


@settings(max_examples=150)
@given(_STREAMS, st.lists(st.floats(0, 1), max_size=6))
def test_a_stream_is_answered_as_the_table_says_however_it_is_cut(
    node: Node, sent: list[bytes], cuts: list[float]
) -> None:
    model = Model()
    for pdu in sent:
        model.hear(pdu)

    said = talk(node, cut_at(b"".join(sent), cuts))

    # a reset, after this side has closed, may take the end of what was said with it
    assert said == model.said[: len(said)]
    assert said == model.said or model.is_over
    assert eventually(lambda: is_at_rest(node))


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(st.sampled_from((*WELL_FORMED, *BROKEN)), st.binary(max_size=40)), max_size=6
    ),
    st.booleans(),
    st.lists(st.floats(0, 1), max_size=4),
)
def test_no_stream_hangs_or_keeps_a_slot(
    node: Node, sent: list[bytes], opens: bool, cuts: list[float]
) -> None:
    talk(node, cut_at((REQUEST if opens else b"") + b"".join(sent), cuts))

    assert eventually(lambda: is_at_rest(node))
    assert node.is_alive()
