"""Migrations: the schema is brought up to date before any role starts.

Alembic is loaded only where something is to be done, so that no command waits for it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import OperationalError

from node.database.engine import open_engine
from node.domain.errors import ConfigInvalid

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Create or upgrade all tables; does nothing when they are current.

    Raises:
        ConfigInvalid: The database cannot be reached, or a later segnode wrote it.
    """
    if not _is_current(engine):
        _upgrade(engine)


def migrate_apart(url: str) -> None:
    """``migrate`` in a process of its own: what only migrations load stays out of this one.

    For a process that others are forked from. It must have one thread.

    Raises:
        ConfigInvalid: The database cannot be reached, or a later segnode wrote it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as apart:
        apart.submit(_migrate_url, url).result()


def newest_revision() -> str:
    """The revision that this version of segnode works with: the last of the scripts."""
    return max(path.name for path in _SCRIPTS.glob("versions/*.py")).partition("_")[0]


def _migrate_url(url: str) -> None:
    engine = open_engine(url)
    try:
        migrate(engine)
    finally:
        engine.dispose()


def _is_current(engine: Engine) -> bool:
    newest = newest_revision()
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return False
            query = text("SELECT version_num FROM alembic_version")
            stands = connection.execute(query).scalar()
    except OperationalError as error:
        raise ConfigInvalid([("database", f"cannot be reached: {error.orig}")]) from None
    if stands is not None and stands > newest:
        raise ConfigInvalid(
            [
                (
                    "database",
                    f"was written by a later segnode (schema {stands}; this one knows {newest}): "
                    "start that version, or restore the backup made before it",
                )
            ]
        )
    return stands == newest


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    options = Config()
    options.set_main_option("script_location", str(_SCRIPTS))
    with engine.connect() as connection, connection.begin():
        options.attributes["connection"] = connection
        command.upgrade(options, "head")
