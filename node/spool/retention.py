"""Retention over the index: which studies are due for a look, and what of the spool goes.

Files go first and their rows stay as tombstones, which recognise a re-send as a duplicate. When the
history of a study has its age, the tombstones first forget what they recognised, so that a re-send
which is under way is kept from then on; a day later the rows go. Were both one step, a re-send could
be a duplicate in its first half and a new series in its second.

Row numbers tell readers what is new (``Settler``, ``Losses.after``), and SQLite gives the number of a
deleted newest row again: the newest row of a table stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Table,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from node.database.engine import column_of, inserting, rows_of, value_of, writing
from node.domain.instance import SeriesState
from node.spool.tables import (
    association,
    event,
    instance,
    loss,
    mark,
    quarantine,
    series,
    series_detail,
)

_BATCH = 500
_DECIDED = ("accepted", "discarded")
_KEEP_DAYS = "keep_days"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSeries:
    """The row of a series, as far as retention asks.

    Args:
        newest_row: Newest row of instances that it was made of.
        forgotten_at: Since when its tombstones recognise nothing.
        guard: Counts writes of the row.
    """

    series_instance_uid: str
    study_instance_uid: str
    state: SeriesState
    forced: str
    newest_row: int
    last_received_at: float
    updated_at: float
    forgotten_at: float | None
    guard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The instances of a series.

    Args:
        rows: How many there are.
        kept: Of how many the file is there.
        received_at: When the last of these came; 0.0 where there is none.
        deleted_at: When the last of the others went; 0.0 where there is none.
    """

    newest_row: int = 0
    rows: int = 0
    kept: int = 0
    received_at: float = 0.0
    deleted_at: float = 0.0


# --- the queue -----------------------------------------------------------------------------------


def due_studies(engine: Engine, until: float, limit: int) -> Sequence[str]:
    """Studies of the series that are to be looked at, the longest due first; one for each series."""
    due = select(series.c.study_instance_uid).where(series.c.sweep_at <= until)
    return column_of(engine, due.order_by(series.c.sweep_at).limit(limit))


def look_again(engine: Engine, looked_at: Sequence[tuple[KeptSeries, float]]) -> None:
    """When to look next; a series that was written meanwhile is due at the time of that write."""
    if not looked_at:
        return
    is_same = and_(
        series.c.series_instance_uid == bindparam("uid"), series.c.guard == bindparam("was")
    )
    rows = [{"uid": row.series_instance_uid, "was": row.guard, "at": at} for row, at in looked_at]
    with writing(engine) as connection:
        connection.execute(update(series).where(is_same).values(sweep_at=bindparam("at")), rows)


def notice_days(engine: Engine, digest: int, now: float) -> None:
    """Have every series looked at where it was last looked at with other numbers of days.

    Args:
        digest: Of the numbers of days in force.
    """
    stands = select(mark.c.row).where(mark.c.name == _KEEP_DAYS)
    if column_of(engine, stands) == [digest]:
        return
    later = select(series.c.series_instance_uid).where(series.c.sweep_at > now).limit(_BATCH)
    some = update(series).where(series.c.series_instance_uid.in_(later)).values(sweep_at=now)
    changed = _BATCH
    while changed == _BATCH:
        with writing(engine) as connection:
            changed = connection.execute(some).rowcount
    with writing(engine) as connection:
        row = inserting(connection, mark).values(name=_KEEP_DAYS, row=digest)
        anew = row.on_conflict_do_update(index_elements=["name"], set_={"row": digest})
        connection.execute(anew)


# --- one study -----------------------------------------------------------------------------------


def series_of(connection: Connection, studies: Collection[str]) -> Sequence[KeptSeries]:
    """The series of some studies."""
    names = [each.name for each in fields(KeptSeries)]
    rows = connection.execute(
        select(*(series.c[name] for name in names)).where(series.c.study_instance_uid.in_(studies))
    )
    return [value_of(KeptSeries, row, state=SeriesState(row.state)) for row in rows]


