"""Reading the index: what lies in the spool, for people and programs that ask.

Rows come out as plain dictionaries that JSON can carry: column names as keys, times as epoch
seconds. Lists are short rows, newest first, with the number of all rows that match; one row by its
key is whole. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Engine, Table, func, select

from node.database.engine import reading
from node.spool.losses import Losses
from node.spool.tables import association, event, instance, quarantine, series

Row: TypeAlias = dict[str, Any]

# the newest events that a series shows
_EVENTS = 100

# long columns that only the whole row shows
_LONG = frozenset({"header", "snapshot", "gate"})


class SpoolCatalog:
    """Series, instances, quarantine, events and associations, read-only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_series(
        self,
        *,
        state: str | None = None,
        study_instance_uid: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """Series, the last received first, and how many there are."""
        where = [series.c.state == state] if state else []
        if study_instance_uid:
            where.append(series.c.study_instance_uid == study_instance_uid)
        return self._page(series, where, series.c.last_received_at, limit, offset)

    def get_series(self, series_instance_uid: str) -> Row | None:
        """One series with its header, geometry findings, instances, losses and events."""
        whole = self._one(series, series.c.series_instance_uid == series_instance_uid)
        if whole is None:
            return None
        columns = ("sop_instance_uid", "version", "sop_class_uid", "transfer_syntax_uid")
        facts = (*columns, "size_bytes", "received_at", "transport", "peer", "file_deleted_at")
        query = (
            select(*(instance.c[name] for name in facts))
            .where(instance.c.series_instance_uid == series_instance_uid)
            .order_by(instance.c.id)
        )
        with reading(self._engine) as connection:
            whole["instance_list"] = [dict(row._mapping) for row in connection.execute(query)]
        whole["losses"] = [
            asdict(loss) for loss in Losses(self._engine).of_series(series_instance_uid)
        ]
        whole["events"], _ = self._page(
            event, [event.c.series_instance_uid == series_instance_uid], event.c.id, _EVENTS, 0
        )
        return whole

    def list_quarantine(
        self,
        *,
        state: str | None = None,
        series_instance_uid: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """What was refused and kept aside, the newest first, and how many there are."""
        where = [quarantine.c.state == state] if state else []
        if series_instance_uid:
            where.append(quarantine.c.series_instance_uid == series_instance_uid)
        return self._page(quarantine, where, quarantine.c.id, limit, offset)

    def get_quarantine(self, quarantine_id: int) -> Row | None:
        """One refused instance."""
        return self._one(quarantine, quarantine.c.id == quarantine_id)

    def list_associations(
        self, *, only_open: bool = False, limit: int = 100, offset: int = 0
    ) -> tuple[list[Row], int]:
        """Who sent or is sending, the newest first, and how many there are."""
        where = [association.c.closed_at.is_(None)] if only_open else []
        return self._page(association, where, association.c.opened_at, limit, offset)

    def _page(
        self,
        table: Table,
        where: Sequence[ColumnElement[bool]],
        order: ColumnElement[Any],
        limit: int,
        offset: int,
    ) -> tuple[list[Row], int]:
        columns = [column for column in table.c if column.name not in _LONG]
        key = next(iter(table.primary_key))
        rows = (
            select(*columns)
            .where(*where)
            .order_by(order.desc(), key.desc())
            .limit(limit)
            .offset(offset)
        )
        count = select(func.count()).select_from(table).where(*where)
        with reading(self._engine) as connection:
            found = [dict(row._mapping) for row in connection.execute(rows)]
            return found, int(connection.execute(count).scalar_one())

    def _one(self, table: Table, where: ColumnElement[bool]) -> Row | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(table).where(where)).one_or_none()
        return None if row is None else dict(row._mapping)
