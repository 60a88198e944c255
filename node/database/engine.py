"""Engines, transactions, the clock that leases are counted by, and rows as values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from operator import attrgetter
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Error as SqliteError
from sqlite3 import connect
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Row,
    Table,
    bindparam,
    create_engine,
    event,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BUSY_TIMEOUT_S = 10.0
_LOOK_S = 1.0

_Value = TypeVar("_Value", bound="DataclassInstance")

Now = Callable[[], float]
"""A clock: tells epoch seconds."""

_EPOCH_S = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
}


def open_engine(url: str) -> Engine:
    """An engine for a SQLAlchemy URL; SQLite gets its pragmas on every connection.

    What a statement was given stands in no error: it may be a patient's name.
    """
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
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


def why_unwritable(engine: Engine) -> str:
    """Why nothing can be written now, found out within a second or so; empty where something can."""
    try:
        if engine.dialect.name == "sqlite":
            # a connection of its own: those of the engine wait longer for a lock
            file = f"{Path(str(engine.url.database)).resolve().as_uri()}?mode=rw"
            given = connect(file, uri=True, timeout=_LOOK_S, isolation_level=None)
            with closing(given) as connection:
                connection.execute("BEGIN IMMEDIATE")
        else:
            with reading(engine) as postgresql_connection:
                postgresql_connection.execute(text("SELECT 1"))
    except SqliteError as error:
        return f"the database cannot be written ({error})"
    except DBAPIError:
        return "the database cannot be reached"
    return ""


def rows_of(engine: Engine, query: Executable) -> Sequence[Row[Any]]:
    """The answer to one query, whole."""
    with reading(engine) as connection:
        return connection.execute(query).all()


def column_of(engine: Engine, query: Executable) -> list[Any]:
    """The first column of the answer to one query."""
    with reading(engine) as connection:
        return list(connection.execute(query).scalars())


def each_of(column: Column[Any], where: ColumnElement[bool]) -> CTE:
    """The values of a column, each once, and a last NULL: a part of a query.

    One probe for each, however many rows have it, where an index begins with what ``where`` names
    and goes on with the column.
    """
    first = select(func.min(column).label("value")).where(where)
    found = first.cte(f"each_{column.name}", recursive=True)
    following = select(func.min(column)).where(where, column > found.c.value).correlate(found)
    return found.union_all(select(following.scalar_subquery()).where(found.c.value.is_not(None)))


def update_each(
    connection: Connection,
    table: Table,
    ids: Sequence[int],
    values: Mapping[str, Any],
    *where: ColumnElement[bool],
) -> int:
    """Change the rows with these ids of which something is still true; returns how many.

    One by one: asked for a list and a state, SQLite reads every row that is in that state.

    Args:
        where: Without lists, which many rows at once cannot be given; see ``is_one_of``.
    """
    if not ids:
        return 0
    one = table.update().where(table.c.id == bindparam("row_id"), *where).values(**values)
    return connection.execute(one, [{"row_id": row_id} for row_id in ids]).rowcount


def is_one_of(column: Column[Any], values: Iterable[object]) -> ColumnElement[bool]:
    """Like ``column.in_(values)``, in a form that ``update_each`` takes."""
    return or_(*(column == value for value in values))


def epoch_s(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, the one that all processes share."""
    return float(connection.execute(text(_EPOCH_S[connection.dialect.name])).scalar_one())


def stored(*members: StrEnum) -> tuple[str, ...]:
    """Members as they stand in a column."""
    return tuple(member.value for member in members)


def inserting(connection: Connection, table: Table) -> sqlite.Insert:
    """An INSERT that may say ``on_conflict_...``: both databases have it, in types of their own."""
    return insert_in(connection.dialect.name, table)


def insert_in(dialect: str, table: Table) -> sqlite.Insert:
    """``inserting`` for a database by its name, where no connection is at hand yet."""
    module: Any = postgresql if dialect == "postgresql" else sqlite
    statement: sqlite.Insert = module.insert(table)
    return statement


def value_of(kind: type[_Value], row: Row[Any], **others: Any) -> _Value:
    """A dataclass made of the columns of a row that are called like its fields.

    Args:
        others: Fields that are no column, or not as they stand there.
    """
    columns = row._mapping
    return kind(**{name: columns[name] for name in _fields_but(kind, *others)}, **others)


def columns_of(value: DataclassInstance, *others: str) -> dict[str, Any]:
    """The columns that are called like the fields of a dataclass.

    Args:
        others: Fields that are no column, or not as they stand there.
    """
    names = _fields_but(type(value), *others)
    return dict(zip(names, attrgetter(*names)(value), strict=True))


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


@cache
def _fields_but(kind: type[DataclassInstance], *others: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name not in others)


def _prepare_sqlite(connection: SqliteConnection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("segnode_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
