"""Migrations against the tables that the stages declare."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData

import node.jobs.tables
import node.spool.tables
from node.database.engine import open_engine
from node.database.migrate import migrate


def test_migrations_make_exactly_the_tables_that_the_stages_declare(tmp_path: Path) -> None:
    declared = MetaData()
    for metadata in (node.spool.tables.metadata, node.jobs.tables.metadata):
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
