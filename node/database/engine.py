"""Engines, transactions, the time that all processes go by, and rows as values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from math import copysign, inf
from operator import attrgetter
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Error as SqliteError
from sqlite3 import connect
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Float,
    Integer,
    MetaData,
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

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
_CLOCK = "segnode_clock"
_LOOK_S = 1.0

_Value = TypeVar("_Value", bound="DataclassInstance")

Now = Callable[[], float]
"""A clock: tells epoch seconds."""

# The time of the node is the database's clock and what it is ahead of that: nothing, as a rule.
metadata = MetaData()
clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True),  # one row
    Column("ahead_s", Float, nullable=False),
    Column("noted_at", Float, nullable=False),  # how far the time of the node had come then
    Column("writes", Integer, nullable=False),
)

_TOLD = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())",
}
_ASK = {
    name: text(
        f"SELECT {told} AS told,"  # noqa: S608 - an expression of ours
        " (SELECT ahead_s FROM clock WHERE id = 1) AS ahead_s,"
        " (SELECT noted_at FROM clock WHERE id = 1) AS noted_at,"
        " (SELECT writes FROM clock WHERE id = 1) AS writes"
    )
    for name, told in _TOLD.items()
}
# A clock that went on otherwise than the monotonic one by more than this was set. Between machines the
# two drift apart by less than a thousandth.
_SET_S, _DRIFT = 1.0, 0.001
# how fast the node's time comes back to the clock's, and in how large steps
_NEARER, _NEARER_S = 0.1, 5.0
NOTE_EVERY_S = 30.0
_NEARER_EVERY_S = 2.0


def open_engine(url: str) -> Engine:
    """An engine for a SQLAlchemy URL; SQLite gets its pragmas on every connection.

    What a statement was given stands in no error: it may be a patient's name.
    """
    of_all = {"hide_parameters": True, "execution_options": {_CLOCK: NodeClock()}}
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, **of_all)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **of_all)
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
    """Seconds since 1970 by the time of the node, the one that all processes share."""
    return clock_of(connection).read(connection)


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


class NodeClock:
    """The time of the node, as one process knows it: of one engine, safe to share between threads.

    It is the database's clock, the one that processes on all machines share, as long as nobody sets
    that. A process sees that somebody did: between two looks it went on otherwise than the monotonic
    clock. The time of the node goes on as before then, so that no wait ends early or late, and the
    difference is written down for processes that start later. From there the time comes back to the
    clock's, a tenth faster or slower than that goes. Whatever happened while no process was there to
    see, it does not go back behind what was noted of it.

    Calling it tells the time without a query, counted on from the last look.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = RLock()
        # the last look: between which monotonic seconds, and what the database's clock told
        self._began_at, self._ended_at, self._told = -inf, inf, 0.0
        self._noted_at, self._ahead_s, self._writes = 0.0, 0.0, -1  # as they are written down
        self._owed_s = 0.0  # what belongs to ``ahead_s`` and is not written down yet

    def __call__(self) -> float:
        with self._lock:
            return self._told + self.ahead_s + self._monotonic() - self._began_at

    @property
    def ahead_s(self) -> float:
        """How far the time of the node is ahead of the database's clock."""
        with self._lock:
            return self._ahead_s + self._owed_s

    @property
    def was_set(self) -> bool:
        """Whether somebody set the database's clock, and nobody has written that down."""
        return bool(self._owed_s)

    def read(self, connection: Connection) -> float:
        """Look at the database's clock."""
        began_at = self._monotonic()
        row = connection.execute(_ASK[connection.dialect.name]).one()
        ended_at, told = self._monotonic(), float(row.told)
        with self._lock:
            set_by_s = _set_by_s(
                told - self._told, began_at - self._ended_at, ended_at - self._began_at
            )
            if (row.writes or 0) > self._writes:
                ahead_s, is_first = row.ahead_s or 0.0, self._writes < 0
                # closer to the whole of it than to nothing: who wrote that had seen the same
                is_known = abs(ahead_s - self.ahead_s + set_by_s) <= abs(set_by_s) / 2
                self._ahead_s, self._owed_s = ahead_s, 0.0 if is_known else -set_by_s
                self._noted_at, self._writes = row.noted_at or 0.0, row.writes or 0
                behind_s = self._noted_at - told - ahead_s
                if is_first and behind_s > _SET_S:
                    self._owed_s = behind_s
            else:
                self._owed_s -= set_by_s
            self._began_at, self._ended_at, self._told = began_at, ended_at, told
            return told + self.ahead_s

    def write_down(self, connection: Connection, *, may_go_forward: bool = False) -> None:
        """Note how far the time has come; that the clock was set; else bring them nearer together.

        Args:
            may_go_forward: Nobody waits for anything: the time may go to the clock's, if that is later.
        """
        self.read(connection)
        with self._lock:  # other threads look meanwhile
            told, was_ahead_s, owed_s = self._told, self.ahead_s, self._owed_s
            noted_s, writes = told + was_ahead_s - self._noted_at, self._writes
        nearer_s = 0.0 if owed_s else _NEARER * min(max(noted_s, 0.0), _NEARER_S)
        ahead_s = copysign(max(abs(was_ahead_s) - nearer_s, 0.0), was_ahead_s)
        if may_go_forward:
            ahead_s = max(ahead_s, 0.0)
        values = {"ahead_s": ahead_s, "noted_at": told + ahead_s, "writes": writes + 1}
        noted = inserting(connection, clock).values(id=1, **values)
        if_same = noted.on_conflict_do_update(
            index_elements=["id"], set_=values, where=clock.c.writes == writes
        )
        if connection.execute(if_same).rowcount and owed_s:
            log.warning("the clock was set", extra={"by_s": round(-owed_s, 1)})

    def has_to_write(self, note_every_s: float = NOTE_EVERY_S) -> bool:
        """Whether it is time for ``write_down``, by the last look."""
        with self._lock:
            every_s = _NEARER_EVERY_S if self._ahead_s else note_every_s
            return self.was_set or not 0.0 <= self._told + self._ahead_s - self._noted_at < every_s


def _set_by_s(passed_s: float, at_least_s: float, at_most_s: float) -> float:
    """How far a clock was set, by which some seconds passed; 0.0 where it may only have drifted."""
    by_s = passed_s - min(max(passed_s, at_least_s), at_most_s)
    return by_s if abs(by_s) > _SET_S + _DRIFT * at_least_s else 0.0


def clock_of(of: Engine | Connection) -> NodeClock:
    """The clock of an engine."""
    its: NodeClock = of.get_execution_options()[_CLOCK]
    return its


def keep_time(engine: Engine, *, note_every_s: float = NOTE_EVERY_S) -> None:
    """Write down what there is to be written of the time; to be called about every second."""
    with reading(engine) as connection:
        epoch_s(connection)
    if clock_of(engine).has_to_write(note_every_s):
        with writing(engine) as connection:
            clock_of(engine).write_down(connection)


def clock_time_s(of: Engine | Connection, at: float) -> float:
    """What the database's clock shows at a time of the node: for what is compared with other clocks."""
    return at - clock_of(of).ahead_s


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
