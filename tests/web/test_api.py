"""The API shows what the tables hold and does what an operator may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from node.config import AuthConfig
from node.database import pages
from node.database.engine import open_engine, writing
from node.domain.errors import NodeError, TryLater
from node.domain.health import COUNTED, Finding, HealthCode
from node.domain.health import Health as HealthNow
from node.jobs import tables as jobs_tables
from node.jobs.catalog import JobCatalog
from node.spool import tables as spool_tables
from node.spool.catalog import SpoolCatalog
from node.web.api import Row, WebServices
from node.web.app import create_app
from node.words import show_degraded, show_finding
from tests.support.http_server import Answer, Site, serving

SHORT = Finding(HealthCode.DISK, facts={"told": "5 GB are kept free"})
SICK = Finding(HealthCode.DESTINATION_SICK, "a", {"failures": 3})
SILENT = {"loop": "door", "seconds": 7}


class Models:
    """Two models."""

    rows: tuple[Row, ...] = ({"name": "ct_tissue", "runner": "python"}, {"name": "probe"})

    def list_models(self) -> tuple[Row, ...]:
        return self.rows

    def get_model(self, name: str) -> Row | None:
        return next((row for row in self.rows if row["name"] == name), None)


@dataclass
class Recorder:
    """Remembers what was asked; ``refusal`` is raised in place of doing it."""

    done: list[tuple[str, object]] = field(default_factory=list)
    refusal: NodeError | None = None

    def __getattr__(self, name: str) -> Any:
        def act(key: object) -> None:
            if self.refusal is not None:
                raise self.refusal
            self.done.append((name, key))

        return act


@dataclass
class Health:
    """Says what it is told."""

    now: HealthNow = field(default_factory=HealthNow)

    def health(self) -> HealthNow:
        return self.now


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'test.sqlite'}")
    with writing(engine) as connection:
        spool_tables.metadata.create_all(connection)
        jobs_tables.metadata.create_all(connection)
        fill(connection)
    yield engine
    engine.dispose()


def fill(connection: Any) -> None:
    """Three series, an instance, a refused one, a job with a result and a blocked delivery."""
    for number, state in enumerate(("held", "complete", "complete"), start=1):
        connection.execute(
            spool_tables.series.insert().values(
                series_instance_uid=f"1.2.{number}",
                study_instance_uid="1.2",
                patient_name="Müller^Äl",
                first_received_at=100.0,
                last_received_at=100.0 + number,
                state=state,
                updated_at=100.0,
            )
        )
        connection.execute(
            spool_tables.series_detail.insert().values(
                series_instance_uid=f"1.2.{number}", header={"values": {"Modality": ["CT"]}}
            )
        )
    connection.execute(
        spool_tables.instance.insert().values(
            sop_instance_uid="1.2.1.1",
            version=1,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid="1.2",
            series_instance_uid="1.2.1",
            file_name="ab/x.dcm",
            data_offset=132,
            size_bytes=10,
            received_sha256="0" * 64,
            pixel_identity="0" * 64,
            is_input=True,
            received_at=100.0,
            association_id="a",
            transport="stow",
        )
    )
    connection.execute(
        spool_tables.quarantine.insert().values(
            file_name="q",
            size_bytes=3,
            dimse_status=0xC000,
            reason="no DICOM",
            received_at=1.0,
            transport="stow",
        )
    )
    connection.execute(
        jobs_tables.match.insert().values(
            rule="ct",
            study_instance_uid="1.2",
            series_key="1.2.1",
            roles={"input": "1.2.1"},
            revision=1,
            state="done",
            job_id=1,
            explanation={"clause": "Modality"},
            created_at=1.0,
            updated_at=1.0,
        )
    )
    connection.execute(
        jobs_tables.match.insert().values(
            rule="ct",
            study_instance_uid="1.2",
            series_key="1.2.11",  # begins like 1.2.1
            roles={"input": "1.2.11"},
            revision=1,
            state="held",
            created_at=1.0,
            updated_at=1.0,
        )
    )
    connection.execute(
        jobs_tables.job.insert().values(
            job_key="k",
            state="done",
            priority=1,
            model="ct_tissue",
            model_digest="d",
            parameters={},
            study_instance_uid="1.2",
            inputs={"input": {"series_instance_uid": "1.2.1"}},
            destinations=["pacs"],
            revision=1,
            config_digest="c",
            series_number=900,
            deadline_s=60.0,
            content_date="20260101",
            content_time="101010",
            created_at=1.0,
        )
    )
    for form, uid, name in (("labels", "", "1/labels.npz"), ("seg", "1.2.9", "1/seg.dcm")):
        connection.execute(
            jobs_tables.result.insert().values(
                job_id=1,
                form=form,
                file_name=name,
                size_bytes=3,
                sha256="s",
                sop_instance_uid=uid,
                study_instance_uid="1.2",
                created_at=1.0,
            )
        )
    connection.execute(
        jobs_tables.outbox.insert().values(
            result_id=2,
            destination="pacs",
            state="blocked",
            reasons=[{"code": "delivery_blocked", "facts": {"told": "refused"}}],
            created_at=1.0,
        )
    )


@pytest.fixture
def actions() -> Recorder:
    return Recorder()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def site(engine: Engine, actions: Recorder, health: Health, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "results" / "1").mkdir(parents=True)
    (tmp_path / "results" / "1" / "seg.dcm").write_bytes(b"SEG")
    (tmp_path / "secret").write_bytes(b"no result")
    services = WebServices(
        spool=SpoolCatalog(engine),
        jobs=JobCatalog(engine),
        models=Models(),
        actions=actions,
        health=health,
        results_dir=tmp_path / "results",
        counts_dir=tmp_path / "counts",
    )
    with serving(create_app(services, auth=AuthConfig())) as running:
        yield running


def get(site: Site, path: str) -> Any:
    answer = site.request("GET", f"/api/v1{path}")
    assert answer.status == 200, answer
    return json.loads(answer.body)


def post(site: Site, path: str) -> Answer:
    return site.request("POST", f"/api/v1{path}", b"")


@pytest.mark.parametrize(
    ("path", "total"),
    [
        ("/series", 3),
        ("/series?state=held", 1),
        ("/series?study=1.9", 0),
        ("/jobs", 1),
        ("/jobs?state=queued", 0),
        ("/jobs?study=1.2", 1),
        ("/results", 2),
        ("/results?state=deleted", 0),
        ("/deliveries?state=blocked", 1),
        ("/deliveries?destination=elsewhere", 0),
        ("/quarantine", 1),
        ("/models", 2),
    ],
)
def test_lists_filter_and_count(site: Site, path: str, total: int) -> None:
    page = get(site, path)

    assert (page["total"], page["total_is_exact"], len(page["items"])) == (total, True, total)
    assert (page["limit"], page["next"]) == (100, None)


@pytest.mark.parametrize(
    ("path", "key", "names"),
    [
        ("/series", "series_instance_uid", ["1.2.3", "1.2.2", "1.2.1"]),
        ("/series?state=complete", "series_instance_uid", ["1.2.3", "1.2.2"]),
        ("/results", "id", [2, 1]),
        ("/results?study=1.2", "id", [2, 1]),
        ("/models", "name", ["ct_tissue", "probe"]),
    ],
)
def test_pages_follow_each_other_newest_first(
    site: Site, path: str, key: str, names: list[object]
) -> None:
    one_each = f"{path}{'&' if '?' in path else '?'}limit=1"

    page = get(site, one_each)
    found = page["items"]
    while page["next"]:
        page = get(site, f"{one_each}&after={page['next']}")
        found += page["items"]

    assert [row[key] for row in found] == names
    assert page["total"] == len(names)


def test_a_list_too_long_to_count_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "COUNTED", 2)

    page = get(site, "/series?limit=1")

    assert (page["total"], page["total_is_exact"]) == (2, False)


@pytest.mark.parametrize("after", ["x", "W10", "WyIxLjIiXQ", "%00", "%ED%A0%80"])
@pytest.mark.parametrize("path", ["/series", "/jobs", "/results", "/deliveries", "/quarantine"])
def test_a_cursor_that_no_page_gave_is_400_and_is_not_repeated(
    site: Site, path: str, after: str
) -> None:
    answer = site.request("GET", f"/api/v1{path}?after={after}")

    assert answer.status == 400
    assert "no place in this list" in json.loads(answer.body)["detail"]
    assert after.encode() not in answer.body


def test_a_series_shows_header_instances_and_only_its_own_matches(site: Site) -> None:
    row = get(site, "/series/1.2.1")

    assert row["patient_name"] == "Müller^Äl"
    assert row["header"]["values"]["Modality"] == ["CT"]
    assert [one["sop_instance_uid"] for one in row["instance_list"]] == ["1.2.1.1"]
    assert [(match["rule"], match["state"]) for match in row["matches"]] == [("ct", "done")]
    assert row["matches"][0]["explanation"] == {"clause": "Modality"}


def test_a_number_that_json_has_no_word_for_is_null(site: Site, engine: Engine) -> None:
    header = {"values": {"SliceThickness": [float("nan")]}}
    with writing(engine) as connection:
        connection.execute(spool_tables.series_detail.update().values(header=header))

    assert get(site, "/series/1.2.1")["header"] == {"values": {"SliceThickness": [None]}}


def test_a_job_shows_what_asked_for_it_and_what_became_of_it(site: Site) -> None:
    row = get(site, "/jobs/1")

    assert [match["rule"] for match in row["matches"]] == ["ct"]
    assert [result["form"] for result in row["results"]] == ["labels", "seg"]
    assert [delivery["destination"] for delivery in row["deliveries"]] == ["pacs"]


def test_a_delivery_says_what_it_delivers(site: Site) -> None:
    row = get(site, "/deliveries/1")

    assert (row["state"], row["model"], row["sop_instance_uid"]) == (
        "blocked",
        "ct_tissue",
        "1.2.9",
    )


def test_one_of_each_kind_is_shown(site: Site) -> None:
    assert get(site, "/quarantine/1")["reason"] == "no DICOM"
    assert get(site, "/models/ct_tissue")["runner"] == "python"
    assert get(site, "/results/2")["form"] == "seg"


@pytest.mark.parametrize(
    "path",
    ["/series/9.9", "/jobs/9", "/results/9", "/deliveries/9", "/quarantine/9", "/models/none"],
)
def test_what_is_not_there_is_404(site: Site, path: str) -> None:
    answer = site.request("GET", f"/api/v1{path}")

    assert (answer.status, json.loads(answer.body)) == (404, {"detail": "not found"})


@pytest.mark.parametrize(
    "path",
    [
        "/series?limit=0",
        "/series?limit=1001",
        "/series?after=" + "x" * 600,
        "/series?state=%00",
        "/series/abc",
        f"/jobs/{2**63}",
        "/jobs/x",
        "/series?state=" + "x" * 200,
    ],
)
def test_a_wrong_parameter_is_400_and_is_not_repeated(site: Site, path: str) -> None:
    answer = site.request("GET", f"/api/v1{path}")

    assert answer.status == 400
    assert list(json.loads(answer.body)) == ["detail"]
    assert b"xxx" not in answer.body


def test_a_result_is_downloaded_as_dicom(site: Site) -> None:
    answer = site.request("GET", "/api/v1/results/2/file")

    assert (answer.status, answer.body) == (200, b"SEG")
    assert answer.headers["content-type"] == "application/dicom"
    assert 'filename="1.2.9.dcm"' in answer.headers["content-disposition"]


@pytest.mark.parametrize("name", ["../secret", "1/gone.dcm", "/etc/passwd"])
def test_a_file_that_is_gone_or_elsewhere_is_410(site: Site, engine: Engine, name: str) -> None:
    with writing(engine) as connection:
        connection.execute(jobs_tables.result.update().values(file_name=name))

    assert site.request("GET", "/api/v1/results/2/file").status == 410


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/series/1.2.1/proceed", ("proceed_series", "1.2.1")),
        ("/series/1.2.1/rerun", ("rerun_series", "1.2.1")),
        ("/series/1.2.1/discard", ("discard_series", "1.2.1")),
        ("/jobs/1/retry", ("retry_job", 1)),
        ("/jobs/1/cancel", ("cancel_job", 1)),
        ("/jobs/1/accept", ("accept_job", 1)),
        ("/deliveries/1/retry", ("retry_delivery", 1)),
        ("/quarantine/1/accept", ("accept_quarantine", 1)),
        ("/quarantine/1/discard", ("discard_quarantine", 1)),
    ],
)
def test_an_action_is_done_once_and_answered_204(
    site: Site, actions: Recorder, path: str, call: tuple[str, object]
) -> None:
    answer = post(site, path)

    assert (answer.status, answer.body) == (204, b"")
    assert actions.done == [call]


def test_an_action_on_nothing_is_404_and_not_tried(site: Site, actions: Recorder) -> None:
    assert post(site, "/jobs/99/retry").status == 404
    assert not actions.done


@pytest.mark.parametrize(
    ("refusal", "status"), [(NodeError("job 1 is running"), 409), (TryLater("locked"), 503)]
)
def test_an_action_that_cannot_be_done_says_why(
    site: Site, actions: Recorder, refusal: NodeError, status: int
) -> None:
    actions.refusal = refusal

    answer = post(site, "/jobs/1/retry")

    assert (answer.status, json.loads(answer.body)) == (status, {"detail": str(refusal)})


def test_an_error_of_the_node_shows_nothing_of_its_inside(site: Site, engine: Engine) -> None:
    with writing(engine) as connection:
        jobs_tables.outbox.drop(connection)

    answer = site.request("GET", "/api/v1/deliveries")

    assert answer.status == 500
    assert answer.body == b"Internal Server Error"


def test_a_wrong_method_is_405_with_allow(site: Site) -> None:
    answer = site.request("DELETE", "/api/v1/jobs/1")

    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_healthz_is_200_while_the_process_lives(site: Site, health: Health) -> None:
    health.now = HealthNow((SHORT,))

    assert site.request("GET", "/healthz").status == 200
    assert site.request("HEAD", "/healthz").body == b""


@pytest.mark.parametrize(
    ("findings", "status", "word"),
    [
        ((), 200, "ready"),
        ((Finding(HealthCode.HELD, facts={"count": 2}),), 200, "degraded"),
        ((Finding(HealthCode.BLOCKED, facts={"count": COUNTED}),), 200, "degraded"),
        ((SICK, Finding(HealthCode.DESTINATION_SICK, "b", {"failures": 1})), 200, "degraded"),
        ((SHORT,), 503, "unready"),
        ((Finding(HealthCode.ROLE_SILENT, "receive", SILENT),), 503, "unready"),
        ((Finding(HealthCode.ROLE_SILENT, "route", SILENT),), 200, "degraded"),
    ],
)
def test_readyz_tells_whether_instances_are_taken_and_what_needs_a_person(
    site: Site, health: Health, findings: tuple[Finding, ...], status: int, word: str
) -> None:
    health.now = HealthNow(findings)

    answer = site.request("GET", "/readyz")

    assert answer.status == status
    assert json.loads(answer.body) == {
        "status": word,
        "degraded": show_degraded(health.now),
        "findings": [show_finding(finding) for finding in findings],
    }


def test_openapi_describes_every_route_and_no_page_loads_scripts(site: Site) -> None:
    schema = json.loads(site.request("GET", "/api/openapi.json").body)

    assert {"/healthz", "/readyz", "/api/v1/series/{uid}/proceed"} <= set(schema["paths"])
    assert site.request("GET", "/docs").status == 404
    assert site.request("GET", "/redoc").status == 404


def test_there_is_no_cors_and_no_server_banner(site: Site) -> None:
    answer = site.request("GET", "/api/v1/jobs", headers={"Origin": "https://elsewhere.example"})

    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers
