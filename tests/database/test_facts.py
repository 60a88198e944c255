"""Rows of the version before facts, in every state, after the upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, select, text

import node.database.migrate
from node.database.engine import open_engine, reading, writing
from node.database.migrate import migrate
from node.jobs.catalog import JobCatalog
from node.jobs.matches import MatchStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.jobs.tables import match
from node.jobs.values import SeriesPart
from node.spool.arrivals import Arrivals
from node.spool.catalog import SpoolCatalog
from node.words import show_delivery, show_job, show_match, show_series

SERIES = "1.2.3"
STUDY = "1.2"
BEFORE = "0003"

_SERIES: dict[str, Any] = {
    "series_instance_uid": SERIES,
    "study_instance_uid": STUDY,
    "patient_id": "",
    "patient_name": "",
    "modality": "CT",
    "series_description": "",
    "header": {},
    "instances": 8,
    "frames": 8,
    "first_received_at": 1.0,
    "last_received_at": 2.0,
    "revision": 1,
    "snapshot": {},
    "state": "complete",
    "evidence": "release",
    "gate": None,
    "sentence": "",
    "reasons": [],
    "missing": 0,
    "forced": "",
    "newest_row": 0,
    "guard": 0,
    "updated_at": 2.0,
}
_MATCH: dict[str, Any] = {
    "rule": "ct",
    "study_instance_uid": STUDY,
    "series_key": SERIES,
    "roles": {"image": SERIES},
    "revision": 2,
    "state": "parked",
    "sentence": "",
    "reasons": [],
    "explanation": {"rule": "ct"},
    "job_id": None,
    "created_at": 1.0,
    "updated_at": 1.0,
}
_JOB: dict[str, Any] = {
    "id": 1,
    "job_key": "k",
    "state": "done",
    "priority": 1,
    "model": "ct_tissue",
    "model_digest": "d",
    "parameters": {},
    "study_instance_uid": STUDY,
    "inputs": {"image": {"series_instance_uid": SERIES, "revision": 2, "instances": {"1": 1}}},
    "destinations": [],
    "revision": 2,
    "replaces": "",
    "config_digest": "c",
    "series_number": 1001,
    "content_date": "20260101",
    "content_time": "101010",
    "deadline_s": 60.0,
    "attempts": 1,
    "not_before": 0.0,
    "stages": {},
    "sentence": "",
    "reasons": [],
    "created_at": 1.0,
}
_OUTBOX: dict[str, Any] = {
    "id": 1,
    "result_id": 1,
    "destination": "pacs",
    "state": "waiting",
    "attempts": 1,
    "refusals": 0,
    "next_at": 0.0,
    "sentence": "",
    "config_digest": "",
    "created_at": 1.0,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database as the version before left it."""
    url = f"sqlite:///{tmp_path}/segnode.sqlite"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgresql")()
    engine = open_engine(url)
    options = Config()
    scripts = Path(node.database.migrate.__file__).parent / "migrations"
    options.set_main_option("script_location", str(scripts))
    with engine.connect() as connection, connection.begin():
        options.attributes["connection"] = connection
        command.upgrade(options, BEFORE)
    yield engine
    engine.dispose()


def put(connection: Connection, table: str, row: dict[str, Any], **changes: Any) -> None:
    """A row written as the version before wrote it."""
    values = {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in {**row, **changes}.items()
    }
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({places})'), values)


HELD = [
    (
        "images_refused",
        "2 of 8 images were refused (2 x cut off); go on without them with: segnode series proceed "
        + SERIES,
    ),
    (
        "count_not_reached",
        "7 of 8 (the sender's count) images arrived, none in the last 5400 s; free it with: "
        f"segnode series proceed {SERIES}",
    ),
    (
        "late_images",
        "1 image came after the result of revision 1 was delivered; run again with: segnode series "
        f"rerun {SERIES}",
    ),
    ("files_deleted", "its images were deleted by retention: send the series again"),
    (
        "not_judged",
        "ValueError when it was judged, tried again every 60 s; to leave it alone: segnode series "
        f"discard {SERIES}",
    ),
]


@pytest.mark.parametrize(("code", "sentence"), HELD)
def test_a_held_series_says_what_it_said(engine: Engine, code: str, sentence: str) -> None:
    with writing(engine) as connection:
        put(connection, "series", _SERIES, state="held", sentence=sentence, reasons=[code])

    migrate(engine)

    shown = show_series(SpoolCatalog(engine).get_series(SERIES) or {})
    assert (shown["sentence"], shown["reasons"]) == (sentence, [code])
    row = Arrivals(engine).series(SERIES)
    assert row is not None
    assert row.reasons[0].code == code


def test_a_complete_series_keeps_its_findings(engine: Engine) -> None:
    gate = {
        "findings": ["one slice: not a volume", "no Frame of Reference"],
        "reasons": ["one_slice", "no_frame_of_reference"],
        "notes": ["spacing jitter 2.0%: steps 1 to 2 mm, median 1 mm"],
    }
    with writing(engine) as connection:
        put(connection, "series", _SERIES, sentence="association released 1.0 s ago", gate=gate)

    migrate(engine)

    shown = show_series(SpoolCatalog(engine).get_series(SERIES) or {})
    assert (shown["sentence"], shown["reasons"]) == ("association released 1.0 s ago", [])
    assert shown["gate"] == gate


