"""Random pasts of a node, swept at random times: nothing that is needed goes, all that is over does.

What may go is said here a second time, over whole tables and in other words than the node's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from node.database.engine import reading, writing
from node.domain.delivery import DeliveryClass, Outcome
from node.domain.instance import Forced, Instance, Origin, SeriesRow, SeriesState, Transport
from node.domain.job import MatchState, job_key
from node.domain.reasons import ReasonCode, told
from node.jobs import tables as jobs
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.jobs.results import ResultStore
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport, ResultFile, SeriesPart
from node.pipeline.build import Plan, plan
from node.pipeline.retain import Retention
from node.spool import tables as spool
from node.spool.arrivals import Arrivals
from node.spool.index import instance_values, write_instances
from tests.support.node_in_process import MODELS_PROBE

DAY_S = 86_400.0
KEEP = {"done": 2, "unmatched": 1, "parked": 4, "results": 5, "quarantine": 3, "history": 6}
UNFINISHED_DELIVERIES = ("waiting", "sending", "blocked")
START = 1_000_000_000.0

RULES = {
    "models_dirs": [str(MODELS_PROBE)],
    "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": ["sender"]}],
}

Tables = dict[str, list[dict[str, Any]]]


class Past:
    """A database in which things happened, at times that a test tells."""

    def __init__(self, folder: Path, engine: Engine, plan: Plan) -> None:
        self.now = START
        self.folder = folder
        self.engine = engine
        self.arrivals = Arrivals(engine)
        self.jobs = JobStore(engine)
        self.leases = JobLeases(engine)
        self.results = ResultStore(engine)
        self.matches = MatchStore(engine)
        self.outbox = Outbox(engine, "c", chance=lambda: 0.5)
        self.retention = Retention(plan, engine)
        self.results_folder = plan.results_folder
        self._arrived = 0
        self._revisions: dict[tuple[str, str], int] = {}

    # --- what happens ----------------------------------------------------------------------------

    def arrive(self, study: str, series: str) -> None:
        """An image comes; the tick has not seen it yet."""
        self._arrived += 1
        name = f"00/{self._arrived}.dcm"
        path = self.folder / "data" / "spool" / "instances" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        one = Instance(
            sop_instance_uid=f"{series}.{self._arrived}",
            sop_class_uid="1.2",
            transfer_syntax_uid="1.2",
            study_instance_uid=study,
            series_instance_uid=series,
            file_name=name,
            data_offset=2048,
            size_bytes=0,
            received_sha256="a" * 64,
            pixel_identity="a" * 64,
            is_input=True,
            received_at=self.now,
            origin=Origin(transport=Transport.DIMSE, association_id="a"),
        )
        with writing(self.engine) as connection:
            write_instances(connection, [instance_values(one)])

    def come(self, study: str, series: str) -> None:
        """An image comes and the series is complete."""
        self.arrive(study, series)
        self.tick(study, series, SeriesState.COMPLETE)

    def tick(self, study: str, series: str, state: SeriesState) -> None:
        """The series is looked at, and this is what it is said to be."""
        was, rows = self.arrivals.series(series), self.arrivals.arrivals_of(series)
        if not rows and was is None:
            return
        row = SeriesRow(
            series_instance_uid=series,
            study_instance_uid=study,
            instances=len(rows),
            frames=len(rows),
            first_received_at=self.now,
            last_received_at=max((one.received_at for _, one in rows), default=self.now),
            revision=was.revision + 1 if was else 1,
            snapshot={one.sop_instance_uid: 1 for _, one in rows}
            if state is SeriesState.COMPLETE
            else {},
            state=state,
            updated_at=self.now,
            newest_row=self.arrivals.newest_row(series),
        )
        assert self.arrivals.put_series(row, was=was)

    def decide(self, study: str, series: str) -> None:
        if self.arrivals.series(series) is not None:
            self.arrivals.force(series, Forced.RERUN)

    def report(self, study: str, series: str, state: MatchState) -> None:
        if self.arrivals.series(series) is not None:
            part = SeriesPart(series_instance_uid=series, revision=1)
            of = {"rule": "", "study_instance_uid": study, "series_key": series}
            self.matches.put(
                MatchReport(**of, made_of={"": part}, revision=1, state=state), self.now
            )

    def ask(self, study: str, series: str, rule: str, pixels: str) -> None:
        """A rule wants a run; studies with the same pixels share it."""
        if self.arrivals.series(series) is None or not self.arrivals.arrivals_of(series):
            return
        revision = self._revisions.get((rule, series), 0) + 1
        self._revisions[rule, series] = revision
        part = {"series_instance_uid": series, "revision": revision, "instances": {}}
        self.jobs.enqueue(
            JobRequest(
                rule=rule,
                study_instance_uid=study,
                series_key=series,
                revision=revision,
                job_key=job_key([pixels], "m", {}),
                model="m",
                model_digest="m",
                inputs={"": part},
                destinations=("pacs", "shelf"),
                config_digest="c",
            ),
            self.now,
        )

    def work(self, how: str) -> None:
        """A worker takes the next job, and this is how it ends."""
        job = self.leases.lease("w", DAY_S, self.now)
        if job is None or how == "go on":
            return
        if how == "fail":
            why = [told(ReasonCode.DELIVERY_TRIED, "no")]
            self.leases.fail(job.id, "w", why, permanent=True, now=self.now)
            return
        if how == "cancel":
            self.jobs.cancel(job.id, self.now)
            return
        files = [self._file(job.id, form) for form in ("labels", "seg")]
        self.results.put_labels(job.id, "w", files[0], self.now)
        is_implausible = how == "implausible"
        why = [told(ReasonCode.IMPLAUSIBLE_VOLUME, "no")] if is_implausible else []
        self.results.put_results(
            job.id,
            "w",
            files[1:],
            forms=["seg"],
            reasons=why,
            is_kept_back=is_implausible,
            now=self.now,
        )

    def _file(self, job_id: int, form: str) -> ResultFile:
        path = self.results_folder / str(job_id) / form
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return ResultFile(
            form=form,
            file_name=f"{job_id}/{form}",
            size_bytes=0,
            sha256=f"{job_id}{form}",
            sop_instance_uid=f"2.25.{job_id}" if form == "seg" else "",
            study_instance_uid="1.2",
        )

    def deliver(self, how: DeliveryClass) -> None:
        leased = self.outbox.lease_delivery("d", 60.0, self.now)
        if leased is not None:
            self.outbox.record(leased.id, "d", Outcome(kind=how, sentence="so"), self.now)

    def sweep(self) -> None:
        self.now += 61.0
        self.retention.sweep(self.now)

    # --- what there is ---------------------------------------------------------------------------

    def tables(self) -> Tables:
        found: Tables = {}
        with reading(self.engine) as connection:
            for table in (*spool.metadata.sorted_tables, *jobs.metadata.sorted_tables):
                rows = connection.execute(select(table))
                found[table.name] = [dict(row._mapping) for row in rows]
        return found


@contextmanager
def past(url: str = "") -> Iterator[Past]:
    with TemporaryDirectory(prefix="segnode-past-") as root:
        folder = Path(root)
        storage = {"reserve_gb": 0, "max_used_percent": 100, "keep_days": KEEP}
        database = {"database": url} if url else {}
        keys = {"data_dir": str(folder / "data"), "storage": storage, **database, **RULES}
        (folder / "node.yaml").write_text(json.dumps(keys))
        checked = plan(folder / "node.yaml", environ={})
        checked.results_folder.mkdir(parents=True)
        engine = checked.open_engine()
        for metadata in (spool.metadata, jobs.metadata):
            metadata.create_all(engine)
        try:
            yield Past(folder, engine, checked)
        finally:
            engine.dispose()


# --- what may go, said once more -----------------------------------------------------------------


def must_stay(series: dict[str, Any], before: Tables, now: float) -> bool:
    """Whether the files of a series are needed, or not old enough."""
    uid, study = series["series_instance_uid"], series["study_instance_uid"]
    kept = [
        row
        for row in before["instance"]
        if row["series_instance_uid"] == uid and row["file_deleted_at"] is None
    ]
    states = {
        row["state"]
        for row in before["match"]
        if uid in row["roles"].values() and row["study_instance_uid"] == study
    } - {"superseded"}
    reads = any(
        row["state"] in ("queued", "running")
        and any(part["series_instance_uid"] == uid for part in row["inputs"].values())
        for row in before["job"]
    )
    if series["state"] == "receiving" or series["forced"] or reads:
        return True
    if states & {"receiving", "queued", "running"}:
        return True
    unseen = [row for row in kept if row["id"] > series["newest_row"]]
    if unseen and series["state"] != "held":
        return True
    days = [1.0] if unseen else []
    days += [KEEP["done"]] if "done" in states else []
    is_parked = bool(states & {"held", "parked", "failed", "implausible"})
    days += [KEEP["parked"]] if is_parked or series["state"] == "held" else []
    if not (set(days) - {1.0}):
        days.append(KEEP["unmatched"])
    return any(row["received_at"] + max(days) * DAY_S > now for row in kept)


def is_over(study: str, before: Tables, now: float) -> bool:
    """Whether nothing needs a study, and nothing of it changed for as long as history is kept."""
    rows = [row for row in before["series"] if row["study_instance_uid"] == study]
    uids = {row["series_instance_uid"] for row in rows}
    instances = [row for row in before["instance"] if row["series_instance_uid"] in uids]
    matches = [row for row in before["match"] if row["study_instance_uid"] == study]
    named = {row["job_id"] for row in matches}
    its = [row for row in before["job"] if row["id"] in named or row["study_instance_uid"] == study]
    results = [row for row in before["result"] if row["job_id"] in {one["id"] for one in its}]
    given = [row for row in before["outbox"] if row["result_id"] in {one["id"] for one in results}]
    if (
        any(row["state"] == "receiving" or row["forced"] for row in rows)
        or any(row["file_deleted_at"] is None for row in instances)
        or any(row["state"] in ("receiving", "queued", "running") for row in matches)
        or any(row["state"] in ("queued", "running") for row in its)
        or any(row["state"] != "deleted" for row in results)
        or any(row["state"] in UNFINISHED_DELIVERIES for row in given)
    ):
        return False
    times = [row["updated_at"] for row in (*rows, *matches)]
    times += [row["file_deleted_at"] for row in instances]
    times += [row[name] for row in its for name in ("created_at", "started_at", "finished_at")]
    times += [row["created_at"] for row in (*results, *given)]
    times += [row["sent_at"] for row in given]
    return max(time or 0.0 for time in times) + KEEP["history"] * DAY_S <= now


def check(before: Tables, after: Tables, now: float) -> None:
    """Whatever a sweep took, nobody needed."""
    left = {table: {row.get("id") for row in rows} for table, rows in after.items()}
    rows_left = {row["series_instance_uid"] for row in after["series"]}
    deleted = {row["id"] for row in after["instance"] if row["file_deleted_at"] is not None}
    by_uid = {row["series_instance_uid"]: row for row in before["series"]}
    for row in before["instance"]:
        is_gone = row["id"] in deleted or row["id"] not in left["instance"]
        if row["file_deleted_at"] is None and is_gone:
            assert row["id"] in deleted, "a row went before its file"
            assert row["series_instance_uid"] in by_uid, "nobody looked at it yet"
            assert not must_stay(by_uid[row["series_instance_uid"]], before, now)
    gone = {row["study_instance_uid"] for uid, row in by_uid.items() if uid not in rows_left}
    for study in gone:
        assert is_over(study, before, now)
        assert not [row for row in after["series"] if row["study_instance_uid"] == study]
    for table in ("match", "job"):
        for row in before[table]:
            is_left = row["id"] in left[table]
            assert is_left == (row["study_instance_uid"] not in gone), "all or nothing of a study"
    for row in after["match"]:
        if row["job_id"] is not None and row["job_id"] not in left["job"]:
            assert is_over(row["study_instance_uid"], before, now)
    jobs_of = {row["id"]: row["job_id"] for row in before["result"]}
    for row in before["result"]:
        if row["id"] not in left["result"]:
            assert row["job_id"] not in left["job"]
        elif row["state"] != "deleted" and row["id"] in {
            one["id"] for one in after["result"] if one["state"] == "deleted"
        }:
            owner = next(one for one in before["job"] if one["id"] == row["job_id"])
            days = KEEP["results"]
            assert owner["state"] not in ("queued", "running")
            assert row["created_at"] + days * DAY_S <= now
            assert not [
                one
                for one in before["outbox"]
                if one["result_id"] == row["id"] and one["state"] in UNFINISHED_DELIVERIES
            ]
    for row in before["outbox"]:
        if row["id"] not in left["outbox"]:
            assert jobs_of[row["result_id"]] not in left["job"]


# --- pasts ---------------------------------------------------------------------------------------

STUDIES = ("1.1", "1.2", "1.3")
SERIES = tuple((study, f"{study}.{number}") for study in STUDIES for number in (1, 2))

of_series = st.sampled_from(SERIES)
happens = st.one_of(
    st.tuples(st.just("come"), of_series),
    st.tuples(st.just("arrive"), of_series),
    st.tuples(st.just("tick"), of_series, st.sampled_from(SeriesState)),
    st.tuples(st.just("tick"), of_series, st.just(SeriesState.COMPLETE)),
    st.tuples(st.just("decide"), of_series),
    st.tuples(
        st.just("report"),
        of_series,
        st.sampled_from(
            [MatchState.RECEIVING, MatchState.HELD, MatchState.PARKED, MatchState.UNMATCHED]
        ),
    ),
    st.tuples(st.just("ask"), of_series, st.sampled_from(["r", "s"]), st.sampled_from("ab")),
    st.tuples(st.just("work"), st.sampled_from(["done", "fail", "cancel", "implausible", "go on"])),
    st.tuples(
        st.just("deliver"),
        st.sampled_from([DeliveryClass.SENT, DeliveryClass.SENT, DeliveryClass.BLOCKED]),
    ),
    st.tuples(st.just("wait"), st.floats(0.01, 5.0)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("sweep")),
)


def live(past: Past, what: str, *how: Any) -> None:
    if what == "wait":
        past.now += how[0] * DAY_S
    elif what == "sweep":
        before = past.tables()
        past.sweep()
        check(before, past.tables(), past.now)
    else:
        where = how[0] if isinstance(how[0], tuple) else ()
        getattr(past, what)(*where, *(how[1:] if where else how))


def end_all(past: Past) -> None:
    """Whatever still waits comes to its end."""
    for study, series in SERIES:
        past.tick(study, series, SeriesState.COMPLETE)
        past.report(study, series, MatchState.UNMATCHED)
    past.leases.take_back(None, past.now)
    with writing(past.engine) as connection:
        connection.execute(jobs.job.update().values(not_before=0.0))
    while past.leases.is_any_ready(past.now):
        past.work("done")
    with writing(past.engine) as connection:
        blocked = jobs.outbox.c.state.in_(UNFINISHED_DELIVERIES)
        connection.execute(jobs.outbox.update().where(blocked).values(state="sent"))
    # what has the newest numbers stays
    past.arrive("1.9", "1.9.1")
    past.tick("1.9", "1.9.1", SeriesState.COMPLETE)
    past.ask("1.9", "1.9.1", "r", "last")
    past.work("done")
    past.deliver(DeliveryClass.SENT)
    past.deliver(DeliveryClass.SENT)


def live_through(it: Past, story: Iterable[tuple[Any, ...]]) -> None:
    """What happened, and then time until all of it is over."""
    for what, *how in story:
        live(it, what, *how)
    end_all(it)
    for _ in range(12):
        live(it, "wait", 2.5)
        live(it, "sweep")


def check_that_only_the_last_is_left(it: Past) -> None:
    left = it.tables()
    for table in ("series", "match", "job"):
        assert {row["study_instance_uid"] for row in left[table]} == {"1.9"}, table
    assert [row["series_instance_uid"] for row in left["instance"]] == ["1.9.1"]
    assert len(left["series_detail"]) == 1
    assert len(left["outbox"]) == 2
    assert {row["state"] for row in left["result"]} == {"deleted"}
    assert not list((it.folder / "data" / "spool" / "instances").rglob("*.dcm"))
    assert list(it.results_folder.iterdir()) == []


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(happens, min_size=10, max_size=50))
def test_nothing_needed_goes_and_what_is_over_goes_in_the_end(
    story: list[tuple[Any, ...]],
) -> None:
    with past() as it:
        live_through(it, story)

        check_that_only_the_last_is_left(it)


STORY = [
    *(("come", one) for one in SERIES),
    *(("ask", one, "r", "ab"[number % 2]) for number, one in enumerate(SERIES)),
    ("work", "done"),
    ("wait", 1.0),
    ("sweep",),
    ("work", "implausible"),
    *(("deliver", DeliveryClass.SENT) for _ in range(3)),
    ("deliver", DeliveryClass.BLOCKED),
    ("report", SERIES[1], MatchState.RECEIVING),
    ("wait", 4.0),
    ("sweep",),
    ("arrive", SERIES[2]),
    ("wait", 9.0),
    ("sweep",),
    ("decide", SERIES[3]),
    ("wait", 9.0),
    ("sweep",),
    ("come", SERIES[0]),
    ("ask", SERIES[0], "s", "b"),
    ("wait", 9.0),
    ("sweep",),
]


def test_on_postgresql_as_well(empty_postgresql: Callable[[], str]) -> None:
    with past(empty_postgresql()) as it:
        live_through(it, STORY)

        check_that_only_the_last_is_left(it)


LATE = """
import sys
from node.database.engine import open_engine
from node.domain.instance import Instance, Origin, Transport
from node.spool.index import Index

