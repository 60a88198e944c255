"""The tick in bounded work: fair, in little memory, and after a start it asks only about the rest."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import Connection, Engine, delete, event

from node.domain.header import Header
from node.domain.instance import Instance, SeriesState
from node.pipeline.series import SeriesWatch
from node.pipeline.settle import NOTE_EVERY_S, Settler
from node.route.sets import Fit, Role
from node.spool import tables
from node.spool.arrivals import Arrivals
from tests.pipeline.test_series import instance, read
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, simulated_node

PAIR: dict[str, Any] = {
    "name": "pair", "run": "pair", "send": ["shelf"],
    "study": {"fixed": {"SeriesDescription": "fixed"}, "moving": {"SeriesDescription": "moving"}},
}  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    with simulated_node(tmp_path, worker) as simulated:
        yield simulated


@pytest.fixture(params=["sqlite", "postgresql"])
def any_node(
    request: pytest.FixtureRequest, tmp_path: Path, worker: SharedWorker
) -> Iterator[SimulatedNode]:
    """A node on each database."""
    on = {"database": request.getfixturevalue("empty_postgresql")()}
    with simulated_node(tmp_path, worker, **(on if request.param == "postgresql" else {})) as made:
        yield made


def settle_with(node: SimulatedNode, **limits: Any) -> None:
    """Have another route process, with these limits, in the place of the one that the node has."""
    node.node.settler = Settler(node.node.deps, **limits)


def known(node: SimulatedNode, *names: str) -> list[str]:
    """Which of these series have a row."""
    arrivals = Arrivals(node.node.engine)
    return [name for name in names if arrivals.series(ct(name).uid("series")) is not None]


# --- fairness ------------------------------------------------------------------------------------


def test_what_a_tick_did_not_reach_comes_first_in_the_next(node: SimulatedNode) -> None:
    settle_with(node, most_s=0)
    for name in "abc":
        node.receive(ct(name).files()[:4], end=None)
    reached = []

    for late in range(4, 8):
        node.tick(0.2)
        reached.append(known(node, *"abcd"))
        if late == 4:
            node.receive(ct("d").files()[:4], end=None)
        node.receive(ct("a").files()[late:][:1], end=None)  # one that never rests

    assert reached == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]


def test_a_tick_ends_when_its_time_is_over(node: SimulatedNode) -> None:
    seconds = iter(range(100))
    settle_with(node, most_s=2.0, clock=lambda: next(seconds))
    for name in "abcde":
        node.receive(ct(name).files())

    node.tick()
    first = known(node, *"abcde")
    node.tick()

    assert (first, known(node, *"abcde")) == (["a", "b"], ["a", "b", "c", "d"])


def test_a_series_that_takes_long_to_read_lets_others_come_between(node: SimulatedNode) -> None:
    long, short = ct("long"), ct("short")
    read_header, seconds = node.node.deps.read_header, [0.0]

    def slowly(instance: Instance) -> Dataset:
        seconds[0] += instance.series_instance_uid == long.uid("series")
        return read_header(instance)

    deps = replace(node.node.deps, read_header=slowly)
    node.node.settler = Settler(deps, most_s=0, slice_s=2, clock=lambda: seconds[0])
    node.receive(long.files())
    node.receive(short.files())

    node.tick()
    node.tick()
    between = known(node, "long", "short")
    for _ in range(len(long.files())):
        node.tick(70)

    assert between == ["short"]
    assert node.series(long).instances == len(long.files())
    assert node.series(long).revision == 1
    assert seconds[0] == len(long.files()), "each header once"


def test_a_study_of_many_series_makes_no_other_wait_for_more_than_one_tick_each(
    node: SimulatedNode,
) -> None:
    node.reconfigure(rules=[PAIR, CT_RULE])
    settle_with(node, most_s=0)
    many = [ct(f"{n}", study="many", SeriesDescription="fixed") for n in range(6)]
    for phantom in many:
        node.receive(phantom.files())
    node.tick(70)
    other = ct("other", study="other")
    node.receive(other.files())
    node.pass_time(70)

    for _ in range(len(many) + 1):
        node.tick()

    assert node.series(other).state is SeriesState.COMPLETE


def test_a_series_of_a_study_is_judged_a_bounded_number_of_times(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Header] = []
    judge = Role.judge

    def counted(role: Role, header: Header, slices: int) -> Fit:
        judged.append(header)
        return judge(role, header, slices)

    monkeypatch.setattr(Role, "judge", counted)
    node.reconfigure(rules=[PAIR])
    many = [ct(f"{n}", SeriesDescription="fixed", slices=8 - n % 2) for n in range(7)]
    for phantom in many:
        node.receive(phantom.files())

    node.settle()

    # while it settles and once its row is written, for each of two roles
    assert len(judged) <= len(many) * 2 * 2
    judged.clear()
    node.receive(ct("late", SeriesDescription="moving").files())
    node.settle()
    assert len(judged) <= 2 * 2


# --- memory --------------------------------------------------------------------------------------


def test_a_watch_keeps_no_data_set_of_its_images() -> None:
    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(each), Dataset) for each in gc.get_objects())

    def fresh(one: Instance) -> Dataset:
        return Dataset(dict(read(one)._dict))

    before = alive()
    watch = SeriesWatch("1.2.3", "1.2", fresh)
    watch.take_rows((row, instance(row)) for row in range(6))
    watch.now()

    assert alive() - before <= 1


def arrive_in_turns(node: SimulatedNode) -> None:
    """Two series in turns, one of them with corrected copies, each step with a look."""
    first, second = ct("a"), ct("b", ImagesInAcquisition=8)
    renamed = ct("a", PatientName="Corrected^Name")
    association = node.receive([*first.files()[:5], *second.files()[:3]], end=None)
    node.tick(0.2)
    node.bring(association, second.files()[3:6])
    node.tick(0.2)
    node.bring(association, [*renamed.files()[:5], *renamed.files()[6:7]])
    node.tick(0.2)
    node.bring(association, [*second.files()[6:], *renamed.files()[5:6], *renamed.files()[7:]])
    node.tick(0.2)
    node.close(association)
    node.tick(0.2)
    node.tick(2.0)


def test_a_series_that_was_dropped_is_judged_as_one_that_never_was(
    tmp_path: Path, worker: SharedWorker
) -> None:
    found, reads = [], []
    for name, limits in (("kept", {}), ("dropped", {"most_images": 1})):
        (tmp_path / name).mkdir()
        with simulated_node(tmp_path / name, worker) as node:
            header_of, headers = node.node.deps.read_header, []

            def counted(one: Instance, header_of: Any = header_of, into: Any = headers) -> Dataset:
                into.append(one)
                return header_of(one)

            node.node.deps = replace(node.node.deps, read_header=counted)
            settle_with(node, **limits)
            arrive_in_turns(node)
            stamps = {"first_received_at": 0, "last_received_at": 0, "updated_at": 0, "reasons": ()}
            rows = [replace(node.series(ct(series)), **stamps) for series in "ab"]
            found.append((rows, [(job["revision"], job["state"]) for job in node.table("job")]))
            reads.append(len(headers))

    assert found[0] == found[1]
    assert {row.state for row in found[0][0]} == {"complete"}
    assert set(found[0][0][0].snapshot.values()) == {1, 2}
    assert reads[1] > reads[0]


def test_the_end_of_an_association_reaches_a_series_that_was_dropped(node: SimulatedNode) -> None:
    settle_with(node, most_images=1)
    association = node.receive(ct("a").files(), end=None)
    node.tick(0.2)
    node.receive(ct("b").files(), end=None, caller="ANOTHER")
    node.tick(0.2)

    node.close(association)
    node.tick(0.2)
    node.tick(1.0)

    assert node.series(ct("a")).evidence == "release"


# --- after a start -------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_before_write(engine: Engine, number: int) -> Iterator[None]:
    left = [number]

    def count(connection: Connection) -> None:
        if connection.get_execution_options().get("segnode_writing"):
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    event.listen(engine, "commit", count)
    try:
        yield
    except Killed:
        pass
    finally:
        event.remove(engine, "commit", count)


def test_a_death_between_any_two_writes_leaves_nothing_behind_the_mark(
    any_node: SimulatedNode,
) -> None:
    node = any_node
    node.reconfigure(rules=[PAIR, CT_RULE])
    arrivals = Arrivals(node.node.engine)
    for number in range(9):
        phantom = ct(f"{number}", study=f"{number}", SeriesDescription="fixed")
        node.receive(phantom.files())
        node.node.door.index.flush()
        with killed_before_write(node.node.engine, number):
            node.tick(NOTE_EVERY_S)
            node.tick(NOTE_EVERY_S)
            node.tick(70)
        row = arrivals.series(phantom.uid("series"))
        if row is None or row.state is SeriesState.RECEIVING:
            assert arrivals.unsettled()[0] == [phantom.uid("series")]
        node.start_again()
        node.settle()
        assert node.series(phantom).state is SeriesState.COMPLETE
    node.tick(NOTE_EVERY_S)

    assert [job["state"] for job in node.table("job")] == ["queued"] * 9
    assert arrivals.unsettled() == ([], arrivals.known_until())
    assert arrivals.known_until() == arrivals.newest()[0] == 9 * 8


def test_a_death_between_any_two_writes_loses_no_set(any_node: SimulatedNode) -> None:
    node = any_node
    node.reconfigure(rules=[PAIR])
    arrivals = Arrivals(node.node.engine)
    for number in range(12):
        study = f"{number}"
        node.receive(ct(f"{number}a", study=study, SeriesDescription="fixed").files())
        node.receive(ct(f"{number}b", study=study, SeriesDescription="moving").files())
        node.node.door.index.flush()
        with killed_before_write(node.node.engine, number):
            node.tick(NOTE_EVERY_S)
            node.tick(NOTE_EVERY_S)
            node.tick(70)
        node.start_again()
        node.settle()

    assert [job["state"] for job in node.table("job")] == ["queued"] * 12
    assert arrivals.unmatched_studies() == []


def test_the_mark_stays_before_what_was_not_reached(node: SimulatedNode) -> None:
    settle_with(node, most_s=0)
    arrivals = Arrivals(node.node.engine)
    marks = []
    for name in "abc":
        node.receive(ct(name).files())

    for _ in range(3):
        node.tick(NOTE_EVERY_S)
        marks.append(arrivals.known_until())

    # at the start everything is unknown, later each series from its first image on
    assert marks == [0, 0, 24]
    node.receive(ct("d").files())
    node.receive(ct("e").files())
    node.tick(NOTE_EVERY_S)
    assert arrivals.known_until() <= 32


def test_what_came_to_a_settled_series_before_a_death_is_beyond_the_mark(
    node: SimulatedNode,
) -> None:
    node.receive(ct().files()[:7])
    node.settle()
    node.tick(NOTE_EVERY_S)
    before = Arrivals(node.node.engine).unsettled()
    node.receive(ct().files()[7:])

    assert before == ([], 7)
    assert Arrivals(node.node.engine).unsettled() == ([ct().uid("series")], 8)


def test_images_that_come_while_a_series_is_given_up_do_not_stop_the_mark(
    node: SimulatedNode,
) -> None:
    node.receive(ct().files()[:7])
    node.settle()
    node.receive(ct().files()[7:])
    node.decide(ct(), "discard")

    node.tick(NOTE_EVERY_S)
    node.tick(NOTE_EVERY_S)

    assert (node.series(ct()).state, node.series(ct()).newest_row) == ("discarded", 8)
    assert Arrivals(node.node.engine).known_until() == 8


def test_rows_that_are_counted_anew_are_taken_in(node: SimulatedNode) -> None:
    """SQLite counts from 1 again in a table that retention emptied."""
    node.receive(ct("old").files())
    node.settle()
    node.tick(NOTE_EVERY_S)
    with node.node.engine.begin() as connection:
        for table in (tables.series_detail, tables.series, tables.instance):
            connection.execute(delete(table))
    node.receive(ct("new").files()[:5])

    node.settle()
    node.tick(NOTE_EVERY_S)

    assert node.series(ct("new")).state is SeriesState.COMPLETE
    assert Arrivals(node.node.engine).known_until() == 5


def test_a_loss_that_is_counted_anew_is_noticed(node: SimulatedNode) -> None:
    lost = {
        "sop_instance_uid": "1.2.3", "image": "1.2.3", "association_id": "a", "dimse_status": 0,
        "reason": "refused", "lost_at": 0.0, "settled_at": None,
    }  # fmt: skip
    with node.node.engine.begin() as connection:
        for number in range(3):
            values = {**lost, "image": f"{number}", "series_instance_uid": "1.2.9"}
            connection.execute(tables.loss.insert().values(**values))
    node.receive(ct().files())
    node.settle()
    before = node.series(ct()).state
    with node.node.engine.begin() as connection:
        connection.execute(delete(tables.loss))  # as retention does when they are old
        values = {**lost, "series_instance_uid": ct().uid("series")}
        connection.execute(tables.loss.insert().values(**values))

    node.tick(0.2)

    assert (before, node.series(ct()).state) == (SeriesState.COMPLETE, SeriesState.HELD)


# --- an idle tick --------------------------------------------------------------------------------


@contextmanager
def asked(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Statements and their parameters."""
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_an_idle_tick_asks_as_little_whatever_was_before(node: SimulatedNode) -> None:
    counts = []
    for number in range(3):
        phantom = ct(f"{number}")
        node.receive(phantom.files())
        node.settle()
        node.tick(NOTE_EVERY_S)
        with asked(node.node.engine) as questions:
            node.tick(0.2)
        counts.append(len([q for q, _ in questions if q.startswith("SELECT")]))

    assert counts == [2, 2, 2]