def test_matches_say_what_they_said_and_of_what_they_are_made(engine: Engine) -> None:
    parked = f"gap: 1 slice missing: judge again with: segnode series rerun {SERIES}"
    ambiguous = "two series fit role a: 1, 2: leave one out with: segnode series discard UID"
    of_set = {"a": f"{SERIES}@2", "b": "1.2.4@1"}
    roles = {"a": SERIES, "b": "1.2.4"}
    with writing(engine) as connection:
        put(connection, "match", _MATCH, rule="1", sentence=parked, reasons=["gap"])
        put(connection, "match", _MATCH, rule="2", sentence=ambiguous)
        put(
            connection, "match", _MATCH, rule="3", series_key=STUDY, roles=roles, state="queued",
            explanation=of_set, job_id=7,
        )  # fmt: skip
        put(
            connection, "match", _MATCH, rule="4", series_key=STUDY, roles={SERIES: SERIES},
            explanation={SERIES: f"{SERIES}@2"}, state="receiving", revision=1,
            sentence="no series yet for role b: send it",
        )  # fmt: skip

    migrate(engine)

    found = JobCatalog(engine).matches_of_series(SERIES, STUDY)
    rows = {row["rule"]: show_match(row) for row in found}
    said = [(rows[rule]["sentence"], rows[rule]["reasons"]) for rule in "1234"]
    assert said == [
        (parked, ["gap"]),
        (ambiguous, []),
        ("", []),
        ("no series yet for role b: send it", []),
    ]
    newest = MatchStore(engine).newest("3", STUDY)
    assert newest is not None
    assert newest.made_of == {
        "a": SeriesPart(series_instance_uid=SERIES, revision=2),
        "b": SeriesPart(series_instance_uid="1.2.4", revision=1),
    }


def test_a_newer_series_supersedes_matches_of_the_version_before(engine: Engine) -> None:
    with writing(engine) as connection:
        put(connection, "match", _MATCH, state="done", job_id=1)
        put(connection, "job", _JOB)
        put(
            connection, "match", _MATCH, rule="set", series_key=STUDY, job_id=2, state="queued",
            roles={"a": SERIES}, explanation={"a": f"{SERIES}@2"}, revision=1,
        )  # fmt: skip
        put(connection, "job", _JOB, id=2, job_key="2", state="queued")
    migrate(engine)

    SeriesWork(engine).supersede(STUDY, SERIES, 3, 5.0)

    with reading(engine) as connection:
        states = connection.execute(select(match.c.state).order_by(match.c.id)).scalars().all()
    assert states == ["superseded", "superseded"]
    assert JobCatalog(engine).get_job(2)["state"] == "cancelled"  # type: ignore[index]


JOBS = [
    ("failed", [], "out of memory"),
    ("queued", [], "out of memory (attempt 1 of 3, tried again)"),
    ("parked", [], "killed its worker 3 times, or outlived its lease: jobs retry 1 tries again"),
    ("cancelled", [], "cancelled by an operator: jobs retry 1 runs it again"),
    ("done", [], "nothing found"),
    ("done", ["images_missing"], "made of 1 of 3 images"),
    (
        "implausible",
        ["implausible_volume", "implausible_sides"],
        "implausible: Spleen 30000.0 ml: not delivered until: segnode jobs accept 1",
    ),
    (
        "done",
        ["implausible_volume"],
        "implausible: Spleen 30000.0 ml; taken by an operator all the same",
    ),
]


@pytest.mark.parametrize(("state", "codes", "sentence"), JOBS)
def test_a_job_says_what_it_said(
    engine: Engine, state: str, codes: list[str], sentence: str
) -> None:
    missing = 2 if "images_missing" in codes else 0
    inputs = {"image": {**_JOB["inputs"]["image"], "missing": missing}}
    with writing(engine) as connection:
        row = {"state": state, "reasons": codes, "sentence": sentence}
        put(connection, "job", _JOB, inputs=inputs, **row)
        put(connection, "match", _MATCH, job_id=1, **row)

    migrate(engine)

    found = JobCatalog(engine).get_job(1)
    assert found is not None
    shown = show_job(found)
    assert (shown["sentence"], shown["reasons"]) == (sentence, codes)
    assert shown["matches"][0]["sentence"] == sentence


def test_an_implausible_job_of_the_version_before_is_accepted(engine: Engine) -> None:
    with writing(engine) as connection:
        sentence = "implausible: too large: not delivered until: segnode jobs accept 1"
        codes = ["implausible_volume"]
        put(connection, "job", _JOB, state="implausible", reasons=codes, sentence=sentence)
        put(connection, "match", _MATCH, job_id=1, state="implausible")
    migrate(engine)

    JobStore(engine).accept(1)

    shown = show_job(JobCatalog(engine).get_job(1) or {})
    assert (shown["state"], shown["reasons"]) == ("done", codes)
    assert shown["sentence"] == "implausible: too large; taken by an operator all the same"


DELIVERIES = [
    ("waiting", ""),
    ("waiting", "no connection"),
    ("sent", "stored"),
    ("blocked", "refused: deliveries retry 1 tries again"),
    ("withheld", "the result is implausible: jobs accept 1 delivers it"),
    ("no_destination", "no destination is known: deliveries send RESULT --to NAME sends it"),
]


@pytest.mark.parametrize(("state", "sentence"), DELIVERIES)
def test_a_delivery_says_what_it_said(engine: Engine, state: str, sentence: str) -> None:
    with writing(engine) as connection:
        put(connection, "job", _JOB)
        connection.execute(
            text(
                "INSERT INTO result (id, job_id, form, file_name, size_bytes, sha256,"
                " sop_instance_uid, sop_class_uid, series_instance_uid, study_instance_uid,"
                " summary, state, created_at)"
                " VALUES (1, 1, 'seg_binary', 'f', 1, 's', '1', '1', '1', '1', '{}', 'current', 1)"
            )
        )
        put(connection, "outbox", _OUTBOX, state=state, sentence=sentence)

    migrate(engine)

    shown = show_delivery(JobCatalog(engine).get_delivery(1) or {})
    assert (shown["state"], shown["sentence"]) == (state, sentence)
