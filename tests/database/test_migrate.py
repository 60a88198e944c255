"""Migrations against the tables that the stages declare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, text

import node.database
import node.database.engine
import node.jobs.tables
import node.notify.tables
import node.spool.tables
from node.database.engine import open_engine
from node.database.migrate import migrate, migrate_apart, newest_revision
from node.domain.errors import ConfigInvalid


def test_migrations_make_exactly_the_tables_that_the_stages_declare(tmp_path: Path) -> None:
    declared = MetaData()
    stages = (
        node.spool.tables.metadata,
        node.jobs.tables.metadata,
        node.notify.tables.metadata,
    )
    for metadata in (node.database.engine.metadata, *stages):
        for table in metadata.tables.values():
            table.to_metadata(declared)
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")

    migrate(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, kind, _: name != "alembic_version"}
        )
        assert compare_metadata(context, declared) == []
    engine.dispose()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")

    migrate(engine)
    migrate(engine)

    engine.dispose()


def test_the_newest_revision_is_the_one_that_alembic_ends_at() -> None:
    options = Config()
    folder = Path(node.database.__file__).parent / "migrations"
    options.set_main_option("script_location", str(folder))

    assert ScriptDirectory.from_config(options).get_heads() == [newest_revision()]


def test_a_database_of_a_later_segnode_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    engine = open_engine(url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    for call in (lambda: migrate(engine), lambda: migrate_apart(url)):
        with pytest.raises(ConfigInvalid, match=r"a later segnode \(schema 9999"):
            call()
    with engine.connect() as connection:
        stands = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    engine.dispose()
    assert stands == "9999"


def test_a_database_that_cannot_be_reached_is_a_sentence(tmp_path: Path) -> None:
    for url in (
        f"sqlite:///{tmp_path / 'no_such_folder' / 'index.sqlite'}",
        "postgresql+psycopg://127.0.0.1:1/none",
    ):
        with pytest.raises(ConfigInvalid, match="database: cannot be reached"):
            migrate_apart(url)


def test_migrating_apart_loads_nothing_of_alembic_here(tmp_path: Path) -> None:
    code = (
        "import sys, node.cli.serving, node.database.migrate\n"
        f"node.database.migrate.migrate_apart('sqlite:///{tmp_path / 'index.sqlite'}')\n"
        "print(*(name for name in sys.modules if name.partition('.')[0] == 'alembic'))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")
    with engine.connect() as connection:
        stands = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    engine.dispose()
    assert stands == newest_revision()