def test_every_question_of_a_tick_finds_its_rows_by_an_index(node: SimulatedNode) -> None:
    node.reconfigure(rules=[PAIR, CT_RULE])
    waiting = node.receive(ct("waits").files()[:5], end=None)
    with asked(node.node.engine) as questions:
        node.start_again()
        node.receive(ct("whole", SeriesDescription="fixed").files())
        node.settle()
        node.close(waiting)
        node.tick(NOTE_EVERY_S)
    growing = {"instance", "series", "series_detail", "association", "match", "job", "result"}
    scans = []
    with node.node.engine.connect() as connection:
        for statement, parameters in dict.fromkeys(
            (q, p) for q, p in questions if q.lstrip().startswith(("SELECT", "UPDATE"))
        ):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            scans += [
                (row[3], statement)
                for row in plan
                if row[3].startswith("SCAN")
                and row[3].split()[1] in growing
                and "series_forced" not in row[3]  # an index of those alone that are asked for
            ]

    assert len(questions) > 30
    assert scans == []


def test_only_associations_that_could_still_bring_more_are_asked_for(
    any_node: SimulatedNode,
) -> None:
    node, index = any_node, any_node.node.door.index
    before = node.receive([])
    opened = node.receive([], end=None)
    node.pass_time(5)
    carrier = node.receive(ct().files())
    for _ in range(3):  # of a busy caller there are thousands: the newest tells that it went on
        node.pass_time(5)
        since, stranger = node.receive([]), node.receive([], caller="ANOTHER")
    index.flush()

    found = Arrivals(node.node.engine).associations_around(ct().uid("series"))

    assert {row["id"]: row["carried"] for row in found} == {carrier: 8, opened: 0, since: 0}
    assert before not in {row["id"] for row in found}
    assert stranger not in {row["id"] for row in found}
