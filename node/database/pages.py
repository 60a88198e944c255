"""Rows for people and programs that ask: plain dictionaries that JSON can carry, page by page.

Column names are keys, times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Engine, Select, func

from node.database.engine import reading, rows_of

Shown: TypeAlias = dict[str, Any]
Page: TypeAlias = tuple[list[Shown], int]


def page_of(
    engine: Engine,
    query: Select[Any],
    order: Sequence[ColumnElement[Any]],
    limit: int,
    offset: int = 0,
    *,
    only: Mapping[Column[Any], str | None] | None = None,
) -> Page:
    """Some of the rows that a query finds, the last in order first, and how many it finds.

    Args:
        only: Column -> the value that it must have; empty: any.
    """
    wanted = (column == value for column, value in (only or {}).items() if value)
    query = query.where(*wanted)
    newest = query.order_by(*(column.desc() for column in order)).limit(limit).offset(offset)
    count = query.with_only_columns(func.count(), maintain_column_froms=True)
    with reading(engine) as connection:
        found = [dict(row._mapping) for row in connection.execute(newest)]
        return found, int(connection.execute(count).scalar_one())


def all_of(engine: Engine, query: Select[Any]) -> list[Shown]:
    """Every row that a query finds."""
    return [dict(row._mapping) for row in rows_of(engine, query)]


def one_of(engine: Engine, query: Select[Any]) -> Shown | None:
    """The row that a query finds, if any."""
    return next(iter(all_of(engine, query)), None)
