"""The delivery loop: what it asks while nothing can start, and how soon it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from node.database.engine import column_of, open_engine, writing
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.jobs.outbox import SENDERS_PER_DESTINATION, Outbox
from node.jobs.tables import breaker, metadata, outbox
from node.pipeline import deliver
from node.pipeline.deliver import Deliverer, DeliveryDeps
from node.pipeline.signals import Signals
from tests.support.past import add_work
from tests.support.statements import recording
from tests.support.waiting import eventually

NEVER = 1e12


@dataclass
class Gate:
    """A destination that sends what it is given when it is told to."""

    name: str = "open"
    forms: tuple[str, ...] = ("seg",)
    is_open: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    sending: list[str] = field(default_factory=list)

    def send(self, deliverable: DeliverableObject) -> Outcome:
        self.sending.append(deliverable.sop_instance_uid)
        assert self.is_open.acquire(timeout=60.0)
        return Outcome(kind=DeliveryClass.SENT, sentence="stored", status=0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database in which deliveries wait, some of them for a destination that is shut."""
    engine = open_engine(f"sqlite:///{tmp_path}/segnode.sqlite")
    metadata.create_all(engine)
    add_work(engine, 0, 200, now=1000.0)
    with writing(engine) as connection:
        shut = {"destination": "shut", "failures": 3, "open_until": NEVER}
        connection.execute(breaker.insert().values(**shut))
    yield engine
    engine.dispose()


@contextmanager
def delivering(
    engine: Engine, gate: Gate, folder: Path
) -> Iterator[tuple[Signals, threading.Thread]]:
    deps = DeliveryDeps(outbox=Outbox(engine), destinations={"open": gate}, results=folder)
    signals = Signals()
    loop = threading.Thread(
        target=Deliverer(deps, owner="deliver").run, args=(signals, lambda: None)
    )
    loop.start()

    try:
        yield signals, loop
    finally:
        for _ in range(100):
            gate.is_open.release()
        signals.stop.set()
        loop.join()


def waiting(engine: Engine, destination: str) -> int:
    its = (outbox.c.destination == destination, outbox.c.state == "waiting")
    return len(column_of(engine, select(outbox.c.id).where(*its)))


def test_a_destination_gets_the_next_whenever_a_sender_is_free(engine, tmp_path) -> None:
    gate, total = Gate(), waiting(engine, "open")

    with delivering(engine, gate, tmp_path):
        for sent in range(total - SENDERS_PER_DESTINATION):
            due = SENDERS_PER_DESTINATION + sent
            assert eventually(lambda due=due: len(gate.sending) == due)
            gate.is_open.release()
        for _ in range(SENDERS_PER_DESTINATION):
            gate.is_open.release()
        assert eventually(lambda: waiting(engine, "open") == 0)

    assert len(set(gate.sending)) == total


def test_a_destination_that_does_not_answer_holds_up_no_stop(
    engine, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "DRAIN_S", 0.1)
    gate = Gate()
    with delivering(engine, gate, tmp_path) as (signals, loop):
        assert eventually(lambda: len(gate.sending) == SENDERS_PER_DESTINATION)

        signals.stop.set()
        loop.join()

        # as the next life of the role does
        assert Outbox(engine).take_back("deliver") == SENDERS_PER_DESTINATION


def test_what_is_being_sent_at_a_stop_is_finished(engine, tmp_path) -> None:
    gate, total = Gate(), waiting(engine, "open")
    with delivering(engine, gate, tmp_path) as (signals, _):
        assert eventually(lambda: len(gate.sending) == SENDERS_PER_DESTINATION)
        signals.stop.set()

    assert waiting(engine, "open") <= total - SENDERS_PER_DESTINATION
    assert Outbox(engine).take_back("deliver") == 0


def test_while_everything_is_shut_nothing_is_leased_however_much_waits(engine, tmp_path) -> None:
    with writing(engine) as connection:
        connection.execute(
            outbox.update().where(outbox.c.state == "waiting").values(destination="shut")
        )

    gate = Gate()
    with delivering(engine, gate, tmp_path):
        with recording() as begun:
            assert eventually(lambda: len(begun.statements) > 6)
        with recording() as looks:  # of few statements each
            assert eventually(lambda: len(looks.statements) > 60)

    assert all(one.text.startswith(("SELECT", "WITH")) for one in looks.statements)
    assert gate.sending == []