def hold_series(connection: Connection, study_instance_uid: str) -> None:
    """Let nobody else write the series of a study until the transaction ends.

    SQLite has one writer anyway.
    """
    if connection.dialect.name != "postgresql":
        return
    its = series.c.study_instance_uid == study_instance_uid
    connection.execute(select(series.c.guard).where(its).with_for_update()).all()


def files_of(connection: Connection, uids: Collection[str]) -> Mapping[str, Files]:
    """Series Instance UID -> its instances; of series that have some."""
    uid, is_kept = instance.c.series_instance_uid, instance.c.file_deleted_at.is_(None)
    found = (
        select(
            uid,
            func.max(instance.c.id).label("newest_row"),
            func.count().label("rows"),
            func.sum(case((is_kept, 1), else_=0)).label("kept"),
            func.coalesce(func.max(case((is_kept, instance.c.received_at))), 0.0).label(
                "received_at"
            ),
            func.coalesce(func.max(instance.c.file_deleted_at), 0.0).label("deleted_at"),
        )
        .where(uid.in_(uids))
        .group_by(uid)
    )
    return {row.series_instance_uid: value_of(Files, row) for row in connection.execute(found)}


def bury(connection: Connection, rows: Sequence[KeptSeries], now: float) -> Sequence[str]:
    """Turn all instances of some series into tombstones; the names of their files.

    The caller removes the files after that: a crash in between leaves files, which the rebuild
    revives. Of a series that is held and was never settled the tombstones recognise nothing: a part of
    it that is sent again would be judged without the rest.
    """
    uids = [row.series_instance_uid for row in rows]
    kept = and_(instance.c.series_instance_uid.in_(uids), instance.c.file_deleted_at.is_(None))
    names = connection.execute(select(instance.c.file_name).where(kept)).scalars().all()
    connection.execute(update(instance).where(kept).values(file_deleted_at=now))
    connection.execute(_row_of(uids).values(forgotten_at=None))
    held = [row.series_instance_uid for row in rows if row.state is SeriesState.HELD]
    of_held = select(series_detail).where(series_detail.c.series_instance_uid.in_(held))
    details = connection.execute(of_held).all()
    forget(connection, [row.series_instance_uid for row in details if not row.snapshot], now)
    return names


def forget(connection: Connection, uids: Collection[str], now: float) -> None:
    """From now on an instance of these series that is sent again is kept again."""
    gone = and_(instance.c.series_instance_uid.in_(uids), instance.c.file_deleted_at.is_not(None))
    connection.execute(update(instance).where(gone).values(received_sha256=""))
    unforgotten = series.c.forgotten_at.is_(None)
    connection.execute(_row_of(uids).where(unforgotten).values(forgotten_at=now))


def delete_tombstones(connection: Connection, uids: Collection[str], limit: int) -> int:
    """Delete some of the tombstones of series that forgot what they recognised; how many."""
    gone = and_(
        instance.c.series_instance_uid.in_(uids),
        instance.c.file_deleted_at.is_not(None),
        instance.c.received_sha256 == "",
    )
    some = select(instance.c.id).where(gone).limit(limit)
    return connection.execute(delete(instance).where(instance.c.id.in_(some))).rowcount


def has_newest_instance(connection: Connection, uids: Collection[str]) -> bool:
    """Whether the newest row of instances is of one of these series."""
    newest = select(instance.c.series_instance_uid).order_by(instance.c.id.desc()).limit(1)
    return connection.execute(newest).scalar_one_or_none() in uids


def delete_series(connection: Connection, uids: Collection[str]) -> None:
    """Delete all rows of series that have no file."""
    for table in (instance, event, series_detail, series):
        connection.execute(delete(table).where(table.c.series_instance_uid.in_(uids)))
    connection.execute(
        delete(loss).where(loss.c.series_instance_uid.in_(uids), _is_not_newest(loss))
    )


def _row_of(uids: Collection[str]) -> Update:
    return update(series).where(series.c.series_instance_uid.in_(uids))


