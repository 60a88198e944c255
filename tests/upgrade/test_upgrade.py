"""A node of the version before, in the middle of everything, goes on under this one.

README.md beside this file says how each series stands.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from node.jobs.catalog import JobCatalog
from node.jobs.leases import JobLeases
from node.process.admin import Admin
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpoolFolders
from node.spool.rebuild import rebuild_index
from node.words import show_match, show_series
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, simulated_node

OLD = Path(__file__).with_name("node_of_0002.tar.xz")
RULES = [
    {
        "name": "ct",
        "when": {"Modality": "CT", "SeriesDescription": "plain"},
        "run": "probe",
        "send": ["shelf"],
    },
    {
        "name": "bounded",
        "when": {"SeriesDescription": "bounded"},
        "run": "bounded",
        "send": ["shelf"],
    },
    {
        "name": "pair",
        "study": {
            "fixed": {"SeriesDescription": "fixed"},
            "moving": {"SeriesDescription": "moving"},
        },
        "run": "pair",
        "send": ["shelf"],
    },
]


@pytest.fixture(scope="session")
def worker() -> Iterator[SharedWorker]:
    """Does the jobs of whatever node a test makes."""
    shared = SharedWorker()
    yield shared
    shared.close()


@dataclass
class Upgraded:
    """The node of before, opened by this version."""

    node: SimulatedNode
    uids: dict[str, str]
    before: set[str]

    @property
    def catalog(self) -> JobCatalog:
        return JobCatalog(self.node.node.engine)

    @property
    def admin(self) -> Admin:
        return Admin(self.node.node.plan, self.node.node.engine, self.node.node.door)

    def start(self) -> None:
        """What ``serve`` does first, and what its loops do then: nobody holds a lease any more."""
        engine = self.node.node.engine
        rebuild_index(engine, SpoolFolders.of(self.node.node.data_dir))
        JobLeases(engine).take_back(None)
        self.go_on()

    def go_on(self) -> None:
        for _ in range(3):  # a job that was made for another version of a model is made anew
            self.node.run()

    def state(self, name: str) -> str:
        """Of the newest match in force of a series; of the series itself where it has none."""
        rows = [row for row in self.matches_of(name) if row["state"] != "superseded"]
        if rows:
            return str(max(rows, key=lambda row: row["revision"])["state"])
        return str(self.series(name)["state"])

    def series(self, name: str) -> Mapping[str, Any]:
        row = SpoolCatalog(self.node.node.engine).get_series(self.uids[name])
        assert row is not None
        return row

    def matches_of(self, name: str) -> Sequence[Mapping[str, Any]]:
        study = self.series(name)["study_instance_uid"]
        return self.catalog.matches_of_series(self.uids[name], study)

    def job_of(self, name: str) -> int:
        return int(max(self.matches_of(name), key=lambda row: row["revision"])["job_id"])

    def delivered(self, name: str) -> int:
        """How many results lie in the shelf that were made of a series."""
        found = [dcmread(path, stop_before_pixels=True) for path in self.node.shelf.rglob("*.dcm")]
        return sum(
            self.uids[name] == str(each.ReferencedSeriesSequence[0].SeriesInstanceUID)
            for each in found
        )


@pytest.fixture
def upgraded(tmp_path: Path, worker: SharedWorker) -> Iterator[Upgraded]:
    """The old folder under a configuration of today."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    (tmp_path / "old" / "data").rename(tmp_path / "data")
    uids = json.loads((tmp_path / "old" / "states.json").read_text())
    completion = {"study_wait_s": 1e6, "give_up_s": 1e6}
    with simulated_node(tmp_path, worker, rules=RULES, completion=completion) as node:
        for path in (tmp_path / "old" / "shelf").iterdir():
            shutil.copy(path, node.shelf)
        node.pass_time(3600)
        yield Upgraded(node, uids, node.delivered())


def one(name: str, *, slices: int = 8, description: str = "plain") -> Phantom:
    return ct(name, study=name, slices=slices, SeriesDescription=description)


