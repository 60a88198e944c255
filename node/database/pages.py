"""Rows for people and programs that ask: plain dictionaries that JSON can carry, page by page.

Column names are keys, times are epoch seconds. A page begins after the place of the row before it,
not after a number of rows: the last one costs what the first does, and a new row moves none. What is
counted is counted up to ``COUNTED``.
"""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

from sqlalchemy import Column, ColumnElement, Engine, Result, Select, func, select, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from node.database.engine import reading, rows_of
from node.domain.errors import CursorInvalid
from node.domain.health import COUNTED

Shown: TypeAlias = dict[str, Any]
Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = ReadOnlyColumnCollection[str, Column[Any]]

# rows that ``every`` holds at a time
_AT_A_TIME = 1000

# columns that few rows have in common, and those that many have, in the order of their indexes
_OF_FEW = ("study_instance_uid", "series_instance_uid")
_OF_MANY = ("model", "destination", "state")
_LONGEST_CURSOR = 512
_INTEGERS = 2**31  # of PostgreSQL


class Only(TypedDict, total=False):
    """The value that a column must have; empty: any."""

    state: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    model: str | None
    destination: str | None


class Asked(Only, total=False):
    """Which rows of a list, and which page of them."""

    limit: int
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the rows of a list.

    Args:
        total: How many rows the list has; where it is not exact, it has more.
        next: The ``after`` of the page that follows; None: there is none.
    """

    rows: Sequence[Row]
    total: int
    total_is_exact: bool = True
    next: str | None = None


def page_of(
    engine: Engine,
    query: Select[Any],
    order: Sequence[Column[Any]],
    *where: ColumnElement[bool],
    limit: int = 100,
    after: str | None = None,
    **only: Unpack[Only],
) -> Page:
    """Some of the rows that a query finds, the last in order first.

    Args:
        order: Columns of the table that ``only`` and ``where`` narrow; no two rows are alike in them.
        after: The ``next`` of the page before; None: the first page.
    Raises:
        CursorInvalid: ``after`` is no place in this order.
    """
    given = {key: value for key, value in only.items() if value}
    lead, alike = _narrowed(order[0].table.c, given, engine.dialect.name)
    alike = [*where, *alike, *(column >= value for column, value in lead.items())]
    to_end = [column <= value for column, value in lead.items()]
    by = [*lead, *order]
    known = select(by[-1]).where(*alike, *to_end).order_by(*lead).limit(COUNTED + 1).subquery()
    if after is not None:
        place = _place_of(after, [column.type.python_type for column in order])
        to_end = [tuple_(*by) < (*lead.values(), *place)]
    newest = [column.desc() for column in by]
    wanted = query.where(*alike, *to_end).order_by(*newest).limit(limit + 1)
    with reading(engine) as connection:
        rows = _shown(connection.execute(wanted))
        is_last, total = len(rows) <= limit, len(rows)
        if after is None and is_last:
            return Page(rows=rows, total=total)
        if total <= COUNTED:
            total = connection.execute(select(func.count()).select_from(known)).scalar_one()
    rows = rows[:limit]
    return Page(
        rows=rows,
        total=min(total, COUNTED),
        total_is_exact=total <= COUNTED,
        next=None if is_last else _cursor_of([rows[-1][column.name] for column in order]),
    )


def page_by_name(rows: Iterable[Row], limit: int, after: str | None = None) -> Page:
    """Some of the rows of a list in memory that is in the order of their names.

    Raises:
        CursorInvalid: ``after`` is no place in this order.
    """
    known = list(rows)
    name = "" if after is None else _place_of(after, [str])[0]
    left = [row for row in known if row["name"] > name]
    next_ = _cursor_of([left[limit - 1]["name"]]) if len(left) > limit else None
    return Page(rows=left[:limit], total=len(known), next=next_)


def every(list_rows: Callable[..., Page], **only: Unpack[Only]) -> Iterator[Row]:
    """Every row of a list, some held at a time; one whose place in the order changes may be missed."""
    after = None
    while True:
        page = list_rows(limit=_AT_A_TIME, after=after, **only)
        yield from page.rows
        if (after := page.next) is None:
            return


def counts_of(engine: Engine, state: Column[str], states: Iterable[str]) -> dict[str, int]:
    """How many rows are in each of some states, counted up to ``COUNTED``; none: left out."""
    numbers = []
    for name in map(str, states):
        some = select(state).where(state.between(name, name)).order_by(state).limit(COUNTED)
        number = select(func.count()).select_from(some.subquery())
        numbers.append(number.scalar_subquery().label(name))
    (row,) = rows_of(engine, select(*numbers))
    return {name: number for name, number in row._mapping.items() if number}


def all_of(engine: Engine, query: Select[Any]) -> list[Shown]:
    """Every row that a query finds."""
    with reading(engine) as connection:
        return _shown(connection.execute(query))


def one_of(engine: Engine, query: Select[Any]) -> Shown | None:
    """The row that a query finds, if any."""
    return next(iter(all_of(engine, query)), None)


def _shown(found: Result[Any]) -> list[Shown]:
    names = tuple(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found]


def _narrowed(
    columns: Columns, only: Mapping[str, object], dialect: str
) -> tuple[dict[Column[Any], object], list[ColumnElement[bool]]]:
    """The column that leads to the rows of a list, if any does, and what else they have in common.

    A study has few rows: beside it no index of states is used. A state has many. PostgreSQL, which knows
    how many, reads the newest rows of all states until enough are of this one, and where those are old
    it reads all that are newer. So there they are asked for as a range of states, and in the order of
    the index that holds them together.
    """
    if any(name in _OF_FEW for name in only):
        return {}, [
            (columns[name] if name in _OF_FEW else columns[name].concat("")) == value
            for name, value in only.items()
        ]
    leading = [name for name in _OF_MANY if name in only and dialect == "postgresql"][-1:]
    alike = [columns[name] == value for name, value in only.items() if name not in leading]
    return {columns[name]: only[name] for name in leading}, alike


def _cursor_of(place: Sequence[Any]) -> str:
    text = json.dumps(place, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place_of(cursor: str, kinds: Sequence[type]) -> tuple[Any, ...]:
    """The values of a cursor; it comes from outside."""
    if len(cursor) > _LONGEST_CURSOR:
        raise CursorInvalid
    try:
        place = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise CursorInvalid from None
    if not isinstance(place, list) or [type(value) for value in place] != list(kinds):
        raise CursorInvalid
    if not all(map(_can_be_asked_for, place)):
        raise CursorInvalid
    return tuple(place)


def _can_be_asked_for(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    return math.isfinite(value) if isinstance(value, float) else abs(value) < _INTEGERS
