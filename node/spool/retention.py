"""Retention: files go, rows stay.

The caller says which instances are needed (by unfinished jobs, open series, undelivered results);
those are never touched. A row whose file is gone is a tombstone: an exact re-send is recognised as
a duplicate, and no job starts for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Engine, select, update

from node.database.engine import column_of, rows_of, writing
from node.domain.instance import Instance
from node.spool.arrivals import instance_of
from node.spool.files import Spool
from node.spool.tables import instance, quarantine

_DAY_S = 86400.0
_BATCH = 500


def sweep_instances(
    engine: Engine,
    spool: Spool,
    *,
    now: float,
    keep_days: Callable[[Instance], float],
    is_needed: Callable[[Instance], bool],
    up_to_row: int | None = None,
) -> int:
    """Delete the files of instances that are old enough and not needed; how many.

    Args:
        up_to_row: The newest row that ``is_needed`` knows of: what came later is left alone.
        keep_days: How long this instance is kept after it came in; by what became of it.
        is_needed: Whether anything unfinished reads it still.
    """
    freed = after_id = 0
    while rows := _page(engine, after_id, up_to_row):
        after_id = rows[-1][0]
        due = [
            (row_id, kept)
            for row_id, kept in rows
            if kept.received_at + keep_days(kept) * _DAY_S <= now and not is_needed(kept)
        ]
        _bury(engine, spool, due, now)
        freed += len(due)
    if freed:
        spool.forget_space()
    return freed


def sweep_quarantine(engine: Engine, folder: Path, *, now: float, keep_days: float) -> int:
    """Delete refused instances that nobody asked for in time; how many."""
    wanted = select(quarantine.c.id, quarantine.c.file_name).where(
        quarantine.c.state == "kept", quarantine.c.received_at <= now - keep_days * _DAY_S
    )
    rows = rows_of(engine, wanted)
    if rows:
        theirs = quarantine.c.id.in_([row.id for row in rows])
        with writing(engine) as connection:
            connection.execute(update(quarantine).where(theirs).values(state="discarded"))
    for row in rows:
        (folder / row.file_name).unlink(missing_ok=True)
    return len(rows)


def _page(engine: Engine, after_id: int, up_to_row: int | None) -> Sequence[tuple[int, Instance]]:
    wanted = select(instance).where(instance.c.file_deleted_at.is_(None), instance.c.id > after_id)
    if up_to_row is not None:
        wanted = wanted.where(instance.c.id <= up_to_row)
    rows = rows_of(engine, wanted.order_by(instance.c.id).limit(_BATCH))
    return [(row.id, instance_of(row)) for row in rows]


def _bury(engine: Engine, spool: Spool, due: Sequence[tuple[int, Instance]], now: float) -> None:
    """First the row, then the file: a crash in between leaves a file, which the rebuild revives."""
    if not due:
        return
    theirs = instance.c.id.in_([row_id for row_id, _ in due])
    with writing(engine) as connection:
        connection.execute(update(instance).where(theirs).values(file_deleted_at=now))
    for _, kept in due:
        spool.path_of(kept.file_name).unlink(missing_ok=True)
    _release_markers(engine, spool, {kept.series_instance_uid for _, kept in due})


def _release_markers(engine: Engine, spool: Spool, touched: set[str]) -> None:
    wanted = select(instance.c.series_instance_uid).where(
        instance.c.series_instance_uid.in_(touched), instance.c.file_deleted_at.is_(None)
    )
    alive = column_of(engine, wanted.distinct())
    for series_instance_uid in touched.difference(alive):
        spool.markers.release(series_instance_uid)