def test_work_in_every_state_goes_on(upgraded: Upgraded) -> None:
    upgraded.start()

    assert {name: upgraded.state(name) for name in upgraded.uids} == {
        "sent": "done",
        "waiting": "done",
        "blocked": "done",
        "labels": "done",
        "running": "done",
        "queued": "done",
        "set_fixed": "done",
        "set_moving": "done",
        "forced": "done",
        "implausible": "implausible",
        "failed": "failed",
        "set_waiting": "receiving",
        "parked": "parked",
        "unmatched": "unmatched",
        "held": "held",
        "receiving": "done",
    }
    assert {name: upgraded.delivered(name) for name in upgraded.uids if name != "set_moving"} == {
        "sent": 1,
        "waiting": 1,
        "blocked": 0,
        "labels": 1,
        "running": 1,
        "queued": 1,
        "set_fixed": 2,
        "forced": 1,
        "implausible": 0,
        "failed": 0,
        "set_waiting": 0,
        "parked": 0,
        "unmatched": 0,
        "held": 0,
        "receiving": 1,
    }


def test_what_was_delivered_is_not_made_again(upgraded: Upgraded) -> None:
    ended = {row["id"]: row["attempts"] for row in upgraded.node.table("job") if row["id"] <= 6}

    upgraded.start()

    after = {row["id"]: row["attempts"] for row in upgraded.node.table("job") if row["id"] <= 6}
    assert after == ended
    assert upgraded.before <= upgraded.node.delivered()


def test_what_waits_for_a_person_still_says_why(upgraded: Upgraded) -> None:
    upgraded.start()

    told = {
        name: [
            show_match(row)["sentence"]
            for row in upgraded.matches_of(name)
            if row["state"] != "superseded"
        ]
        for name in ("parked", "implausible", "failed", "unmatched", "set_waiting")
    }
    assert "slice missing" in told["parked"][0]
    assert "1000 ml" in told["implausible"][0]
    assert "the model found no memory" in told["failed"][0]
    assert told["unmatched"][0].startswith("no rule fired")
    assert "moving" in told["set_waiting"][0]
    held = SpoolCatalog(upgraded.node.node.engine).get_series(upgraded.uids["held"])
    assert held is not None
    assert "1 of 8 images was refused" in show_series(held)["sentence"]


def test_what_waits_for_a_person_is_freed_by_the_same_commands(upgraded: Upgraded) -> None:
    upgraded.start()
    admin = upgraded.admin

    admin.accept_job(upgraded.job_of("implausible"))
    admin.retry_job(upgraded.job_of("failed"))
    admin.proceed_series(upgraded.uids["held"])
    (blocked,) = (row["id"] for row in upgraded.node.table("outbox") if row["state"] == "blocked")
    admin.retry_delivery(blocked)
    files = one("parked", slices=10).files()
    upgraded.node.receive(files[4:5])
    upgraded.node.receive(ct("set moving", study="set waiting", SeriesDescription="moving").files())
    upgraded.go_on()

    freed = ("implausible", "failed", "held", "parked", "set_waiting", "blocked")
    assert {name: upgraded.state(name) for name in freed} == dict.fromkeys(freed, "done")
    assert {name: upgraded.delivered(name) for name in freed} == dict.fromkeys(freed, 1)


def test_a_conflict_kept_before_can_be_accepted(upgraded: Upgraded) -> None:
    upgraded.start()
    kept = SpoolCatalog(upgraded.node.node.engine).list_quarantine(state="kept")
    conflicts = [row for row in kept.rows if row["dimse_status"] == 0xC020]

    assert kept.total >= 1
    assert len(conflicts) == 1
    upgraded.admin.accept_quarantine(conflicts[0]["id"])

    left = SpoolCatalog(upgraded.node.node.engine).list_quarantine(state="kept")
    assert conflicts[0]["id"] not in {row["id"] for row in left.rows}
