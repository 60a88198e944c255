"""Engines on SQLite and PostgreSQL, and requests to enqueue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from node.database.engine import open_engine
from node.domain.delivery import FormsTaken
from node.domain.job import Priority, job_key
from node.jobs.tables import metadata
from node.jobs.values import JobRequest, ResultFile

MakeRequest = Callable[..., JobRequest]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database with the tables of this stage."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/segnode.sqlite"
    else:
        url = request.getfixturevalue("empty_postgresql")()
    engine = open_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def make_request() -> MakeRequest:
    """A rule's wish for one run over one series; ``pixels`` decides the job key."""

    def make(
        pixels: str = "a",
        *,
        rule: str = "chest",
        series: str = "1.2.3",
        revision: int = 1,
        destinations: tuple[str, ...] = ("pacs",),
        priority: Priority = Priority.NORMAL,
        study: str = "1.2",
        taken_series_numbers: frozenset[int] = frozenset(),
        version: int = 1,
        taken: FormsTaken | None = None,
    ) -> JobRequest:
        return JobRequest(
            rule=rule,
            study_instance_uid=study,
            series_key=series,
            revision=revision,
            job_key=job_key([pixels], "model", {}),
            model="ct_tissue",
            model_digest="model",
            inputs={
                "image": {
                    "series_instance_uid": series,
                    "revision": revision,
                    "instances": {f"{series}.1": version},
                }
            },
            destinations=destinations,
            taken=taken or FormsTaken(),
            priority=priority,
            config_digest="c1",
            taken_series_numbers=taken_series_numbers,
        )

    return make


@pytest.fixture
def make_file() -> Callable[..., ResultFile]:
    """A durable product: labels, or a SEG whose UID follows from ``name``."""

    def make(name: str = "one", form: str = "seg") -> ResultFile:
        sha256 = hashlib.sha256(f"{name}{form}".encode()).hexdigest()
        is_object = form != "labels"
        is_dicom = form == "seg"
        return ResultFile(
            form=form,
            file_name=f"{name}/{form}",
            size_bytes=10,
            sha256=sha256,
            sop_instance_uid=f"2.25.{int(sha256[:12], 16)}" if is_object else "",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4" if is_dicom else "",
            series_instance_uid="2.25.7" if is_object else "",
            study_instance_uid="1.2",
        )

    return make