def _is_not_newest(table: Table) -> ColumnElement[bool]:
    return table.c.id < select(func.max(table.c.id)).scalar_subquery()


# --- what goes by its age alone ------------------------------------------------------------------


def sweep_quarantine(engine: Engine, folder: Path, before: float, *, limit: int = _BATCH) -> int:
    """Delete a batch of refused instances that nobody asked for in time; how many."""
    rows = _quarantined(engine, before, quarantine.c.state == "kept", limit)
    if rows:
        theirs = quarantine.c.id.in_([row.id for row in rows])
        with writing(engine) as connection:
            connection.execute(update(quarantine).where(theirs).values(state="discarded"))
    for row in rows:
        (folder / row.file_name).unlink(missing_ok=True)
    return len(rows)


def forget_quarantine(engine: Engine, folder: Path, before: float) -> Iterator[int]:
    """Delete rows of quarantine that were decided about; how many, batch by batch."""
    decided = and_(quarantine.c.state.in_(_DECIDED), _is_not_newest(quarantine))
    while rows := _quarantined(engine, before, decided):
        for row in rows:  # a crash may have left the file
            (folder / row.file_name).unlink(missing_ok=True)
        yield _delete(engine, quarantine, [row.id for row in rows])


def forget_events(engine: Engine, before: float) -> Iterator[int]:
    """Delete old events whose series has no row, or that name none; how many, batch by batch."""
    has_series = exists().where(series.c.series_instance_uid == event.c.series_instance_uid)
    for ids in _old(engine, event, "at", before, ~has_series):
        yield _delete(engine, event, ids)


def forget_associations(engine: Engine, before: float) -> Iterator[int]:
    """Delete associations that ended and that neither an instance nor a loss names."""
    is_over = association.c.closed_at <= before
    is_named = or_(
        exists().where(instance.c.association_id == association.c.id),
        exists().where(loss.c.association_id == association.c.id),
    )
    for ids in _old(engine, association, "opened_at", before, is_over & ~is_named):
        yield _delete(engine, association, ids)


def forget_losses(engine: Engine, before: float) -> Iterator[int]:
    """Delete old losses of series of which no file is left."""
    is_alive = exists().where(
        instance.c.series_instance_uid == loss.c.series_instance_uid,
        instance.c.file_deleted_at.is_(None),
    )
    goes = and_(~is_alive, _is_not_newest(loss))
    for ids in _old(engine, loss, "lost_at", before, goes):
        yield _delete(engine, loss, ids)


def _quarantined(
    engine: Engine, before: float, which: ColumnElement[bool], limit: int = _BATCH
) -> Sequence[Row[Any]]:
    names = select(quarantine.c.id, quarantine.c.file_name)
    old = names.where(which, quarantine.c.received_at <= before)
    return rows_of(engine, old.limit(limit))


def _old(
    engine: Engine, table: Table, order: str, before: float, goes: ColumnElement[bool]
) -> Iterator[list[Any]]:
    """Ids of rows that go, one batch of the table after the other; each row is looked at once.

    Args:
        order: Column of an index that ends with the id.
        before: Rows up to this value of it.
    """
    key = tuple_(table.c[order], table.c.id)
    looked_at = select(table.c[order].label("at"), table.c.id).order_by(table.c[order], table.c.id)
    looked_at = looked_at.where(table.c[order] <= before)
    after: tuple[Any, Any] | None = None
    while True:
        page = (looked_at if after is None else looked_at.where(key > after)).limit(_BATCH)
        rows = rows_of(engine, page)
        if not rows:
            return
        after = (rows[-1].at, rows[-1].id)
        ids = [row.id for row in rows]
        yield column_of(engine, select(table.c.id).where(table.c.id.in_(ids), goes))


def _delete(engine: Engine, table: Table, ids: Sequence[Any]) -> int:
    if ids:
        with writing(engine) as connection:
            connection.execute(delete(table).where(table.c.id.in_(ids)))
    return len(ids)
