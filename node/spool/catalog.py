"""Reading the index: what lies in the spool, for people and programs that ask.

Lists are short rows, newest first, in pages; one row by its key is whole, with a row for each of its
images. Counts go up to ``COUNTED``. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Unpack

from sqlalchemy import Engine, func, select

from node.database.engine import reading
from node.database.pages import Asked, Page, Shown, all_of, counts_of, one_of, page_of
from node.domain.health import COUNTED
from node.domain.instance import SeriesState
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

    def list_series(self, **asked: Unpack[Asked]) -> Page:
        """Series, the last received first."""
        order = [series.c.last_received_at, series.c.series_instance_uid]
        return page_of(self._engine, _SERIES, order, **asked)

    def count_series(self, *states: SeriesState) -> Mapping[str, int]:
        """State -> number of series; without an argument all that there are."""
        return counts_of(self._engine, series.c.state, states or SeriesState)

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

    def list_quarantine(self, **asked: Unpack[Asked]) -> Page:
        """What was refused and kept aside, the newest first."""
        return page_of(self._engine, select(quarantine), [quarantine.c.id], **asked)

    def count_quarantine(self) -> int:
        """How many wait for a person."""
        return sum(counts_of(self._engine, quarantine.c.state, ["kept"]).values())

    def count_quarantined_since(self, at: float) -> int:
        """How many of those that wait came since, counted up to ``COUNTED``."""
        kept = (quarantine.c.state == "kept", quarantine.c.received_at >= at)
        some = select(quarantine.c.id).where(*kept).limit(COUNTED).subquery()
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(some)).scalar_one()

    def get_quarantine(self, quarantine_id: int) -> Shown | None:
        return one_of(self._engine, select(quarantine).where(quarantine.c.id == quarantine_id))

    def list_associations(
        self, *, only_open: bool = False, limit: int = 100, after: str | None = None
    ) -> Page:
        """Who sent or is sending, the newest first."""
        where = [association.c.closed_at.is_(None)] if only_open else []
        order = [association.c.opened_at, association.c.id]
        return page_of(self._engine, select(association), order, *where, limit=limit, after=after)
