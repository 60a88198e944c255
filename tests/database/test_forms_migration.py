"""What was done before forms were many goes on: rows of the schema before are converted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

import node.database.migrate as migrations
from node.database.engine import open_engine
from node.database.migrate import migrate
from node.domain.delivery import FormsTaken
from node.jobs.leases import JobLeases
from node.jobs.results import ResultStore
from node.jobs.store import JobStore

BEFORE = "0003"
JOB = """
    INSERT INTO job (id, job_key, state, priority, model, model_digest, parameters,
        study_instance_uid, inputs, destinations, revision, replaces, config_digest, series_number,
        content_date, content_time, deadline_s, attempts, not_before, stages, sentence, reasons,
        created_at)
    VALUES (:id, :key, :state, 1, 'ct_tissue', 'd', '{}', '1.2', '{}', '["pacs"]', 1, '', 'c', 1001,
        '20260101', '000000', 60.0, 1, 0.0, '{}', '', '[]', 0.0)
"""
RESULT = """
    INSERT INTO result (job_id, form, file_name, size_bytes, sha256, sop_instance_uid,
        sop_class_uid, series_instance_uid, study_instance_uid, summary, state, created_at)
    VALUES (:job, :form, :file, 1, :file, :uid, :uid, '', '1.2', '{}', 'current', 0.0)
"""
STATES = ("done", "implausible", "queued", "running", "failed")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of the version before, with a job in each state."""
    url = f"sqlite:///{tmp_path / 'node.sqlite'}"
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("empty_postgresql")
        url = make()
    engine = open_engine(url)
    _migrate_to(engine, BEFORE)
    with engine.begin() as connection:
        for number, state in enumerate(STATES, 1):
            connection.execute(text(JOB), {"id": number, "key": state, "state": state})
            for form, uid in (("labels", ""), ("seg_binary", "1.2.3")):
                if form == "labels" or state in ("done", "implausible"):
                    file = f"{number}/{form}"
                    connection.execute(
                        text(RESULT), {"job": number, "form": form, "file": file, "uid": uid}
                    )
    yield engine
    engine.dispose()


def _migrate_to(engine: Engine, revision: str) -> None:
    options = Config()
    options.set_main_option("script_location", str(Path(migrations.__file__).parent / "migrations"))
    with engine.connect() as connection, connection.begin():
        options.attributes["connection"] = connection
        command.upgrade(options, revision)


def test_rows_of_before_have_one_form_where_they_ended(engine: Engine) -> None:
    migrate(engine)

    with engine.connect() as connection:
        jobs = connection.execute(text("SELECT state, forms, settled FROM job")).all()
        results = connection.execute(text("SELECT form, part, file_name FROM result")).all()
    made = {
        state: json.loads(forms) if isinstance(forms, str) else forms for state, forms, _ in jobs
    }
    assert made == {
        "done": ["seg"], "implausible": ["seg"], "queued": [], "running": [], "failed": [],
    }  # fmt: skip
    assert {settled for *_, settled in jobs} == {""}
    assert {(form, part) for form, part, _ in results} == {("labels", ""), ("seg", "")}
    assert {file for form, _, file in results if form == "seg"} == {
        "1/seg_binary", "2/seg_binary",
    }  # fmt: skip


def test_a_done_job_of_before_is_only_made_into_what_is_missing(engine: Engine) -> None:
    migrate(engine)
    taken = FormsTaken({"shelf": ("seg", "nifti")})
    JobLeases(engine).lease("w", 60.0)  # the one that was queued

    JobStore(engine).give(1, ["shelf"], taken)

    leased = JobLeases(engine).lease("w", 60.0)
    assert leased is not None
    assert (leased.id, leased.forms, leased.settled) == (1, ("seg",), "done")
    assert [one.file.form for one in ResultStore(engine).files_of(1)] == ["seg"]


def test_one_file_per_job_form_and_part(engine: Engine) -> None:
    migrate(engine)
    row = RESULT.replace("job_id, form,", "job_id, part, form,").replace(
        ":job, :form", ":job, :part, :form"
    )
    given = {"job": 3, "form": "nifti", "file": "f", "uid": "1.2"}

    with engine.begin() as connection:
        connection.execute(text(row), {**given, "part": "one"})
        connection.execute(text(row), {**given, "part": "two"})

    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(row), {**given, "part": "two"})
