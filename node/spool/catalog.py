"""Reading the index: what lies in the spool, for people and programs that ask.

Lists are short rows, newest first, with the number of all rows that match; one row by its key is
whole. Nothing is changed here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Unpack

from sqlalchemy import Engine, select

from node.database.pages import Only, Page, Shown, all_of, one_of, page_of
from node.spool.losses import Losses
from node.spool.tables import association, event, instance, quarantine, series, series_detail

# the newest events that a series shows
_EVENTS = 100

_SERIES = select(*(c for c in series.c if c.name not in ("sweep_at", "forgotten_at")))
_WHOLE_SERIES = _SERIES.add_columns(
    series_detail.c.header, series_detail.c.snapshot, series_detail.c.gate
).join(series_detail, series_detail.c.series_instance_uid == series.c.series_instance_uid)
_INSTANCE = select(
    *(instance.c.sop_instance_uid, instance.c.version, instance.c.sop_class_uid),
    *(instance.c.transfer_syntax_uid, instance.c.size_bytes, instance.c.received_at),
    *(instance.c.transport, instance.c.peer, instance.c.file_deleted_at),
)


class SpoolCatalog:
    """Series, instances, quarantine, events and associations, read-only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_series(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """Series, the last received first, and how many there are."""
        order = [series.c.last_received_at, series.c.series_instance_uid]
        return page_of(self._engine, _SERIES, order, limit, offset, **only)

    def get_series(self, series_instance_uid: str) -> Shown | None:
        """One series with its header, geometry findings, instances, losses and events."""
        query = _WHOLE_SERIES.where(series.c.series_instance_uid == series_instance_uid)
        whole = one_of(self._engine, query)
        if whole is None:
            return None
        instances = _INSTANCE.where(instance.c.series_instance_uid == series_instance_uid)
        whole["instance_list"] = all_of(self._engine, instances.order_by(instance.c.id))
        losses = Losses(self._engine).of_series(series_instance_uid)
        whole["losses"] = [asdict(loss) for loss in losses]
        events = select(event).where(event.c.series_instance_uid == series_instance_uid)
        newest = events.order_by(event.c.id.desc()).limit(_EVENTS)
        whole["events"] = all_of(self._engine, newest)
        return whole

    def list_quarantine(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """What was refused and kept aside, the newest first, and how many there are."""
        return page_of(self._engine, select(quarantine), [quarantine.c.id], limit, offset, **only)

    def get_quarantine(self, quarantine_id: int) -> Shown | None:
        return one_of(self._engine, select(quarantine).where(quarantine.c.id == quarantine_id))

    def list_associations(
        self, *, only_open: bool = False, limit: int = 100, offset: int = 0
    ) -> Page:
        """Who sent or is sending, the newest first, and how many there are."""
        query = select(association)
        if only_open:
            query = query.where(association.c.closed_at.is_(None))
        order = [association.c.opened_at, association.c.id]
        return page_of(self._engine, query, order, limit, offset)
