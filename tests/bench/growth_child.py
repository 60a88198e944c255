"""What a node with a past costs, measured in a process of the tree that is asked.

A program: ``PYTHONPATH=TREE python -P growth_child.py ASKED.json`` prints figures as JSON. It imports
nothing but the tree's own ``node`` and what that needs. One function per figure; where a tree calls
something by another name, both spellings stand side by side. Times are CPU time of this process on SQLite,
which runs in it and so is spared the moods of a disk and of other programs, and wall time on PostgreSQL.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from sqlalchemy import Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from node.database.engine import open_engine, writing
from node.database.migrate import migrate
from node.domain.delivery import DeliveryClass, Outcome
from node.jobs.outbox import Outbox
from node.jobs.revisions import mark_superseded
from node.pipeline.build import Plan, plan
from node.pipeline.retain import Retention
from node.pipeline.settle import Settler
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.spool.rebuild import rebuild_index

MIGRATE = "migrate"
TICK_S = 0.2
REPEATS = 15
PAGE = 100
_AFTER_THE_FIRST_S = 10.0
_MATCH_WRITTEN = re.compile(r'INSERT INTO "?match"?\s')

# what comes of a call that a tree spells otherwise; the other measures go on
_AS_IN_ANOTHER_TREE = (
    *(ImportError, AttributeError, TypeError, LookupError, AssertionError),
    SQLAlchemyError,
)

Figures = dict[str, float]


class Overtime(BaseException):
    """A measurement took longer than it may: nothing of the node may catch this."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Where the node lies that is measured.

    Args:
        newest: Study and series UIDs, of which what became of them is known, the newest first.
    """

    plan: Plan
    engine: Engine
    series: int
    newest: list[tuple[str, str]]

    def cost_s(self) -> float:
        """A clock."""
        is_here = self.engine.dialect.name == "sqlite"
        return time.process_time() if is_here else time.perf_counter()

    def cost_ms(self, call: Callable[[int], object], repeats: int = REPEATS) -> float:
        """The median of some calls, each told its number."""
        costs = []
        for number in range(repeats):
            began = self.cost_s()
            call(number)
            costs.append(self.cost_s() - began)
        return 1000 * median(costs)


# --- one function per figure, or per few that are found together ------------------------------------


def idle(asked: Asked) -> Figures:
    """A start with nothing unsettled, and ticks with nothing new."""
    index = Arrivals(asked.engine)
    settler, now = new_settler(asked), index.now()
    for number in range(30):  # a start finds what the process before it wrote down
        settler.tick(now + 6.0 * number)
    settler = new_settler(asked)
    began = asked.cost_s()
    settler.tick(now + 180.0)
    first_ms = 1000 * (asked.cost_s() - began)
    settler.tick(now + 181.0)
    tick_ms = asked.cost_ms(lambda _: settler.tick(index.now()))
    return {"first tick, ms": first_ms, "idle route, % of a core": tick_ms / (10 * TICK_S)}


def unsettled(asked: Asked) -> Figures:
    """From the start until the first series is settled, and the most memory of the process."""
    began, first = asked.cost_s(), []

    def note(*given: Any) -> None:
        if not first and _MATCH_WRITTEN.match(given[2]):
            first.append(asked.cost_s() - began)

    event.listen(asked.engine, "before_cursor_execute", note)
    index, settler = Arrivals(asked.engine), new_settler(asked)
    while not first or asked.cost_s() - began < first[0] + _AFTER_THE_FIRST_S:
        settler.tick(index.now())
        if settled(asked) == asked.series:
            break
    return {"first settled, s": first[0], "route at start, MB": peak_mb()}


def study(asked: Asked) -> Figures:
    """Ticks until every series of the only study is settled."""
    index, settler, ticks_s = Arrivals(asked.engine), new_settler(asked), []
    while settled(asked) < asked.series or len(ticks_s) < 2:
        began = asked.cost_s()
        settler.tick(index.now())
        ticks_s.append(asked.cost_s() - began)
    return {"study rule, all ticks, s": sum(ticks_s), "study rule, longest tick, s": max(ticks_s)}


def rebuild(asked: Asked) -> Figures:
    """The index is compared with the files of a spool, and nothing is found to do."""
    began = asked.cost_s()
    root = asked.plan.config.data_dir / "spool"
    try:
        from node.spool.files import SpoolFolders
    except ImportError:  # before 0005
        found = rebuild_index(asked.engine, root)
    else:
        found = rebuild_index(asked.engine, SpoolFolders(root))
    if found.instances:
        raise AssertionError(f"{found.instances} files were not known: names have changed")
    return {"start over an index, s": asked.cost_s() - began}


def deliveries(asked: Asked) -> Figures:
    """A lease of what one destination waits for, and of nothing while that destination is shut."""
    outbox, now, costs_s = Outbox(asked.engine), Arrivals(asked.engine).now(), []
    for _ in range(REPEATS):
        began = asked.cost_s()
        leased = outbox.lease_delivery("bench", 60.0, now=now)
        costs_s.append(asked.cost_s() - began)
        if leased is None:
            raise AssertionError("nothing is due")
        outbox.release(leased.id, "bench")

    def find_none(_: int) -> None:
        if outbox.is_any_due(now) and outbox.lease_delivery("bench", 60.0, now=now) is not None:
            raise AssertionError("a destination is open")

    with shut(asked, leased.destination, now + 3600.0):
        shut_ms = asked.cost_ms(find_none)
    return {
        "lease_delivery, ms": 1000 * median(costs_s),
        "lease_delivery, all shut, ms": shut_ms,
    }


def shut_and_open(asked: Asked) -> Figures:
    """Half of what waits goes elsewhere: deliveries there while the other is shut, and its return."""
    outbox, now = Outbox(asked.engine), Arrivals(asked.engine).now()
    leased = outbox.lease_delivery("bench", 60.0, now=now)
    if leased is None:
        raise AssertionError("nothing is due")
    outbox.release(leased.id, "bench")
    sick = {"d": leased.destination, "t": now + 1800.0}
    with writing(asked.engine) as connection:
        connection.execute(text("UPDATE outbox SET destination = 'open' WHERE id / 2 % 2 = 0"))
        waits = "UPDATE outbox SET next_at = :t WHERE destination = :d AND state = 'waiting'"
        connection.execute(text(waits), sick)
        elsewhere = "SELECT count(*) FROM outbox WHERE destination = 'open' AND state = 'waiting'"
        repeats = min(200, connection.execute(text(elsewhere)).scalar_one())
    if asked.engine.dialect.name == "postgresql":  # what was laid out here is no work of the node's
        with asked.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as server:
            for statement in ("VACUUM ANALYZE outbox", "CHECKPOINT"):
                server.execute(text(statement))
    held_ms: list[float] = []
    done = Outcome(kind=DeliveryClass.SENT, sentence="")

    def deliver(_: int) -> None:
        leased = outbox.lease_delivery("bench", 60.0, now=now)
        if leased is None or leased.destination != "open":
            raise AssertionError("nothing is due where it is open")
        outbox.record(leased.id, "bench", done, now=now)

    with shut(asked, sick["d"], now + 3600.0), locks_timed(asked.engine, held_ms):
        delivered_ms = asked.cost_ms(deliver, repeats)
    with shut(asked, sick["d"], now - 1.0):
        with writing(asked.engine) as connection:
            later = text("UPDATE outbox SET next_at = :t WHERE destination = 'open'")
            connection.execute(later, sick)
            one = "UPDATE outbox SET next_at = 0 WHERE id ="
            least = "(SELECT min(id) FROM outbox WHERE destination = :d AND state = 'waiting')"
            connection.execute(text(f"{one} {least}"), sick)
        back = outbox.lease_delivery("bench", 60.0, now=now)
        if back is None or back.destination != sick["d"]:
            raise AssertionError("nothing is due where it was shut")
        with locks_timed(asked.engine, held_ms):
            outbox.record(back.id, "bench", done, now=now)
    return {
        "one delivered while another is shut, ms": delivered_ms,
        "longest transaction of all, ms": max(held_ms),
    }


def work_of_series(asked: Asked) -> Figures:
    """What each series and job asks while it is settled or stored."""
    try:
        from node.jobs.revisions import SeriesWork
    except ImportError:  # before 0005
        from node.jobs.progress import WorkProgress as SeriesWork
    work, index = SeriesWork(asked.engine), Arrivals(asked.engine)
    now = index.now()

    def mark(number: int) -> None:
        with writing(asked.engine) as connection:
            mark_superseded(connection, number + 1, f"2.25.9{number}")

    return {
        "furthest, ms": asked.cost_ms(lambda n: work.furthest(*asked.newest[n])),
        "supersede, ms": asked.cost_ms(lambda n: work.supersede(*asked.newest[n], 1, now)),
        "mark_superseded, ms": asked.cost_ms(mark),
        "associations_around, ms": asked.cost_ms(
            lambda n: index.associations_around(asked.newest[n][1])
        ),
    }


def retention(asked: Asked) -> Figures:
    """A sweep that finds nothing to delete."""
    kept, now = Retention(asked.plan, asked.engine), Arrivals(asked.engine).now()
    for number in range(3):
        kept.sweep(now + 61.0 * number)
    sweep_ms = asked.cost_ms(lambda n: kept.sweep(now + 61.0 * (n + 3)), repeats=5)
    return {"retention, ms": sweep_ms}


def http(asked: Asked) -> Figures:
    """Pages of series and the readiness, through the whole application."""
    client = new_client(asked)

    def get(path: str) -> Any:
        answer = client.get(path)
        if answer.status_code not in (200, 503):
            raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    first = f"/api/v1/series?limit={PAGE}"
    last = f"{first}&offset={max(0, asked.series - PAGE)}"
    if "next" in get(first):  # pages by key, from 0006 on: walk to the last one
        page, last = get("/api/v1/series?limit=1000"), first
        while page["next"]:
            last = f"{first}&after={page['next']}"
            page = get(f"/api/v1/series?limit=1000&after={page['next']}")
    return {
        "GET /series first page, ms": asked.cost_ms(lambda _: get(first)),
        "GET /series last page, ms": asked.cost_ms(lambda _: get(last)),
        "GET /readyz, ms": asked.cost_ms(lambda _: get("/readyz")),
    }


MEASURES: Mapping[str, Callable[[Asked], Figures]] = {
    each.__name__: each
    for each in (
        *(idle, unsettled, study, rebuild, deliveries, shut_and_open),
        *(work_of_series, retention, http),
    )
}


# --- what they need ----------------------------------------------------------------------------------


def new_settler(asked: Asked) -> Any:
    """A ``Settler`` that knows nothing yet, as after a start."""
    try:
        from node.pipeline.settle import settle_deps
    except ImportError:  # before 0005
        from node.pipeline.roles import settle_room as settle_deps
    try:
        from node.pipeline.settle import TICK_WORK_S
    except ImportError:  # before 0006
        return Settler(settle_deps(asked.plan, asked.engine))
    return Settler(settle_deps(asked.plan, asked.engine), most_s=TICK_WORK_S)


def new_client(asked: Asked) -> Any:
    """A client of the application, which is called without a socket."""
    from starlette.testclient import TestClient

    from node.jobs.catalog import JobCatalog
    from node.web.app import create_app

    try:
        from node.process.health import NodeHealth
        from node.spool.files import SpaceGuard
        from node.web.api import WebServices

        more = {"auth": asked.plan.config.web.auth}
    except ImportError:  # before 0005
        from node.pipeline.admin import NodeHealth
        from node.spool.space import SpaceGuard
        from node.web.services import WebServices

        more = {}
    from node.pipeline.accept import spool_settings

    config = asked.plan.config
    space = SpaceGuard(config.data_dir, spool_settings(config).watermark)
    try:
        health = NodeHealth(asked.engine, space)
    except TypeError:  # before 0006
        health = NodeHealth(asked.plan, asked.engine, space)
    services = WebServices(
        spool=SpoolCatalog(asked.engine),
        jobs=JobCatalog(asked.engine),
        models=None,
        actions=None,
        health=health,
        results_dir=asked.plan.results_folder,
        counts_dir=asked.plan.config.data_dir / "run" / "counts",
    )
    return TestClient(create_app(services, **more), base_url="http://127.0.0.1")


def settled(asked: Asked) -> int:
    """How many series are not arriving any more."""
    count = text("SELECT count(*) FROM series WHERE state <> 'receiving'")
    with asked.engine.connect() as connection:
        return int(connection.execute(count).scalar_one())


@contextmanager
def shut(asked: Asked, destination: str, until: float) -> Iterator[None]:
    """Have a destination left alone until a time, then see it as well again."""
    statement = text("UPDATE breaker SET open_until = :t, failures = :f WHERE destination = :d")
    values = {"d": destination}
    with writing(asked.engine) as connection:
        connection.execute(statement, {**values, "t": until, "f": 3})
    yield
    with writing(asked.engine) as connection:
        connection.execute(statement, {**values, "t": 0.0, "f": 0})


@contextmanager
def locks_timed(engine: Engine, held_ms: list[float]) -> Iterator[None]:
    """Note how long each writing transaction lasts, in wall time, what a commit waits for included."""
    began: dict[int, float] = {}

    def begin(connection: Any) -> None:
        if connection.get_execution_options().get("segnode_writing"):
            began[id(connection.connection.dbapi_connection)] = time.perf_counter()

    def end(of_driver: Any, _record: Any) -> None:
        if (since := began.pop(id(of_driver), None)) is not None:
            held_ms.append(1000 * (time.perf_counter() - since))

    event.listen(engine, "begin", begin)
    event.listen(engine, "checkin", end)
    try:
        yield
    finally:
        event.remove(engine, "begin", begin)
        event.remove(engine, "checkin", end)


def peak_mb() -> float:
    """Most memory that this process had.

    Source: proc(5), VmHWM
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def measured(name: str, asked: Asked, limit_s: float) -> dict[str, Any]:
    """The figures of one measure, or why there are none."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Overtime

    # one that counts CPU time would have the kernel count it in whole ticks, for the figures as well
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        return {"figures": MEASURES[name](asked)}
    except Overtime:
        return {"why": f"over {limit_s:g} s, {peak_mb():.0f} MB"}
    except _AS_IN_ANOTHER_TREE as error:
        return {"why": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Bring the database up to date, or measure what is asked."""
    given = json.loads(Path(sys.argv[1]).read_text())
    logging.disable(logging.CRITICAL)
    if given["measures"] == [MIGRATE]:
        engine = open_engine(given["url"])
        migrate(engine)
        engine.dispose()
        return
    planned = plan(Path(given["config"]), {})
    asked = Asked(
        plan=planned,
        engine=planned.open_engine(),
        series=given["series"],
        newest=[(study_uid, series_uid) for study_uid, series_uid in given["newest"]],
    )
    print(json.dumps({name: measured(name, asked, given["limit_s"]) for name in given["measures"]}))


if __name__ == "__main__":
    main()
