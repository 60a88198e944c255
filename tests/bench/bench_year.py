"""A year in simulated time: does a node at its steady state stay at its size?

``python -m tests.bench year``. Rows and empty files as a node leaves them (series of a few images,
their matches, jobs, results and deliveries) come day by day, and retention runs by the clock that it
is given. At the end of each month: what the node takes, and what it does with nothing to do.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, event, func, insert, select

from node.database.engine import reading, writing
from node.database.migrate import migrate
from node.jobs import tables as jobs
from node.pipeline.build import Plan, plan
from node.pipeline.retain import Retention
from node.pipeline.settle import Settler, settle_deps
from node.spool import tables as spool
from node.spool.files import SeriesMarkers, SpoolFolders
from node.spool.rebuild import rebuild_index
from tests.bench.report import Goal, Report, Row
from tests.support.node_in_process import MODELS_PROBE

DAY_S = 86_400.0
MONTH_DAYS = 30
IMAGES = 3
BATCHES = 4  # a day
GROWTH = 1.2  # of what is flat, from the third month on
START_S = 5.0
_FIRST_DAY = 1_700_000_000.0
_MOST_SWEEPS = 10_000
# keep_days at its defaults: results stay 30 days, and rows 31 days after the last file
_STEADY_AFTER_DAYS = 90


@dataclass
class Year:
    """A node, and what comes into it."""

    plan: Plan
    engine: Engine
    series: int = 0

    def __post_init__(self) -> None:
        self.retention = Retention(self.plan, self.engine)
        self.folders = SpoolFolders.of(self.plan.config.data_dir)
        self.markers = SeriesMarkers(self.folders.series)

    def day(self, start: float, series: int) -> None:
        """The series of a day in some batches, and sweeps until nothing is due."""
        for batch in range(BATCHES):
            now = start + batch * DAY_S / BATCHES
            numbers = range(self.series, self.series + series // BATCHES)
            self.series = numbers.stop
            self.bring(numbers, now)
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """What sweeps do from a time on, until nothing is left to do."""
        for number in range(_MOST_SWEEPS):
            self.retention.sweep(now + 61.0 + number)
            if not self.retention.has_more:
                return
        raise RuntimeError("sweeps do not come to an end")

    def bring(self, numbers: range, now: float) -> None:
        """Series that were settled, run and delivered at a time."""
        with writing(self.engine) as connection:
            for table, rows in _rows(numbers, now).items():
                if rows:
                    connection.execute(insert(_TABLES[table]), rows)
        for number in numbers:
            self.markers.claim(_series(number), "a" * 64)
            for image in range(IMAGES):
                path = self.folders.instances / _file(number, image)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            if _fate(number) == "done":
                folder = self.plan.results_folder / str(number + 1)
                folder.mkdir()
                for name in ("labels", "seg", "run.log"):
                    (folder / name).touch()
                    os.utime(folder / name, (now, now))

    def month(self, now: float) -> Row:
        """What the node takes now, and what it does while there is nothing to do."""
        before = time.perf_counter()
        rebuild_index(self.engine, self.folders)
        settler = Settler(settle_deps(self.plan, self.engine))
        settler.tick(now)
        start_s = time.perf_counter() - before
        with reading(self.engine) as connection:
            rows = sum(
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in _TABLES.values()
            )
        tick = _idle(self.engine, lambda at: settler.tick(at), now)
        sweep = _idle(self.engine, self.retention.sweep, now + DAY_S / 2 / BATCHES)
        data_dir = self.plan.config.data_dir
        return {
            "database MB": (data_dir / "segnode.sqlite").stat().st_size / 1e6,
            "rows": float(rows),
            "files": float(sum(1 for path in data_dir.rglob("*") if path.is_file())),
            "process MB": _resident_mb(),
            "start s": start_s,
            "sweep ms": sweep[0],
            "queries": sweep[1],
            "tick ms": tick[0],
            "its queries": tick[1],
        }


def measure(*, days: int = 365, series_a_day: int = 500, idle: int = MONTH_DAYS) -> list[Report]:
    """The table, a row for each month."""
    rows: list[Row] = []
    with a_year() as year:
        for day in range(days):
            start = _FIRST_DAY + day * DAY_S
            year.day(start, series_a_day)
            if (day + 1) % idle == 0:
                rows.append({"day": float(day + 1), **year.month(start + DAY_S)})
                print(rows[-1], flush=True)
    title = f"{series_a_day} series a day, {IMAGES} images each, keep_days as they are by default"
    return [Report(part="year", title=title, rows=rows, goals=_goals(rows))]


def _goals(rows: list[Row]) -> list[Goal]:
    """Flat from the steady state on; no goal where it was not reached."""
    steady = [row for row in rows if float(row["day"]) >= _STEADY_AFTER_DAYS]
    if len(steady) < 2:
        return []
    flat = ("database MB", "rows", "files", "process MB", "sweep ms", "queries", "tick ms")
    goals = [
        Goal(
            claim=f"{name}, the last month to the first steady one",
            figure=float(steady[-1][name]) / max(float(steady[0][name]), 1e-9),
            limit=GROWTH,
        )
        for name in flat
    ]
    started = max(float(row["start s"]) for row in rows)
    return [*goals, Goal(claim="start over what is there, s", figure=started, limit=START_S)]


@contextmanager
def a_year() -> Iterator[Year]:
    with TemporaryDirectory(prefix="segnode-year-") as root:
        folder = Path(root)
        rule = {"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": ["sender"]}
        keys = {"data_dir": str(folder / "data"), "rules": [rule]}
        keys |= {"models_dirs": [str(MODELS_PROBE)]}
        keys |= {"storage": {"reserve_gb": 0, "max_used_percent": 100}}
        (folder / "node.yaml").write_text(json.dumps(keys))
        checked = plan(folder / "node.yaml", environ={})
        checked.results_folder.mkdir(parents=True)
        engine = checked.open_engine()
        migrate(engine)
        try:
            yield Year(checked, engine)
        finally:
            engine.dispose()


def _idle(engine: Engine, call: Any, now: float) -> tuple[float, float]:
    """Milliseconds of CPU and queries of a call with nothing to do: medians of some, a minute apart."""
    queries = [0]

    def count(*_: object) -> None:
        queries[0] += 1

    call(now)
    event.listen(engine, "before_cursor_execute", count)
    took, asked = [], []
    for number in range(1, 10):
        queries[0] = 0
        before = time.thread_time()
        call(now + number * 61.0)
        took.append(time.thread_time() - before)
        asked.append(queries[0])
    event.remove(engine, "before_cursor_execute", count)
    return median(took) * 1e3, float(median(asked))


def _resident_mb() -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


# --- rows ----------------------------------------------------------------------------------------

_TABLES = {
    table.name: table
    for table in (
        *(spool.association, spool.instance, spool.series, spool.series_detail, spool.event),
        *(jobs.match, jobs.job, jobs.result, jobs.outbox),
    )
}


def _series(number: int) -> str:
    return f"1.2.826.0.1.{number}.1"


def _file(number: int, image: int) -> str:
    return f"{number % 256:02x}/{number}.{image}.dcm"


def _fate(number: int) -> str:
    """Sixty of a hundred are done, the others parked, held or unmatched."""
    of_hundred = number % 100
    return "done" if of_hundred < 60 else "parked" if of_hundred < 70 else _left(of_hundred)


def _left(of_hundred: int) -> str:
    return "held" if of_hundred < 75 else "unmatched"


def _rows(numbers: range, now: float) -> Mapping[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
    for number in numbers:
        uid, study, fate = _series(number), f"1.2.826.0.1.{number}", _fate(number)
        series, at = {"series_instance_uid": uid}, {"created_at": now, "updated_at": now}
        caller = {"id": f"{number:032x}", "transport": "dimse", "peer": "PACS"}
        times = {"opened_at": now, "heartbeat_at": now, "closed_at": now, "end": "released"}
        rows["association"].append({**caller, **times})
        snapshot = {f"{uid}.{image}": 1 for image in range(IMAGES)}
        for image, sop_instance_uid in enumerate(snapshot):
            rows["instance"].append(
                {
                    "sop_instance_uid": sop_instance_uid,
                    "version": 1,
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "study_instance_uid": study,
                    **series,
                    "file_name": _file(number, image),
                    "data_offset": 2048,
                    "size_bytes": 0,
                    "received_sha256": f"{number:064x}",
                    "pixel_identity": f"{number:064x}",
                    "is_input": True,
                    "received_at": now,
                    "association_id": f"{number:032x}",
                    "transport": "dimse",
                }
            )
        rows["series"].append(
            {
                **series,
                "study_instance_uid": study,
                "instances": IMAGES,
                "first_received_at": now,
                "last_received_at": now,
                "revision": 1,
                "state": "complete",
                "newest_row": 10**9,  # it knows of all that came
                "updated_at": now,
                "sweep_at": now,
            }
        )
        header = {"values": {"Modality": ["CT"], "PatientID": [str(number)]}, "missing": {}}
        rows["series_detail"].append({**series, "header": header, "snapshot": snapshot})
        told = {"at": now, "kind": "note", "sentence": "A note.", "series_instance_uid": uid}
        rows["event"].append(told if number % 10 else {**told, "series_instance_uid": ""})
        part = {"series_instance_uid": uid, "revision": 1}
        its_job = {"job_id": number + 1 if fate == "done" else None}
        of_study = {"study_instance_uid": study, "revision": 1}
        rule = {"rule": "" if fate == "unmatched" else "ct", "series_key": uid, "state": fate}
        made = {"roles": {"image": uid}, "made_of": {"image": part}}
        rows["match"].append({**rule, **of_study, **made, **its_job, **at})
        if fate == "done":
            _add_job(rows, number, of_study, {"image": {**part, "instances": snapshot}}, now)
    return rows


def _add_job(
    rows: dict[str, list[dict[str, Any]]],
    number: int,
    of_study: Mapping[str, Any],
    inputs: Mapping[str, Any],
    now: float,
) -> None:
    rows["job"].append(
        {
            "id": number + 1,
            "job_key": f"{number:064x}",
            "state": "done",
            "priority": 1,
            **{"model": "probe", "model_digest": "d", "parameters": {}, "config_digest": "c"},
            **of_study,
            "inputs": inputs,
            "destinations": ["sender"],
            **{"series_number": 1001, "content_date": "20260101", "content_time": "000000"},
            "deadline_s": 1.0,
            **{"created_at": now, "started_at": now, "finished_at": now},
        }
    )
    for place, form in enumerate(("labels", "seg"), 1):
        result_id = 2 * number + place
        rows["result"].append(
            {
                "id": result_id,
                "job_id": number + 1,
                "form": form,
                "file_name": f"{number + 1}/{form}",
                "size_bytes": 0,
                "sha256": f"{number:064x}",
                "study_instance_uid": of_study["study_instance_uid"],
                "created_at": now,
            }
        )
    rows["outbox"].append(
        {
            "result_id": result_id,
            "destination": "sender",
            "state": "sent",
            "attempts": 1,
            "created_at": now,
            "sent_at": now,
        }
    )
