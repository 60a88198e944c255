"""The benchmarks themselves: their tables, their goals, and each part on a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import bench_encode, bench_ingest, bench_memory, bench_stow
from tests.bench.__main__ import PARTS
from tests.bench.report import Goal, Report, shown, table


def test_a_table_has_every_column_and_puts_numbers_to_the_right() -> None:
    lines = table([{"server": "node", "inst/s": 812.4}, {"server": "dcmtk", "x": 0.70}])

    assert lines == [
        "server  inst/s    x",
        "node       812",
        "dcmtk           0.7",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(812.4, "812"), (99.96, "100"), (0.0612, "0.0612"), ("1-2", "1-2")]
)
def test_figures_have_three_digits(value: float | str, text: str) -> None:
    assert shown(value) == text


def test_a_goal_knows_which_side_is_good() -> None:
    slow = Goal(claim="s", figure=1.6, limit=1.5)
    fast = Goal(claim="x", figure=0.8, limit=0.7, at_least=True)

    assert not slow.is_met
    assert str(slow).startswith("MISSED")
    assert fast.is_met


def test_a_report_becomes_json_with_its_verdicts() -> None:
    goal = Goal(claim="s", figure=1.0, limit=1.5)
    report = Report(part="road", title="a road", rows=[{"stage": "read", "s": 1.0}], goals=[goal])

    told = json.loads(json.dumps(report.to_json()))

    assert told["rows"] == [{"stage": "read", "s": 1.0}]
    assert told["goals"][0]["is_met"] is True


def test_every_part_has_its_place() -> None:
    assert set(PARTS) == {
        *("road", "ingest", "stow", "memory", "encode", "tissue", "bundle", "gpu", "glue", "demo"),
        *("year", "growth", "crowd", "soak"),
    }  # fmt: skip


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "raod"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "no part raod" in done.stderr


def test_the_node_outside_its_model_child_imports_no_heavy_library() -> None:
    assert bench_memory.heavy_imports("node.cli.serving") == []


def test_the_memory_of_this_process_is_found() -> None:
    assert 1 < bench_memory.pss_mb(os.getpid()) < 10_000


def test_ingest_counts_what_the_node_stored(tmp_path: Path) -> None:
    batches = [bench_ingest.make_instances(3, series) for series in range(2)]

    run = bench_ingest.run_once("node", batches, tmp_path)

    assert run.instances_per_s > 0
    (folder,) = tmp_path.iterdir()  # stays: what deletes files slows down who makes some next
    assert len(list((folder / "data" / "spool" / "instances").rglob("*.dcm"))) == 6


def test_stow_counts_what_the_node_stored(tmp_path: Path) -> None:
    files = [bench_stow.part_10(each) for each in bench_ingest.make_instances(3, 0)]

    run = bench_stow.run_once("node", bench_stow.requests_of(files, 2), 3, tmp_path)

    assert run.instances_per_s > 0
    (folder,) = tmp_path.iterdir()
    assert len(list((folder / "data" / "spool" / "instances").rglob("*.dcm"))) == 3


def test_a_large_request_is_sent_whole_and_its_memory_is_seen(tmp_path: Path) -> None:
    grown, peak, elapsed_s = bench_stow.growth_mb(5_000_000, tmp_path)

    assert peak > 10
    assert 0 <= grown < peak
    assert elapsed_s > 0


def test_node_and_highdicom_write_the_same_frames(tmp_path: Path) -> None:
    bench_encode.prepare(tmp_path, segments=5, shape=(12, 32, 40))

    ours, theirs = bench_encode.by_node(tmp_path), bench_encode.by_highdicom(tmp_path)

    assert ours["frames"] == theirs["frames"] > 0
