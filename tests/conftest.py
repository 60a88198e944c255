"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Connection, MetaData, event

from node.database import engine
from node.jobs import tables as of_jobs
from node.spool import tables as of_spool
from tests.support import postgresql
from tests.support.cases import CACHE, Cases, lay_packaged, roots

_databases = count(1)


def _make_clock(_made: MetaData, connection: Connection, **_: object) -> None:
    """Tables of one stage, without migrations, go by the time of the node as well."""
    engine.metadata.create_all(connection)


for _metadata in (of_jobs.metadata, of_spool.metadata):
    event.listen(_metadata, "after_create", _make_clock)

# a machine may be busy: how long an example takes says nothing of the code
settings.register_profile("claims", deadline=None)
settings.load_profile("claims")


@pytest.fixture(scope="module", autouse=True)
def _files_are_closed() -> Iterator[None]:
    """No file of tests leaves descriptors open: from 1024 on, ``select`` fails whoever comes next."""
    descriptors = Path("/proc/self/fd")
    before = sum(1 for _ in descriptors.iterdir())
    yield
    left = sum(1 for _ in descriptors.iterdir()) - before
    assert left < 100, f"{left} descriptors were left open"


@pytest.fixture(scope="session")
def case_roots() -> tuple[Path, ...]:
    """Where real cases may lie; those that pydicom's wheel carries are there."""
    lay_packaged(CACHE)
    return tuple(roots())


@pytest.fixture(scope="session")
def shared_data(case_roots: tuple[Path, ...]) -> Cases:
    """Real DICOM series and objects."""
    return Cases("data", case_roots)


@pytest.fixture(scope="session")
def shared_labels(case_roots: tuple[Path, ...]) -> Cases:
    """Names and codes of structures."""
    return Cases("labels", case_roots)


@pytest.fixture(scope="session")
def shared_models(case_roots: tuple[Path, ...]) -> Cases:
    """Small networks with learned weights."""
    return Cases("models", case_roots)


@pytest.fixture(scope="session")
def test_bundles() -> Path:
    """The folder of published bundles, each with weights of any kind in ``models/``."""
    named = os.environ.get("SEGNODE_TEST_BUNDLES")
    if not named:
        pytest.skip("set SEGNODE_TEST_BUNDLES to a folder of unchanged bundles")
    return Path(named)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A server of its own: a URL with a place for the name of a database."""
    binaries = postgresql.programs()
    if binaries is None:
        message = "PostgreSQL is not installed: make peers"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with postgresql.server(binaries) as url:
        yield url


@pytest.fixture
def empty_postgresql(postgresql_url: str) -> Callable[[], str]:
    """Makes a new empty database; returns its URL."""

    def make() -> str:
        return postgresql.new_database(postgresql_url, f"test{next(_databases)}")

    return make
