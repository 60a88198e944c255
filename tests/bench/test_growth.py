"""The past that a benchmark makes, what is said of its figures, and this tree measuring itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import Boolean, Column, Engine, Integer, MetaData, String, Table, Text, text

from node.database.engine import column_of, open_engine, rows_of, writing
from node.database.migrate import migrate
from node.domain.uids import file_stem
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders
from node.spool.rebuild import rebuild_index
from node.spool.tables import event
from tests.bench import bench_growth
from tests.bench.growth_rows import HELD, Past, file_name, fill, write, write_files, write_slices

PAST = Past(series=60, now=1_700_000_000.0, instances=3)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/growth.sqlite"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgresql")()
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


def test_a_past_is_what_the_node_would_have_written(engine: Engine) -> None:
    written = fill(engine, PAST)

    fates = Counter(column_of(engine, text("SELECT state FROM match")))
    unsettled, newest = Arrivals(engine).unsettled()
    assert written["instance"] == newest == 180
    assert fates == {"done": 30, "unmatched": 10, "parked": 5, "failed": 5}
    assert sorted(unsettled) == [PAST.series_uid(number) for number in range(HELD)]


def test_every_delivery_and_result_belongs_to_a_job_that_was_done(engine: Engine) -> None:
    fill(engine, PAST)

    whole = (
        "SELECT outbox.state, job.state AS job FROM outbox JOIN result ON result.id = result_id "
        "JOIN job ON job.id = result.job_id JOIN match ON match.job_id = job.id"
    )
    states = Counter(tuple(row) for row in rows_of(engine, text(whole)))
    assert states == {("waiting", "done"): 30, ("sent", "done"): 29, ("blocked", "done"): 1}


def test_rows_that_the_node_writes_later_go_on_behind(engine: Engine) -> None:
    fill(engine, PAST)

    with writing(engine) as connection:
        connection.execute(event.insert().values(at=1.0, kind="amended", sentence=""))
    assert column_of(engine, text("SELECT max(id) FROM event")) == [7]


def test_the_files_of_a_past_are_those_of_its_index(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/growth.sqlite")
    migrate(engine)
    fill(engine, PAST)
    folders = SpoolFolders(tmp_path / "spool")
    write_slices(tmp_path / "slices", PAST.instances)

    count = write_files(folders.instances, PAST, tmp_path / "slices")

    files = list(folders.instances.rglob("*.dcm"))
    folders.incoming.mkdir()
    folders.quarantine.mkdir()
    assert len(files) == count == 180
    assert sum(path.stat().st_size > 0 for path in files) == HELD * PAST.instances
    assert rebuild_index(engine, folders).instances == 0
    engine.dispose()


def test_a_file_has_the_name_that_the_spool_would_give_it() -> None:
    stem = file_stem("2.25.7")

    assert file_name("2.25.7") == f"{stem[:2]}/{stem}.dcm"
    assert stem == hashlib.sha256(b"2.25.7").hexdigest()


def test_another_schema_gets_what_it_has_columns_for(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/other.sqlite")
    table = Table(
        "thing",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("known", Text, nullable=False),
        Column("sentence", String(8), nullable=False),
        Column("is_new", Boolean, nullable=False),
        Column("counted", Integer, nullable=False),
        Column("later", Text),
    )
    table.create(engine)

    write(engine, table, [{"id": 1, "known": "a", "gone": "b"}, {"id": 2, "known": "c"}])

    rows = [tuple(row) for row in rows_of(engine, table.select())]
    assert rows == [(1, "a", "", False, 0, None), (2, "c", "", False, 0, None)]
    engine.dispose()


# --- what is said of figures -----------------------------------------------------------------------

SCENE = bench_growth.Scene(
    title="series", past=PAST, series=(1_000, 10_000), measures=(), on_postgresql=True
)
COLUMNS = ("1000", "10000", "PostgreSQL 10000")


def figures(*values: float | str) -> dict[str, float | str]:
    return dict(zip(COLUMNS, values, strict=False))


def test_old_stands_beside_new_with_the_ratio_of_their_slopes() -> None:
    found = {
        "furthest, ms": {"old": figures(0.5, 18.5, 20.0), "new": figures(0.5, 1.4, 0.9)},
    }

    report = bench_growth.report_of(SCENE, found)

    old, new = report.rows
    assert (old["tree"], old["verdict"], old["per 1000 more"]) == ("old", "GROWS", "2")
    assert (new["tree"], new["verdict"], new["slope new/old"]) == ("new", "GROWS", "0.05")
    assert [goal.is_met for goal in report.goals] == [False, True]
    assert report.goals[0].limit == 1.0


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.2, 0.9, 1.0), "held"),  # under the bound, however steep
        ((3.0, 5.9, 6.0), "held"),  # over it, and within twice the first
        ((3.0, 6.1), "GROWS"),
        ((3.0, 5.0, "over 120 s"), "GROWS"),
        (("over 120 s",), "unknown"),
    ],
)
def test_a_figure_holds_within_twice_the_first_or_under_its_bound(
    values: Sequence[float | str], verdict: str
) -> None:
    assert bench_growth.verdict(figures(*values), COLUMNS, 1.0) == verdict


def test_what_could_not_be_measured_is_a_goal_that_is_missed() -> None:
    report = bench_growth.report_of(SCENE, {"idle": {"new": figures("ImportError: no", 2.0)}})

    assert [str(goal).partition(":")[0] for goal in report.goals] == [
        "MISSED idle at 1000, ImportError"
    ]
    assert json.loads(json.dumps(report.to_json()))["rows"][0]["1000"] == "ImportError: no"


def test_a_plot_has_a_panel_for_each_figure_and_a_line_for_each_tree() -> None:
    found = {
        "furthest, ms": {"old": figures(0.5, 18.5), "new": figures(0.5, 0.6)},
        "GET /readyz, ms": {"new": figures(2.0, 2.0)},
        "idle": {"new": figures("ImportError: <no>")},
    }

    drawn = ElementTree.fromstring(bench_growth.plot([bench_growth.report_of(SCENE, found)]))

    name = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{name}g")
    assert [panel.findtext(f"{name}text") for panel in panels] == list(found)
    assert [len(panel.findall(f"{name}polyline")) for panel in panels] == [2, 1, 0]


# --- this tree ---------------------------------------------------------------------------------------


def test_this_tree_measures_every_figure_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes: Callable[..., list[bench_growth.Scene]] = bench_growth.scenes

    def small(now: float, *, is_quick: bool) -> list[bench_growth.Scene]:
        return [
            replace(scene, series=(6,) if scene.past.in_one_study else (50,))
            for scene in scenes(now, is_quick=is_quick)
        ]

    monkeypatch.setattr(bench_growth, "scenes", small)

    reports = list(bench_growth.measure(is_quick=True))

    rows = [row for report in reports for row in report.rows]
    assert {row["what"] for row in rows} == bench_growth.BOUNDS.keys()
    assert all(isinstance(row.get("50", row.get("6")), float) for row in rows), rows