index = Index(open_engine(sys.argv[1]), batch_s=0.0)
for number in range(int(sys.argv[2])):
    series = f"1.3.{number}.1"
    index.record_instance(Instance(
        sop_instance_uid=f"{series}.9999", sop_class_uid="1.2", transfer_syntax_uid="1.2",
        study_instance_uid=f"1.3.{number}", series_instance_uid=series, file_name=f"late {number}",
        data_offset=0, size_bytes=0, received_sha256="b" * 64, pixel_identity="b" * 64,
        is_input=True, received_at=0.0, origin=Origin(transport=Transport.DIMSE, association_id="b"),
    ))
    index.flush(timeout_s=120.0)
    print(number, flush=True)
index.close()
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_another_process_writes_during_a_sweep_is_left_alone(
    database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("empty_postgresql")() if database == "postgresql" else ""
    number = 40
    with past(url) as it:
        for study in range(number):
            for _ in range(2):
                it.come(f"1.3.{study}", f"1.3.{study}.1")
        it.now += 1.5 * DAY_S
        named = url or f"sqlite:///{it.folder}/data/segnode.sqlite"
        command = [sys.executable, "-c", LATE, named, str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as late:
            assert late.stdout is not None
            late.stdout.readline()  # it is at work
            it.sweep()
            late.stdout.read()

        assert late.returncode == 0
        rows = it.tables()["instance"]
        assert len(rows) == 3 * number
        for study in range(number):
            mine = [row for row in rows if row["study_instance_uid"] == f"1.3.{study}"]
            gone = [row["file_deleted_at"] is not None for row in mine if row["id"] <= 2 * number]
            assert all(gone) or not any(gone)
            (came,) = (row for row in mine if row["id"] > 2 * number)
            assert came["file_deleted_at"] is None
