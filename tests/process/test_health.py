"""What rows and files say of the health of a node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, update

from node.database.engine import epoch_s, open_engine, writing
from node.database.migrate import migrate
from node.domain.health import HealthCode
from node.jobs import tables as jobs
from node.pipeline.build import Plan, plan
from node.process import health as health_module
from node.process.health import NodeHealth
from node.spool import tables as spool
from node.spool.files import SpaceGuard, SpoolFolders, Watermark
from tests.support.certificates import Authority


@dataclass
class Standing:
    """A node that does not run."""

    plan: Plan
    engine: Engine

    def codes(self) -> list[tuple[HealthCode, str]]:
        folders = SpoolFolders.of(self.plan.config.data_dir)
        space = SpaceGuard(folders.incoming, Watermark(reserve_gb=0, max_used_percent=100))
        return [
            one.key for one in NodeHealth(self.engine, space, self.plan.config).health().findings
        ]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Standing]:
    authority = Authority(tmp_path)
    signed = authority.sign(days=200)
    (tmp_path / "shelf").mkdir()
    content = {
        "data_dir": str(tmp_path / "data"),
        "web": {"tls": {"certificate": str(signed.certificate), "key": str(signed.key)}},
        "destinations": {"shelf": {"kind": "folder", "path": str(tmp_path / "shelf")}},
        "rules": [
            {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["shelf"]}
        ],
    }
    (tmp_path / "node.yaml").write_text(json.dumps(content))
    checked = plan(tmp_path / "node.yaml")
    SpoolFolders.of(checked.config.data_dir).made()
    engine = open_engine(checked.config.database_url)
    migrate(engine)
    yield Standing(checked, engine)
    engine.dispose()


def test_a_node_that_nobody_uses_is_well(node: Standing) -> None:
    assert node.codes() == []


def test_a_destination_is_sick_as_long_as_it_is_configured(node: Standing) -> None:
    with writing(node.engine) as connection:
        rows = [
            {"destination": name, "failures": 2, "open_until": 0.0} for name in ("shelf", "gone")
        ]
        connection.execute(insert(jobs.breaker), rows)

    assert node.codes() == [(HealthCode.DESTINATION_SICK, "shelf")]


def test_a_job_that_waits_too_long_or_again_is_told(node: Standing) -> None:
    with writing(node.engine) as connection:
        now = epoch_s(connection)
        job = {
            "job_key": "k", "state": "queued", "priority": 1, "model": "ct_tissue",
            "model_digest": "d", "parameters": {}, "study_instance_uid": "1.2", "inputs": {},
            "destinations": [], "revision": 1, "config_digest": "c", "series_number": 1,
            "content_date": "20261128", "content_time": "120000", "deadline_s": 60.0,
            "created_at": now - 4000.0,
        }  # fmt: skip
        connection.execute(insert(jobs.job).values(**job))
    assert node.codes() == [(HealthCode.QUEUE_LATE, "")]

    with writing(node.engine) as connection:
        connection.execute(update(jobs.job).values(attempts=1, not_before=now))

    assert node.codes() == [(HealthCode.JOBS_TRIED_AGAIN, "")]


def test_a_quarantine_that_grows_or_fills_is_told(
    node: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(node.engine) as connection:
        now = epoch_s(connection)
        refused = {
            "size_bytes": 1, "dimse_status": 0xC000, "reason": "r", "transport": "dimse",
            "sop_instance_uid": "", "series_instance_uid": "", "peer": "",
            "calling_ae_title": "", "address": "", "state": "kept", "source": "",
        }  # fmt: skip
        rows = [{**refused, "file_name": str(n), "received_at": now - n} for n in range(99)]
        connection.execute(insert(spool.quarantine), rows)
        old = {**refused, "file_name": "old", "received_at": now - 7200.0}
        connection.execute(insert(spool.quarantine).values(**old))
    assert node.codes() == []
    with writing(node.engine) as connection:
        new = {**refused, "file_name": "new", "received_at": now}
        connection.execute(insert(spool.quarantine).values(**new))
    assert node.codes() == [(HealthCode.QUARANTINE_GROWS, "")]

    monkeypatch.setattr(health_module, "bytes_in", lambda _: 4_100_000_000)
    assert (HealthCode.QUARANTINE_FULL, "") in node.codes()


def test_a_certificate_that_ends_soon_is_told_by_its_key(
    node: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=4000)

    monkeypatch.setattr(health_module, "datetime", Later)

    assert node.codes() == [(HealthCode.CERTIFICATE, "web.tls")]
