"""Rows for people and programs that ask: plain dictionaries that JSON can carry, page by page.

Column names are keys, times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

from sqlalchemy import Column, Engine, Select, func

from node.database.engine import reading, rows_of

Shown: TypeAlias = dict[str, Any]
Page: TypeAlias = tuple[list[Shown], int]


class Only(TypedDict, total=False):
    """The value that a column must have; empty: any."""

    state: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    model: str | None
    destination: str | None


def page_of(
    engine: Engine,
    query: Select[Any],
    order: Sequence[Column[Any]],
    limit: int,
    offset: int = 0,
    **only: Unpack[Only],
) -> Page:
    """Some of the rows that a query finds, the last in order first, and how many it finds.

    Args:
        order: Columns of the table that ``only`` narrows.
    """
    columns = order[0].table.c
    query = query.where(*(columns[name] == value for name, value in only.items() if value))
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
