"""Migrations: the supervisor brings the schema up to date before any child starts."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Create or upgrade all tables; does nothing when they are current."""
    options = Config()
    options.set_main_option("script_location", str(_SCRIPTS))
    with engine.connect() as connection, connection.begin():
        options.attributes["connection"] = connection
        command.upgrade(options, "head")
