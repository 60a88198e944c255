"""Engines, transactions, and the clock that leases are counted by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import Connection, Engine, create_engine, event, text

BUSY_TIMEOUT_S = 10.0

Now = Callable[[], float]
"""A clock: tells epoch seconds."""

_EPOCH_S = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
}


def open_engine(url: str) -> Engine:
    """An engine for a SQLAlchemy URL; SQLite gets its pragmas on every connection."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A short writing transaction, committed on exit; on SQLite it takes the write lock at once.

    Raises:
        sqlalchemy.exc.OperationalError: The database stayed locked, or is out of space.
    """
    with engine.connect().execution_options(segnode_writing=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A reading transaction: one consistent snapshot."""
    with engine.connect() as connection, connection.begin():
        yield connection


def epoch_s(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, the one that all processes share."""
    return float(connection.execute(text(_EPOCH_S[connection.dialect.name])).scalar_one())


class DatabaseClock:
    """Epoch seconds by the database's clock, asked once: no query for each instance.

    Raises:
        sqlalchemy.exc.DBAPIError: The database cannot be reached.
    """

    def __init__(self, engine: Engine) -> None:
        with writing(engine) as connection:
            self._ahead_s = epoch_s(connection) - time.time()

    def __call__(self) -> float:
        return time.time() + self._ahead_s


def _prepare_sqlite(connection: SqliteConnection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("segnode_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
