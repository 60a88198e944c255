"""The outbox: patient, fair, and exact about who holds what (A8, A12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from threading import Barrier

import pytest
from sqlalchemy import Engine, event, select

from node.database.engine import open_engine, reading, writing
from node.domain.delivery import DeliveryClass, Outcome
from node.domain.errors import LeaseLost, NodeError
from node.domain.job import DeliveryState
from node.jobs.leases import JobLeases
from node.jobs.outbox import SENDERS_PER_DESTINATION, Outbox
from node.jobs.results import ResultStore
from node.jobs.retry import (
    BREAKER_CAP_S,
    BREAKER_OPENS_AT,
    DELIVERY_CAP_S,
    MAX_REFUSALS,
    breaker_delay_s,
    delivery_delay_s,
)
from node.jobs.store import JobStore
from node.jobs.tables import breaker, outbox

LEASE_S = 600.0
DAY_S = 86400.0

SENT = Outcome(kind=DeliveryClass.SENT, sentence="stored", status=0)
WARNED = Outcome(kind=DeliveryClass.WARNED, sentence="coerced", status=0xB000)
DOWN = Outcome(kind=DeliveryClass.RETRY, sentence="no connection", destination_sick=True)
BUSY = Outcome(kind=DeliveryClass.RETRY, sentence="failed to process", status=0x0110)
REFUSED = Outcome(kind=DeliveryClass.REFUSED, sentence="cannot understand", status=0xC000)
BLOCKED = Outcome(kind=DeliveryClass.BLOCKED, sentence="rejected for good")


@pytest.fixture
def box(engine: Engine) -> Outbox:
    return Outbox(engine, config_digest="c1", chance=lambda: 0.5)


@pytest.fixture
def put(engine: Engine, make_request, make_file):
    """Makes one result for the given destinations; returns its row."""

    def make(name: str, *destinations: str, revision: int = 1, series: str = "") -> int:
        series = series or f"1.{len(name)}.{int.from_bytes(name.encode())}"
        request = make_request(name, series=series, revision=revision, destinations=destinations)
        JobStore(engine).enqueue(request, now=0.0)
        leased = JobLeases(engine).lease("w", LEASE_S, now=0.0)
        file = make_file(name)
        return ResultStore(engine).put_results(leased.id, "w", [file], forms=["seg"], now=0.0)[0]

    return make


def rows(engine: Engine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with reading(engine) as connection:
        for row in connection.execute(select(outbox).order_by(outbox.c.id)):
            found.setdefault(row.destination, []).append(row.state)
    return found


def end(box: Outbox, outcome: Outcome, now: float) -> DeliveryState:
    leased = box.lease_delivery("s", LEASE_S, now=now)
    return box.record(leased.id, "s", outcome, now=now)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (SENT, DeliveryState.SENT),
        (WARNED, DeliveryState.WARNED),
        (DOWN, DeliveryState.WAITING),
        (BUSY, DeliveryState.WAITING),
        (REFUSED, DeliveryState.WAITING),
        (BLOCKED, DeliveryState.BLOCKED),
    ],
)
def test_each_class_has_its_consequence(outcome, state, box, put) -> None:
    put("a", "pacs")

    assert end(box, outcome, 0.0) is state


def drain(database_url: str, owner: str) -> list[int]:
    """Send until nothing is due; runs in a process of its own."""
    engine = open_engine(database_url)
    box = Outbox(engine)
    taken = []
    while leased := box.lease_delivery(owner, LEASE_S, now=1.0):
        taken.append(leased.id)
        box.record(leased.id, owner, SENT, now=1.0)
    engine.dispose()
    return taken


def test_four_senders_send_each_row_once(box, put, database_url) -> None:
    for n in range(20):
        put(f"r{n}", "pacs", "shelf", "archive")

    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        taken = [i for ids in pool.map(drain, [database_url] * 4, "abcd") for i in ids]

    assert sorted(Counter(taken).values()) == [1] * 60
    assert box.counts() == {"sent": 60}


def test_what_is_sent_is_never_leased_again(box, put) -> None:
    put("a", "pacs")
    end(box, SENT, 0.0)

    assert box.lease_delivery("s", LEASE_S, now=365 * DAY_S) is None


def test_a_destination_that_is_down_is_tried_for_days_without_a_storm(box, put) -> None:
    put("a", "pacs")
    now, attempts = 0.0, 0
    while now < 3 * DAY_S:
        leased = box.lease_delivery("s", LEASE_S, now=now)
        if leased is None:
            now += 200.0
            continue
        attempts += 1
        box.record(leased.id, "s", DOWN, now=now)

    assert 3 * DAY_S / (2 * DELIVERY_CAP_S) < attempts < 3 * DAY_S / (DELIVERY_CAP_S / 2)
    assert box.lease_delivery("s", LEASE_S, now=now + DELIVERY_CAP_S) is not None


def test_five_refusals_in_a_row_block(box, put, engine) -> None:
    put("a", "pacs")

    states = [end(box, REFUSED, n * DAY_S) for n in range(MAX_REFUSALS)]

    assert states == [DeliveryState.WAITING] * (MAX_REFUSALS - 1) + [DeliveryState.BLOCKED]
    with reading(engine) as connection:
        (why,) = connection.execute(select(outbox.c.reasons)).scalar_one()
    assert why == {"code": "delivery_blocked", "facts": {"told": "cannot understand"}}


def test_another_end_between_refusals_starts_their_count_again(box, put) -> None:
    put("a", "pacs")
    for n in range(MAX_REFUSALS - 1):
        end(box, REFUSED, n * DAY_S)
    end(box, BUSY, 10 * DAY_S)

    assert end(box, REFUSED, 11 * DAY_S) is DeliveryState.WAITING


def test_blocked_rows_are_freed_by_another_configuration_only(box, put, engine) -> None:
    put("a", "pacs")
    end(box, BLOCKED, 0.0)

    assert box.free_blocked(now=1.0) == 0
    assert Outbox(engine, config_digest="c2").free_blocked(now=1.0) == 1
    assert end(box, SENT, 1.0) is DeliveryState.SENT


def test_a_sick_destination_is_left_alone_and_the_others_flow(box, put, engine) -> None:
    for n in range(BREAKER_OPENS_AT + 4):
        put(f"r{n}", "sick", "well")
    tried: Counter[str] = Counter()
    while leased := box.lease_delivery("s", LEASE_S, now=1.0):
        tried[leased.destination] += 1
        box.record(leased.id, "s", DOWN if leased.destination == "sick" else SENT, now=1.0)

    assert tried == {"sick": BREAKER_OPENS_AT, "well": BREAKER_OPENS_AT + 4}
    assert set(box.open_breakers(now=1.0)) == {"sick"}
    assert rows(engine)["sick"] == ["waiting"] * (BREAKER_OPENS_AT + 4)


def test_a_destination_that_hangs_never_takes_all_senders(box, put) -> None:
    for n in range(6):
        put(f"r{n}", "hangs")
    put("last", "well")

    leased = [box.lease_delivery(f"s{n}", LEASE_S, now=1.0) for n in range(4)]

    assert [d.destination if d else None for d in leased].count("hangs") == SENDERS_PER_DESTINATION
    assert "well" in [d.destination for d in leased if d]


def test_nothing_is_due_while_all_that_waits_is_shut(box, put) -> None:
    for n in range(BREAKER_OPENS_AT + 1):
        put(f"r{n}", "sick")
    for _ in range(BREAKER_OPENS_AT):
        end(box, DOWN, 1.0)

    assert not box.is_any_due(now=2.0)
    (until,) = box.open_breakers(now=2.0).values()
    assert box.is_any_due(now=until)

    put("other", "well")
    assert box.is_any_due(now=2.0)


def test_nothing_is_due_while_all_senders_of_a_destination_are_busy(box, put) -> None:
    for n in range(SENDERS_PER_DESTINATION + 1):
        put(f"r{n}", "pacs")
    busy = [box.lease_delivery("s", LEASE_S, now=1.0) for _ in range(SENDERS_PER_DESTINATION)]

    assert not box.is_any_due(now=1.0)
    assert box.lease_delivery("s", LEASE_S, now=1.0) is None
    box.record(busy[0].id, "s", SENT, now=1.0)
    assert box.is_any_due(now=1.0)


def test_fewest_busy_senders_come_first_then_what_is_due_longest(box, put) -> None:
    put("a", "pacs", "shelf")
    put("b", "pacs", "archive")
    put("c", "shelf")

    leased = [box.lease_delivery("s", LEASE_S, now=1.0) for _ in range(5)]

    assert [(d.destination, d.result.id) for d in leased] == [
        *[("pacs", 1), ("shelf", 1), ("archive", 2)],  # a sender for each, in the order of rows
        *[("pacs", 2), ("shelf", 3)],
    ]


def lease_at_once(engine: Engine, ready: Barrier, name: str) -> list[int]:
    box = Outbox(engine)
    ready.wait()
    leased = [box.lease_delivery(name, LEASE_S, now=1.0) for _ in range(2)]
    return [delivery.id for delivery in leased if delivery is not None]


def test_senders_that_lease_at_once_keep_to_their_number(put, database_url) -> None:
    """Each counts the others before it leases; none may count before another is counted."""
    for n in range(12):
        put(f"r{n}", "pacs")
    engines = [open_engine(database_url) for _ in range(6)]
    ready = Barrier(len(engines))

    with ThreadPoolExecutor(len(engines)) as pool:
        names = [f"s{n}" for n in range(len(engines))]
        taken = list(pool.map(lease_at_once, engines, [ready] * len(engines), names))
    for engine in engines:
        engine.dispose()

    assert sum(map(len, taken)) == SENDERS_PER_DESTINATION


@pytest.fixture
def put_many(engine: Engine, put):
    """Makes that many deliveries to one destination like one that was put."""

    def make(number: int, **values: object) -> None:
        put("a", "pacs")
        with writing(engine) as connection:
            connection.execute(outbox.update().values(**values))
            columns = {**connection.execute(select(outbox)).one()._mapping}
            del columns["id"]
            rows = [{**columns, "result_id": 1 + n} for n in range(1, number)]
            connection.execute(outbox.insert(), rows)

    return make


@contextmanager
def rows_per_update() -> Iterator[list[int]]:
    """How many rows each UPDATE of the outbox changes."""
    numbers: list[int] = []

    def note(_connection, cursor, statement, *_: object) -> None:
        if statement.startswith("UPDATE outbox"):
            numbers.append(cursor.rowcount)

    event.listen(Engine, "after_cursor_execute", note)
    yield numbers
    event.remove(Engine, "after_cursor_execute", note)


def test_what_waited_for_a_destination_comes_forward_in_short_transactions(
    box, put_many, engine
) -> None:
    put_many(500, next_at=DAY_S)
    with writing(engine) as connection:
        sick = breaker.insert().values(destination="pacs", failures=BREAKER_OPENS_AT)
        connection.execute(sick)
        for row, values in ((1, {"next_at": 0.0}), (2, {"refusals": 1})):
            connection.execute(outbox.update().where(outbox.c.id == row).values(**values))

    with rows_per_update() as numbers:
        end(box, SENT, 2.0)

    with reading(engine) as connection:
        waits = select(outbox.c.id).where(outbox.c.next_at > 2.0)
        assert connection.execute(waits).scalars().all() == [2]
    assert sum(numbers) == 2 + 498  # leased, recorded, and what waited but the refused one
    assert max(numbers) <= 100


def test_a_whole_destination_is_retried_in_short_transactions(box, put_many) -> None:
    put_many(500, state="blocked", config_digest="c1")

    with rows_per_update() as numbers:
        assert box.retry_destination("pacs", now=1.0) == 500

    assert box.counts() == {"waiting": 500}
    assert max(numbers) <= 100


def test_blocked_rows_are_freed_in_short_transactions(engine, put_many) -> None:
    put_many(500, state="blocked", config_digest="c1")

    with rows_per_update() as numbers:
        assert Outbox(engine, config_digest="c2").free_blocked(now=1.0) == 500

    assert max(numbers) <= 100


def test_one_sender_tries_after_the_pause_and_a_success_lets_all_through(box, put) -> None:
    for n in range(6):
        put(f"r{n}", "pacs")
    for _ in range(BREAKER_OPENS_AT):
        end(box, DOWN, 1.0)
    assert box.lease_delivery("s", LEASE_S, now=2.0) is None

    after = 2.0 + BREAKER_CAP_S
    probe = box.lease_delivery("s1", LEASE_S, now=after)
    assert box.lease_delivery("s2", LEASE_S, now=after) is None
    box.record(probe.id, "s1", SENT, now=after)

    states = [end(box, SENT, after) for _ in range(5)]
    assert states == [DeliveryState.SENT] * 5


def test_a_faulty_object_does_not_open_the_breaker(box, put) -> None:
    put("bad", "pacs")
    for n in range(MAX_REFUSALS):
        end(box, REFUSED, n * DAY_S)

    assert box.open_breakers(now=MAX_REFUSALS * DAY_S) == {}


def test_a_sender_that_died_is_replaced_and_its_late_word_is_not_heard(box, put) -> None:
    put("a", "pacs")
    dead = box.lease_delivery("dead", LEASE_S, now=0.0)
    assert box.lease_delivery("s", LEASE_S, now=LEASE_S - 1) is None

    again = box.lease_delivery("s", LEASE_S, now=LEASE_S + 1)

    assert (again.id, again.attempts) == (dead.id, 2)
    with pytest.raises(LeaseLost):
        box.record(dead.id, "dead", SENT, now=LEASE_S + 2)
    with pytest.raises(LeaseLost):
        box.heartbeat(dead.id, "dead", LEASE_S)
    with pytest.raises(LeaseLost):
        box.release(dead.id, "dead")
    assert box.record(again.id, "s", SENT, now=LEASE_S + 2) is DeliveryState.SENT


def test_a_heartbeat_keeps_a_long_send(box, put) -> None:
    put("a", "pacs")
    leased = box.lease_delivery("s", LEASE_S, now=0.0)
    box.heartbeat(leased.id, "s", LEASE_S, now=LEASE_S)

    assert box.lease_delivery("other", LEASE_S, now=LEASE_S + 1) is None


def test_a_drain_gives_the_attempt_back(box, put) -> None:
    put("a", "pacs")
    for _ in range(3):
        leased = box.lease_delivery("s", LEASE_S, now=0.0)
        box.release(leased.id, "s")

    assert leased.attempts == 1


def test_an_older_revision_that_could_not_be_sent_is_withheld(box, put, engine) -> None:
    put("a", "pacs", series="1.5")
    leased = box.lease_delivery("s", LEASE_S, now=0.0)
    put("b", "pacs", series="1.5", revision=2)

    assert box.record(leased.id, "s", DOWN, now=1.0) is DeliveryState.WITHHELD
    assert rows(engine)["pacs"] == ["withheld", "waiting"]


def test_an_operator_retries_one_row_or_a_whole_destination(box, put, engine) -> None:
    for name in ("a", "b", "c"):
        put(name, "pacs")
        end(box, BLOCKED, 0.0)
    with reading(engine) as connection:
        first = connection.execute(select(outbox.c.id).limit(1)).scalar_one()

    box.retry(first, now=1.0)
    assert rows(engine)["pacs"] == ["waiting", "blocked", "blocked"]

    assert box.retry_destination("pacs", now=1.0) == 3
    assert box.counts() == {"waiting": 3}
    with pytest.raises(NodeError):
        box.retry(10_000)


def test_retrying_a_destination_closes_its_breaker(box, put) -> None:
    for n in range(BREAKER_OPENS_AT):
        put(f"r{n}", "pacs")
    for _ in range(BREAKER_OPENS_AT):
        end(box, DOWN, 1.0)

    box.retry_destination("pacs", now=2.0)

    assert box.lease_delivery("s", LEASE_S, now=2.0) is not None


def test_a_result_can_be_sent_to_one_more_place_and_again(box, put, engine) -> None:
    result_id = put("a", "pacs")
    end(box, SENT, 0.0)

    box.send(result_id, "shelf", now=1.0)
    box.send(result_id, "pacs", now=1.0)

    assert rows(engine) == {"pacs": ["waiting"], "shelf": ["waiting"]}
    with pytest.raises(NodeError):
        box.send(result_id + 1, "pacs")


def test_a_row_without_destination_is_never_leased(box, put) -> None:
    put("a", "")

    assert box.lease_delivery("s", LEASE_S, now=DAY_S) is None


def test_what_a_peer_asks_for_is_honoured_within_reason() -> None:
    assert delivery_delay_s(1, 0.0, asked_s=120.0) == 120.0
    assert delivery_delay_s(1, 0.0, asked_s=1e9) == 3600.0


def test_delays_grow_to_their_caps_and_chance_spreads_them() -> None:
    delays = [delivery_delay_s(n, 0.99) for n in range(1, 2000)]

    assert delays == sorted(delays)
    assert delays[-1] <= DELIVERY_CAP_S
    assert delivery_delay_s(5, 0.0) < delivery_delay_s(5, 0.9)
    assert breaker_delay_s(BREAKER_OPENS_AT - 1, 0.5) == 0.0
    assert breaker_delay_s(10_000, 0.99) <= BREAKER_CAP_S
