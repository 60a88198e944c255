"""A node in simulated time, on a tiny size: what comes goes, and the database reuses its room."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select, text

from node.database.engine import column_of
from node.jobs.tables import job
from tests.bench import bench_year
from tests.bench.bench_year import DAY_S


def pages(engine: Engine) -> tuple[int, int]:
    """Pages of a SQLite file, and how many of them are free."""
    counts = ("PRAGMA page_count", "PRAGMA freelist_count")
    of_file, free = (column_of(engine, text(count))[0] for count in counts)
    return of_file, free


def test_a_database_that_is_filled_and_swept_again_and_again_stays_at_its_size() -> None:
    sizes = []
    with bench_year.a_year() as year:
        now = 1_700_000_000.0
        for _ in range(3):
            year.bring(range(year.series, year.series + 40), now)
            year.series += 40
            full, _ = pages(year.engine)
            for days in (8, 1, 24, 29, 1, 1, 1):
                now += days * DAY_S
                year.sweep(now)
            sizes.append((full, pages(year.engine)[1]))
        left = column_of(year.engine, select(job.c.id))

    full = [of_file for of_file, _ in sizes]
    assert full[-1] == full[1]
    assert all(free > 0 for _, free in sizes)  # what went left room
    assert len(left) == 1  # the newest


@pytest.mark.long
def test_a_node_is_flat_after_its_first_months() -> None:
    (report,) = bench_year.measure(days=180, series_a_day=50)

    counted = [goal for goal in report.goals if "ms" not in goal.claim]  # a machine may be busy
    assert len(counted) == 6
    assert not [str(goal) for goal in counted if not goal.is_met]
