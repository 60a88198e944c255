"""Fixtures that every test may ask for."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import text

from node.database.engine import open_engine
from tests.support.cases import CACHE, Cases, lay_packaged, roots
from tests.support.peers import free_port

_databases = count(1)

# a machine may be busy: how long an example takes says nothing of the code
settings.register_profile("claims", deadline=None)
settings.load_profile("claims")


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
    """A server of its own, reached over a Unix socket, run by an unprivileged user."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not binaries:
        message = "PostgreSQL is not installed: make peers"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="segnode-pg-"))
    is_root = os.geteuid() == 0
    user = "postgres" if is_root else getpass.getuser()
    if is_root:
        shutil.chown(folder, user)
    become = ["runuser", "-u", user, "--"] if is_root else []
    control = [*become, str(binaries[-1].with_name("pg_ctl")), "-D", str(folder / "data")]
    port = free_port()
    options = f"-k {folder} -p {port} -c listen_addresses= -c fsync=off"
    try:
        for command in (
            [*control, "init", "-s", "-o", f"-A trust -U {user} -E UTF8 --no-sync"],
            [*control, "start", "-s", "-w", "-o", options, "-l", str(folder / "log")],
        ):
            subprocess.run(command, check=True, cwd="/")
        yield f"postgresql+psycopg://{user}@/{{name}}?host={folder}&port={port}"
    finally:
        subprocess.run([*control, "stop", "-s", "-m", "immediate"], check=False, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_postgresql(postgresql_url: str) -> Callable[[], str]:
    """Makes a new empty database; returns its URL."""

    def make() -> str:
        name = f"test{next(_databases)}"
        server = open_engine(postgresql_url.format(name="postgres"))
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        server.dispose()
        return postgresql_url.format(name=name)

    return make
