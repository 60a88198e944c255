"""Migrations: the schema is brought up to date before any role starts.

Alembic is loaded only where something is to be done, so that no command waits for it.
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import OperationalError

from node.database.engine import open_engine
from node.domain.errors import ConfigInvalid

log = logging.getLogger(__name__)

_SCRIPTS = Path(__file__).parent / "migrations"
_REWRITTEN = ("series", "match", "job", "outbox")
# what stands below this is written anew
_REWRITTEN_UP_TO = "0006"
# from schema 0002 a database of 100,000 series took its size once more and 0.13 ms of CPU per row
_NEEDED_PER_BYTE = 1.5
_SECONDS_PER_ROW = 0.0005


def migrate(engine: Engine) -> None:
    """Create or upgrade all tables; does nothing when they are current.

    An upgrade that was interrupted goes on where it stood.

    Raises:
        ConfigInvalid: The database cannot be reached, a later segnode wrote it, or there is no room
            to upgrade it.
    """
    stands = _revision_of(engine)
    if stands == newest_revision():
        return
    if stands is not None:
        _tell_cost(engine, stands)
    try:
        _upgrade(engine)
    except OperationalError as error:
        sentence = f"cannot be upgraded: {error.orig}; what was done stays, start again to go on"
        raise ConfigInvalid([("database", sentence)]) from None


def migrate_apart(url: str) -> None:
    """``migrate`` in a process of its own: what only migrations load stays out of this one.

    For a process that others are forked from. It must have one thread.

    Raises:
        ConfigInvalid: As ``migrate``.
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


def _revision_of(engine: Engine) -> str | None:
    """The revision that a database is of; None: nothing is in it."""
    newest = newest_revision()
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            query = text("SELECT version_num FROM alembic_version")
            stands: str | None = connection.execute(query).scalar()
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
    return stands


def _tell_cost(engine: Engine, stands: str) -> None:
    """Say what the upgrade of a database will take, before it begins.

    Raises:
        ConfigInvalid: The disk cannot hold it.
    """
    size_bytes, free_bytes = _size_bytes(engine), _free_bytes(engine)
    is_rewritten = stands < _REWRITTEN_UP_TO
    needed_bytes = int(size_bytes * _NEEDED_PER_BYTE) if is_rewritten else 0
    facts = {
        "schema": stands,
        "becomes": newest_revision(),
        "size_mb": round(size_bytes / 1e6),
        "needs_mb": round(needed_bytes / 1e6),
        "free_mb": "unknown" if free_bytes is None else round(free_bytes / 1e6),
        "minutes": round(_rows(engine) * is_rewritten * _SECONDS_PER_ROW / 60, 1),
    }
    if free_bytes is not None and free_bytes < needed_bytes:
        sentence = (
            f"the upgrade from schema {stands} needs {facts['needs_mb']} MB beside it for a while, "
            f"and {facts['free_mb']} MB are free: make room, then start again"
        )
        raise ConfigInvalid([("database", sentence)])
    log.info("the database is upgraded", extra=facts)


def _size_bytes(engine: Engine) -> int:
    if engine.dialect.name == "postgresql":
        query = text("SELECT pg_database_size(current_database())")
        with engine.connect() as connection:
            return int(connection.execute(query).scalar_one())
    path = str(engine.url.database)
    parts = (Path(path + suffix) for suffix in ("", "-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())


def _free_bytes(engine: Engine) -> int | None:
    """What is free on its disk; None: that of another machine is not known."""
    if engine.dialect.name == "postgresql":
        return None
    return shutil.disk_usage(Path(str(engine.url.database)).parent).free


def _rows(engine: Engine) -> int:
    """How many rows are written anew."""
    with engine.connect() as connection:
        return sum(
            int(connection.execute(text(f'SELECT count(*) FROM "{table}"')).scalar_one())  # noqa: S608
            for table in _REWRITTEN
        )


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    options = Config()
    options.set_main_option("script_location", str(_SCRIPTS))
    with engine.connect().execution_options(segnode_writing=True) as connection:
        options.attributes["connection"] = connection
        command.upgrade(options, "head")
