"""The upgrade of a database that holds something: what it costs is told, and a kill costs one revision."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, MetaData, event, insert, inspect, select, text

import node.database.migrate as migrations
from node.database.engine import open_engine
from node.database.migrate import migrate, newest_revision
from node.domain.errors import ConfigInvalid

OLD = Path(__file__).parents[1] / "upgrade" / "node_of_0002.tar.xz"
BEFORE = "0002"
REVISIONS = ("0003", "0004", "0005", "0006", "0007", "0008")

KILLED = """
import os, sys
from sqlalchemy import event
from node.database.engine import open_engine
from node.database.migrate import migrate

url, revision, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = open_engine(url)
written = 0

@event.listens_for(engine, "before_cursor_execute")
def count(connection, cursor, statement, *rest):
    global written
    if statement.startswith("UPDATE alembic_version SET"):
        if wanted == 0 and f"='{revision}'" in statement:
            os.kill(os.getpid(), 9)
        written = 0
    elif not statement.lstrip().startswith(("SELECT", "PRAGMA")):
        written += 1
        if written == wanted and newest() == f"{int(revision) - 1:04}":
            os.kill(os.getpid(), 9)

def newest():
    with other.connect() as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

other = open_engine(url)
migrate(engine)
"""


def to(engine: Engine, revision: str) -> None:
    options = Config()
    options.set_main_option("script_location", str(Path(migrations.__file__).parent / "migrations"))
    with engine.connect().execution_options(segnode_writing=True) as connection:
        options.attributes["connection"] = connection
        command.upgrade(options, revision)


def content(engine: Engine) -> Mapping[str, list[tuple[Any, ...]]]:
    """Every row of every table, whatever the order of columns."""
    known = MetaData()
    known.reflect(engine)
    with engine.connect() as connection:
        return {
            name: sorted(
                (
                    tuple(str(row._mapping[column]) for column in sorted(table.c.keys()))
                    for row in connection.execute(select(table))
                ),
            )
            for name, table in known.tables.items()
        }


def stands(engine: Engine) -> str:
    with engine.connect() as connection:
        query = text("SELECT version_num FROM alembic_version")
        return str(connection.execute(query).scalar_one())


Make = Callable[[], Engine]


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes the database of a node that stood in the middle of everything."""
    engines: list[Engine] = []

    def make() -> Engine:
        folder = tmp_path / str(len(engines))
        with tarfile.open(OLD) as archive:
            archive.extract("data/segnode.sqlite", folder, filter="data")
        engines.append(open_engine(f"sqlite:///{folder / 'data' / 'segnode.sqlite'}"))
        if request.param == "postgresql":
            empty: Callable[[], str] = request.getfixturevalue("empty_postgresql")
            server = open_engine(empty())
            to(server, BEFORE)
            _copy(engines[-1], server)
            engines.append(server)
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def _copy(source: Engine, target: Engine) -> None:
    given, made = MetaData(), MetaData()
    given.reflect(source)
    made.reflect(target)
    with source.connect() as reading, target.begin() as writing:
        for name, table in given.tables.items():
            rows = [dict(row._mapping) for row in reading.execute(select(table))]
            if rows and name != "alembic_version":
                writing.execute(insert(made.tables[name]), rows)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_that_was_killed_goes_on_at_the_revision_where_it_stood(
    old: Make, revision: str
) -> None:
    whole, killed = old(), old()
    url = killed.url.render_as_string(hide_password=False)
    killed.dispose()
    migrate(whole)

    for after_writes in (2, 0):  # in the middle of a revision, and when all of it is written
        command = [sys.executable, "-c", KILLED, url, revision, str(after_writes)]
        died = subprocess.run(command, capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert stands(killed) == f"{int(revision) - 1:04}"
    migrate(killed)

    assert stands(killed) == newest_revision()
    assert content(killed) == content(whole)
    assert content(whole)["job"]


def test_it_is_told_beforehand_what_an_upgrade_takes(
    old: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = old()

    with caplog.at_level(logging.INFO, logger="node.database.migrate"):
        migrate(engine)
        migrate(engine)

    (told,) = caplog.records
    facts = vars(told)
    assert told.message == "the database is upgraded"
    assert (facts["schema"], facts["becomes"]) == (BEFORE, newest_revision())
    assert {"size_mb", "needs_mb", "free_mb", "minutes"} <= facts.keys()


def test_nothing_is_told_of_a_new_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new.sqlite'}")

    with caplog.at_level(logging.INFO, logger="node.database.migrate"):
        migrate(engine)

    engine.dispose()
    assert caplog.records == []


def test_an_upgrade_that_the_disk_cannot_hold_is_refused_before_it_begins(
    old: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = old()
    if engine.dialect.name == "postgresql":
        pytest.skip("the disk of a server is not seen from here")
    before = content(engine)
    monkeypatch.setattr(migrations, "_NEEDED_PER_BYTE", 1e9)

    with pytest.raises(ConfigInvalid, match=r"needs \d+ MB beside it .* make room"):
        migrate(engine)

    assert (stands(engine), content(engine)) == (BEFORE, before)


def test_an_upgrade_that_writes_no_row_anew_needs_no_room(
    old: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = old()
    to(engine, "0006")
    monkeypatch.setattr(migrations, "_NEEDED_PER_BYTE", 1e9)

    migrate(engine)

    assert stands(engine) == newest_revision()


def test_facts_are_converted_in_batches(old: Make) -> None:
    engine = old()
    to(engine, "0004")
    largest: list[int] = []

    @event.listens_for(engine, "after_cursor_execute")
    def _(_connection: object, cursor: Any, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT *"):
            largest.append(statement.count("LIMIT 500"))

    migrate(engine)

    assert largest
    assert all(largest)


def test_a_refused_file_that_two_processes_found_keeps_the_row_that_was_decided(old: Make) -> None:
    engine = old()
    to(engine, "0005")
    names = ", ".join(
        column["name"]
        for column in inspect(engine).get_columns("quarantine")
        if column["name"] not in ("id", "state")
    )
    again = (
        f"INSERT INTO quarantine (id, {names}, state)"
        f" SELECT id + 1000, {names}, :state FROM quarantine"
    )
    with engine.begin() as connection:
        files = connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
        connection.execute(text(again), {"state": "accepted"})

    migrate(engine)

    with engine.connect() as connection:
        states = connection.execute(text("SELECT state FROM quarantine")).scalars().all()
    assert files > 0
    assert states == ["accepted"] * files
