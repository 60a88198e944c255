"""What a node asks of its database does not grow with its past, whatever asks.

Each road is gone over a short past and over one ten times as long. No statement may be more work than
before, and none may read a table that grows as a whole.

The plans are those of every node: SQLite makes them without statistics, as nobody runs ANALYZE, and
PostgreSQL is told that its planner may scan a table only where no index would do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text as sql
from typer.testing import CliRunner

import node.jobs.tables
import node.spool.tables
from node.cli import app_of
from node.database.engine import open_engine, writing
from node.domain.delivery import DeliveryClass, FormsTaken, Outcome
from node.domain.reasons import ReasonCode, told
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.results import ResultStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.jobs.tables import breaker
from node.jobs.values import LABELS, LeasedJob, ResultFile
from node.pipeline.retain import Retention
from tests.support.node_in_process import SharedWorker
from tests.support.past import add_past, series_of, study_of
from tests.support.simulated_node import SimulatedNode, ct, simulated_node
from tests.support.statements import Recording, recording

SHORT, LONG = 300, 3000
# A series of both pasts that was segmented, and of which something was refused
SHOWN = LONG - 5
# What one statement may be more, of the unit of its database
SLACK = {"sqlite": 1000, "postgresql": 100}
# Tables that do not grow: a row per name of the configuration, transport, or reader
SMALL = frozenset({"breaker", "listener", "peer_habit", "mark", "clock"})
GROWING = frozenset(
    name
    for metadata in (node.spool.tables.metadata, node.jobs.tables.metadata)
    for table in metadata.tables.values()
    if table.name not in SMALL
    for name in (table.name, f"{table.name}_pkey", *(str(index.name) for index in table.indexes))
)
# What may be more work after a long past, and why
BOUNDED = {re.compile(r"count\(.* LIMIT", re.DOTALL): "a count stops at a number of its own"}
# A page of 100 rows is fuller after a long past; what a row of it costs: test_pages
PAGE = re.compile(r"DESC\s+LIMIT")
A_PAGE_MAY_BE_MORE = 5
# An index that holds only what somebody decided and nobody did yet
PARTIAL = frozenset({"series_forced"})

SENT = Outcome(kind=DeliveryClass.SENT, sentence="stored", status=0)
DOWN = Outcome(kind=DeliveryClass.RETRY, sentence="no connection", destination_sick=True)
FAILED = told(ReasonCode.ATTEMPT_FAILED, "broken")

Road = Callable[[SimulatedNode, int], None]


# --- roads ---------------------------------------------------------------------------------------


def idle(node: SimulatedNode, _n: int) -> None:
    node.tick()
    node.tick(1.0)


def arrive_and_settle(node: SimulatedNode, n: int) -> None:
    series = ct(f"arriving {n}", study=f"arriving {n}")
    node.receive(series.files())
    node.settle()
    node.decide(series, "rerun")
    node.tick()
    node.settle()


def work(node: SimulatedNode, _n: int) -> None:
    leases, results = JobLeases(node.node.engine), ResultStore(node.node.engine)
    leases.take_back("dead")
    leases.reap()
    for end in (_finish, _finish_implausible, _fail, _give_back):
        assert leases.is_any_ready(without=["model0"])
        leased = leases.lease("w", 60.0, without=["model0"])
        assert leased is not None
        leases.heartbeat(leased.id, "w", 60.0)
        leases.stage(leased.id, "w", "read", 0.1)
        results.put_labels(leased.id, "w", _file(leased, LABELS))
        end(node, leased)


def _finish(node: SimulatedNode, leased: LeasedJob) -> None:
    files = [_file(leased, "seg")]
    ResultStore(node.node.engine).put_results(leased.id, "w", files, forms=["seg"])


def _finish_implausible(node: SimulatedNode, leased: LeasedJob) -> None:
    why = [told(ReasonCode.IMPLAUSIBLE_VOLUME, "a kidney of 9 litres")]
    ResultStore(node.node.engine).put_results(
        leased.id, "w", [_file(leased, "seg")], forms=["seg"], reasons=why, is_kept_back=True
    )
    JobStore(node.node.engine).accept(leased.id)


def _fail(node: SimulatedNode, leased: LeasedJob) -> None:
    JobLeases(node.node.engine).fail(leased.id, "w", [FAILED], permanent=True)
    JobStore(node.node.engine).retry(leased.id)
    JobStore(node.node.engine).cancel(leased.id)


def _give_back(node: SimulatedNode, leased: LeasedJob) -> None:
    JobLeases(node.node.engine).release(leased.id, "w")


def _file(leased: LeasedJob, form: str) -> ResultFile:
    is_object = form != LABELS
    return ResultFile(
        form=form,
        file_name=f"{leased.id}/{form}",
        size_bytes=1,
        sha256=f"{leased.id} {form}",
        sop_instance_uid=f"2.25.8.{leased.id}" if is_object else "",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4" if is_object else "",
        study_instance_uid=leased.study_instance_uid,
    )


def deliver(node: SimulatedNode, _n: int) -> None:
    box, now = node.outbox, node.now
    box.take_back("dead")
    box.free_blocked(now=now)
    for end in (SENT, SENT, DOWN, SENT):
        assert box.is_any_due(now=now)
        leased = box.lease_delivery("s", 60.0, now=now)
        assert leased is not None
        assert leased.destination == "open"
        box.heartbeat(leased.id, "s", 60.0, now=now)
        box.record(leased.id, "s", end, now=now)
    box.retry(leased.id, now=now)
    box.send(leased.result.id, "open", now=now)
    assert set(box.open_breakers(now=now)) == {"shut"}


def wait_for_recovery(node: SimulatedNode, _n: int) -> None:
    """Everything is shut: nothing is due, however much waits."""
    box, now = node.outbox, node.now
    _shut(node, "open", now + 60.0)
    assert not box.is_any_due(now=now)
    assert box.lease_delivery("s", 60.0, now=now) is None
    _shut(node, "open", 0.0)


def _shut(node: SimulatedNode, destination: str, until: float) -> None:
    values = {"failures": 3 if until else 0, "open_until": until}
    with writing(node.node.engine) as connection:
        changed = breaker.update().where(breaker.c.destination == destination).values(**values)
        if connection.execute(changed).rowcount == 0:
            connection.execute(breaker.insert().values(destination=destination, **values))


def supersede(node: SimulatedNode, n: int) -> None:
    """Newer states of series of which the result was sent, waits, or is not made yet."""
    series_work, jobs = SeriesWork(node.node.engine), JobStore(node.node.engine)
    for old in range(LONG - 20 * (n + 1), LONG - 20 * n):
        uid, study = series_of(old), study_of(old)
        series_work.furthest(study, uid)
        series_work.supersede(study, uid, 2, node.now)
        jobs.supersede(study, "ct", uid, 2, node.now)
        MatchStore(node.node.engine).newest("ct", uid)
    old = LONG - 20 * n - 31
    assert old % 10 == 9
    jobs.cancel(old + 1)
    jobs.retry(old + 1)
    jobs.give(old + 1, ["open"], FormsTaken())


def retain(node: SimulatedNode, _n: int) -> None:
    Retention(node.node.plan, node.node.engine).sweep(node.now)


def look(node: SimulatedNode, _n: int) -> None:
    """What people and monitors ask for."""
    for path in ("series", "jobs", "results", "deliveries", "quarantine"):
        node.node.api(f"/{path}")
    for path in ("series?state=complete", f"series?study={study_of(SHOWN)}", "jobs?state=done"):
        node.node.api(f"/{path}")
    for path in ("deliveries?state=sent", "deliveries?destination=shut", "quarantine?state=kept"):
        node.node.api(f"/{path}")
    for path in ("jobs", "results", "deliveries", "quarantine"):
        node.node.api(f"/{path}/{SHOWN + 1}")
    node.node.api(f"/series/{series_of(SHOWN)}")
    assert node.node.site.request("GET", "/readyz").status == 200


def look_at_all(node: SimulatedNode, _n: int) -> None:
    config = node.node.data_dir.parent / "node.yaml"
    shown = CliRunner().invoke(app_of(["status"]), ["status", "--config", str(config)])
    assert shown.exit_code == 0, shown.output


ROADS: tuple[Road, ...] = (
    *(idle, arrive_and_settle, work, deliver, wait_for_recovery),
    *(supersede, retain, look, look_at_all),
)


over_roads = pytest.mark.parametrize("road", ROADS, ids=[road.__name__ for road in ROADS])


# --- over a short past and a long one ------------------------------------------------------------


@dataclass
class Growing:
    """A node, and what each road asked of its database while the past was short and long."""

    database: str
    short: dict[Road, Recording] = field(default_factory=dict)
    long: dict[Road, Recording] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def grown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Growing]:
    folder = tmp_path_factory.mktemp("grown")
    keys = {}
    if request.param == "postgresql":
        keys["database"] = _without_scans(request.getfixturevalue("postgresql_url"))
    worker = SharedWorker()
    grown = Growing(request.param)
    with simulated_node(folder, worker, **keys) as node:
        node.tick()
        # what is added later has lower numbers: nothing of it is an arrival
        pasts = ((LONG - SHORT, LONG, grown.short), (0, LONG - SHORT, grown.long))
        for number, (first, last, kept) in enumerate(pasts):
            add_past(node.node.engine, first, last, now=node.now)
            _shut(node, "shut", node.now + 1e6)
            node.settle()
            for road in ROADS:
                with recording() as kept[road]:
                    road(node, number)
        yield grown
    worker.close()


def _without_scans(server: str) -> str:
    """A new database whose planner scans a table only where no index would do."""
    name = "grown"
    engine = open_engine(server.format(name="postgres"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sql(f"CREATE DATABASE {name}"))
        for setting in ("enable_seqscan", "jit"):
            connection.execute(sql(f"ALTER DATABASE {name} SET {setting} = off"))
    engine.dispose()
    return server.format(name=name)


@over_roads
def test_no_statement_is_more_work_after_a_long_past(grown: Growing, road: Road) -> None:
    short, slack = grown.short[road].work(), SLACK[grown.database]
    if road is retain and grown.database == "postgresql":
        slack = LONG  # asked about 200 series of so few, it reads them all

    more = [
        f"{short.get(statement, 0)} -> {work}: {statement}"
        for statement, work in grown.long[road].work().items()
        if work > 1.5 * short.get(statement, 0) + _slack(statement, slack)
        and not any(bounded.search(statement) for bounded in BOUNDED)
    ]

    assert not more, "\n".join(more)


def _slack(statement: str, usual: int) -> int:
    return usual * A_PAGE_MAY_BE_MORE if PAGE.search(statement) else usual


@over_roads
def test_no_statement_reads_the_whole_of_a_table_that_grows(grown: Growing, road: Road) -> None:
    statements = grown.long[road].statements
    assert statements

    # a page in the order of an index ends by itself: its work is the other test's
    whole = {one.text: one.scanned & GROWING - PARTIAL for one in statements}
    scans = [f"{names}: {text}" for text, names in whole.items() if names and "LIMIT" not in text]

    assert not scans, "\n".join(scans)
