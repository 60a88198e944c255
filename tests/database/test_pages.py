"""Pages of lists on both databases: each row once, newest first, at the same cost wherever it stands."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, event, insert, text, update

from node.database import pages
from node.database.engine import open_engine, reading, writing
from node.database.migrate import migrate
from node.database.pages import Page, every, page_by_name
from node.domain.errors import CursorInvalid
from node.domain.health import Finding, HealthCode
from node.domain.instance import SeriesState
from node.domain.job import DeliveryState, JobState, MatchState
from node.jobs import tables as jobs_tables
from node.jobs.catalog import JobCatalog
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.process.health import NodeHealth
from node.spool import tables as spool_tables
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard, Watermark

ROWS = 1600
# what a page of ten may take, see ``steps_of``; to read a table takes ROWS rows, or many steps for each
FEW = {"sqlite": 1000, "postgresql": 200}

ListRows = Callable[..., Page]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node with a past: what is old differs from what is new in state, destination and model."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('lists') / 'index.sqlite'}"
    else:
        server: str = request.getfixturevalue("postgresql_url")
        maker = open_engine(server.format(name="postgres"))
        with maker.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE lists"))
        maker.dispose()
        url = server.format(name="lists")
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as connection:
        fill(connection, range(ROWS))
        if request.param == "postgresql":
            connection.execute(text("ANALYZE"))
    yield engine
    engine.dispose()


def fill(connection: Connection, numbers: range) -> None:
    """One series with all that may become of it, for each number; four are received at a time."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for number in numbers:
        for table, row in rows_of_series(number, is_old=number < ROWS // 2):
            rows.setdefault(table, []).append(row)
    tables = {**spool_tables.metadata.tables, **jobs_tables.metadata.tables}
    for name, those in rows.items():
        connection.execute(insert(tables[name]), those)


def rows_of_series(number: int, *, is_old: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    uid, study, at, id_ = f"1.2.{number}", f"1.9.{number // 5}", float(number // 4), number + 1
    yield "series_detail", {"series_instance_uid": uid, "header": {}}
    yield (
        "series",
        {
            "series_instance_uid": uid,
            "study_instance_uid": study,
            "first_received_at": at,
            "last_received_at": at,
            "state": "held" if number % 7 == 0 else "discarded" if is_old else "complete",
            "updated_at": at,
        },
    )
    yield (
        "quarantine",
        {
            "file_name": f"q{number}",
            "size_bytes": 1,
            "series_instance_uid": uid,
            "dimse_status": 0xC000,
            "reason": "no DICOM",
            "received_at": at,
            "transport": "dimse",
            "state": "discarded" if is_old else "kept",
        },
    )
    yield (
        "association",
        {
            "id": f"a{number}",
            "transport": "dimse",
            "opened_at": at,
            "heartbeat_at": at,
            "closed_at": None if number >= ROWS - 3 else at,
        },
    )
    yield (
        "match",
        {
            "rule": "r",
            "study_instance_uid": study,
            "series_key": uid,
            "roles": {"input": uid},
            "revision": 1,
            "state": "superseded" if is_old else "done",
            "created_at": at,
            "updated_at": at,
        },
    )
    yield (
        "job",
        {
            "id": id_,
            "job_key": uid,
            "state": "cancelled" if is_old else "done",
            "priority": 1,
            "model": "first" if is_old else "second",
            "model_digest": "d",
            "parameters": {},
            "study_instance_uid": study,
            "inputs": {},
            "destinations": [],
            "revision": 1,
            "config_digest": "c",
            "series_number": 900,
            "content_date": "20260101",
            "content_time": "101010",
            "deadline_s": 60.0,
            "created_at": at,
        },
    )
    yield (
        "result",
        {
            "id": id_,
            "job_id": id_,
            "form": "seg",
            "file_name": "f",
            "size_bytes": 1,
            "sha256": "s",
            "study_instance_uid": study,
            "state": "deleted" if is_old else "current",
            "created_at": at,
        },
    )
    yield (
        "outbox",
        {
            "id": id_,
            "result_id": id_,
            "destination": "old" if is_old else "new",
            "state": "sent" if is_old or number % 3 else "waiting",
            "created_at": at,
        },
    )


def lists_of(engine: Engine) -> Mapping[str, tuple[ListRows, Mapping[str, str]]]:
    """Each list as it may be asked for."""
    spool, jobs = SpoolCatalog(engine), JobCatalog(engine)
    asked: list[tuple[ListRows, Mapping[str, str]]] = [
        (spool.list_series, {}),
        (spool.list_series, {"state": "held"}),
        (spool.list_series, {"state": "discarded"}),
        (spool.list_series, {"study_instance_uid": "1.9.4"}),
        (spool.list_series, {"study_instance_uid": "1.9.4", "state": "discarded"}),
        (spool.list_quarantine, {}),
        (spool.list_quarantine, {"state": "discarded"}),
        (spool.list_quarantine, {"state": "kept", "series_instance_uid": f"1.2.{ROWS - 1}"}),
        (spool.list_associations, {}),
        (jobs.list_matches, {}),
        (jobs.list_matches, {"state": "superseded"}),
        (jobs.list_jobs, {}),
        (jobs.list_jobs, {"state": "cancelled"}),
        (jobs.list_jobs, {"model": "first"}),
        (jobs.list_jobs, {"study_instance_uid": "1.9.4"}),
        (jobs.list_jobs, {"study_instance_uid": "1.9.4", "state": "cancelled"}),
        (jobs.list_results, {}),
        (jobs.list_results, {"state": "deleted"}),
        (jobs.list_results, {"study_instance_uid": "1.9.4", "state": "deleted"}),
        (jobs.list_deliveries, {}),
        (jobs.list_deliveries, {"state": "sent"}),
        (jobs.list_deliveries, {"destination": "old"}),
        (jobs.list_deliveries, {"destination": "new", "state": "waiting"}),
    ]
    return {
        f"{list_rows.__name__} {' '.join(only.values())}".strip(): (list_rows, only)
        for list_rows, only in asked
    }


LISTS = list(lists_of(open_engine("sqlite://")))


def key_of(row: Mapping[str, Any]) -> object:
    return row.get("id") or row["series_instance_uid"]


def steps_of(engine: Engine, act: Callable[[], object], *, may_sort: bool = False) -> int:
    """What the database does for an act: steps of SQLite's machine, or rows that PostgreSQL visits.

    PostgreSQL reads so small a table from end to end, and sorts it, where it may; here it may not.
    """
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, given))

    event.listen(engine, "before_cursor_execute", note)
    act()
    event.remove(engine, "before_cursor_execute", note)
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            return sum(_steps_of_sqlite(connection, *each) for each in asked)
        for how in ("seqscan",) if may_sort else ("seqscan", "sort"):
            connection.execute(text(f"SET LOCAL enable_{how} = off"))
        return sum(_rows_of_postgresql(connection, *each) for each in asked)


def _steps_of_sqlite(connection: Connection, statement: str, given: Any) -> int:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    database: Any = connection.connection.driver_connection
    database.set_progress_handler(step, 1)
    database.execute(statement, given).fetchall()
    database.set_progress_handler(None, 0)
    return steps


def _rows_of_postgresql(connection: Connection, statement: str, given: Any) -> int:
    explain = f"EXPLAIN (ANALYZE, TIMING off, FORMAT json) {statement}"
    plan = connection.exec_driver_sql(explain, given).scalar_one()[0]["Plan"]
    return _visited(plan)


def _visited(node: Mapping[str, Any]) -> int:
    here = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    below = sum(_visited(child) for child in node.get("Plans", ()))
    return int(here * node["Actual Loops"]) + below


@pytest.mark.parametrize("name", LISTS)
def test_pages_hold_every_row_once_in_the_order_of_the_whole_list(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_AT_A_TIME", 401)
    list_rows, only = lists_of(engine)[name]

    whole = list_rows(limit=2 * ROWS, **only)
    paged = list(every(list_rows, **only))

    assert paged == whole.rows
    assert len({key_of(row) for row in paged}) == len(paged) == whole.total > 0


def test_a_row_that_comes_shifts_no_page(engine: Engine) -> None:
    catalog, series = SpoolCatalog(engine), spool_tables.series
    after = catalog.list_series(limit=5).next
    before = catalog.list_series(limit=5, after=after).rows
    newest = dict(rows_of_series(ROWS, is_old=False))["series"]

    with writing(engine) as connection:
        connection.execute(insert(series).values(newest))
    try:
        first, second = catalog.list_series(limit=5), catalog.list_series(limit=5, after=after)
    finally:
        with writing(engine) as connection:
            uid = newest["series_instance_uid"]
            connection.execute(delete(series).where(series.c.series_instance_uid == uid))

    assert first.rows[0]["series_instance_uid"] == uid
    assert second.rows == before


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("is_last", [False, True], ids=["first page", "last page"])
def test_a_page_reads_few_rows_wherever_it_stands(
    engine: Engine, name: str, is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", 20)
    list_rows, only = lists_of(engine)[name]
    after = None
    if is_last:
        whole = list_rows(limit=2 * ROWS, **only).rows
        after = list_rows(limit=max(len(whole) - 3, 1), **only).next

    def act() -> Page:
        return list_rows(limit=10, after=after, **only)

    steps = steps_of(engine, act, may_sort="study_instance_uid" in only)

    assert 0 < steps < FEW[engine.dialect.name]


def test_one_series_and_one_job_are_found_by_their_keys(engine: Engine) -> None:
    spool, jobs = SpoolCatalog(engine), JobCatalog(engine)
    acts: list[Callable[[], object]] = [
        lambda: spool.get_series("1.2.20"),
        lambda: jobs.matches_of_series("1.2.20", "1.9.4"),
        lambda: jobs.get_job(21),
        lambda: jobs.get_delivery(21),
    ]

    assert None not in [act() for act in acts]
    assert max(steps_of(engine, act, may_sort=True) for act in acts) < FEW[engine.dialect.name]


def test_counting_stops_where_nobody_needs_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", 20)

    many = JobCatalog(engine).list_jobs(limit=10)
    exactly = JobCatalog(engine).list_jobs(limit=2, study_instance_uid="1.9.4")

    assert (many.total, many.total_is_exact) == (20, False)
    assert (exactly.total, exactly.total_is_exact) == (5, True)


def test_counts_of_states_are_read_from_indexes_and_stop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", 20)

    spool, jobs = SpoolCatalog(engine), JobCatalog(engine)
    numbers: list[Callable[[], Mapping[str, int]]] = [
        spool.count_series,
        jobs.count_jobs,
        MatchStore(engine).counts,
        Outbox(engine).counts,
        lambda: {"kept": spool.count_quarantine()},
    ]

    counts = [count() for count in numbers]

    assert counts == [
        {"held": 20, "complete": 20, "discarded": 20},
        {"done": 20, "cancelled": 20},
        {"done": 20},
        {"waiting": 20, "sent": 20},
        {"kept": 20},
    ]
    assert max(steps_of(engine, count) for count in numbers) < FEW[engine.dialect.name]


def test_the_readiness_of_a_node_with_a_past_costs_what_needs_a_person(
    engine: Engine, tmp_path: Path
) -> None:
    held = sum(number % 7 == 0 for number in range(ROWS))
    health = NodeHealth(engine, SpaceGuard(tmp_path, Watermark(reserve_gb=0, max_used_percent=100)))

    assert health.health().findings == (Finding(HealthCode.HELD, facts={"count": held}),)
    assert steps_of(engine, health.health) < 10 * held + FEW[engine.dialect.name]


def test_only_the_states_that_are_asked_for_are_counted(engine: Engine) -> None:
    held = sum(number % 7 == 0 for number in range(ROWS))

    assert SpoolCatalog(engine).count_series(SeriesState.HELD) == {"held": held}
    assert JobCatalog(engine).count_jobs(JobState.RUNNING) == {}
    assert MatchStore(engine).counts(MatchState.SUPERSEDED) == {"superseded": ROWS // 2}
    assert Outbox(engine).counts(DeliveryState.BLOCKED) == {}


def test_every_row_of_a_list_is_read_some_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_AT_A_TIME", 700)
    catalog = JobCatalog(engine)

    assert [row["id"] for row in every(catalog.list_jobs)] == list(range(ROWS, 0, -1))
    assert len(list(every(catalog.list_jobs, state="cancelled"))) == ROWS // 2


def test_a_match_that_changes_meanwhile_is_not_missed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_AT_A_TIME", 700)
    match = jobs_tables.match
    rows = JobCatalog(engine).every_match()

    seen = [next(rows)["id"]]
    with writing(engine) as connection:
        connection.execute(update(match).where(match.c.id == 1).values(updated_at=9e9))
    seen += [row["id"] for row in rows]

    assert seen == list(range(ROWS, 0, -1))


def cursor(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "after",
    [
        "",
        "?",
        "abc",
        "\xe4",
        cursor({}),
        cursor([]),
        cursor([1.0]),
        cursor([1, "1.2"]),
        cursor(["1.2", 1.0]),
        cursor([1.0, "1.2", 3]),
        cursor([True, "1.2"]),
        cursor([float("nan"), "1.2"]),
        cursor([float("inf"), "1.2"]),
        cursor([1.0, "1.2\0"]),
        cursor([1.0, "\ud800"]),
        cursor([1.0, "1" * 1000]),
        "W" * 5000,
    ],
)
def test_what_is_no_place_in_a_list_is_refused(engine: Engine, after: str) -> None:
    with pytest.raises(CursorInvalid, match="no place in this list"):
        SpoolCatalog(engine).list_series(after=after)


def test_numbers_that_no_column_holds_are_refused(engine: Engine) -> None:
    with pytest.raises(CursorInvalid):
        JobCatalog(engine).list_jobs(after=cursor([10**40]))
    assert JobCatalog(engine).list_jobs(after=cursor([-(10**9)])).rows == []


def test_a_list_in_memory_is_paged_by_name() -> None:
    rows = [{"name": name} for name in ("a", "b", "c")]

    first = page_by_name(rows, 2)
    second = page_by_name(rows, 2, first.next)

    assert [first.rows, second.rows] == [rows[:2], rows[2:]]
    assert (first.total, second.total, second.next) == (3, 3, None)
    with pytest.raises(CursorInvalid):
        page_by_name(rows, 2, cursor([1]))
