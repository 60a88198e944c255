"""The reading side of the index: what the settling of series asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from node.domain.instance import Instance, Origin, Road
from node.spool.tables import association, event, instance, peer_habit, series

# an open association without a heartbeat for this long belongs to a process that died
STALE_S = 10.0

_ORIGIN = ("association_id", "peer", "calling_ae_title", "called_ae_title", "address", "http_user")
_OWN = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "study_instance_uid",
    "series_instance_uid",
    "version",
    "file_name",
    "data_offset",
    "size_bytes",
    "received_sha256",
    "pixel_identity",
    "is_input",
    "received_at",
)


def instances_of(connection: Connection, series_instance_uid: str) -> tuple[Instance, ...]:
    """The newest version of each instance of a series whose file is there, in order of arrival."""
    rows = connection.execute(
        select(instance)
        .where(
            instance.c.series_instance_uid == series_instance_uid,
            instance.c.file_deleted_at.is_(None),
        )
        .order_by(instance.c.id)
    )
    newest: dict[str, Row[Any]] = {}
    for row in rows:
        known = newest.get(row.sop_instance_uid)
        if known is None or row.version > known.version:
            newest[row.sop_instance_uid] = row
    return tuple(instance_of(row) for row in newest.values())


def instance_by_version(
    connection: Connection, sop_instance_uid: str, version: int
) -> Instance | None:
    """One kept version, also of a tombstone; None where the index has no such row."""
    row = connection.execute(
        select(instance).where(
            instance.c.sop_instance_uid == sop_instance_uid, instance.c.version == version
        )
    ).one_or_none()
    return None if row is None else instance_of(row)


def instance_of(row: Row[Any]) -> Instance:
    """An instance row as a value."""
    origin = Origin(road=Road(row.road), **{name: getattr(row, name) for name in _ORIGIN})
    return Instance(origin=origin, **{name: getattr(row, name) for name in _OWN})


def touched_series(connection: Connection, after_id: int) -> tuple[tuple[str, ...], int]:
    """Series with instance rows beyond ``after_id``, and the highest row id seen.

    Ids become visible in their order, so the highest id is where the next question starts.
    """
    highest = connection.execute(select(func.max(instance.c.id))).scalar_one() or after_id
    rows = connection.execute(
        select(instance.c.series_instance_uid)
        .where(instance.c.id > after_id, instance.c.id <= highest)
        .distinct()
    )
    return tuple(rows.scalars()), highest


def open_associations(
    connection: Connection, now: float, *, peer: str | None = None
) -> tuple[Row[Any], ...]:
    """Associations that are open and alive, of one peer or of all."""
    wanted = select(association).where(
        association.c.closed_at.is_(None), association.c.heartbeat_at >= now - STALE_S
    )
    if peer is not None:
        wanted = wanted.where(association.c.peer == peer)
    return tuple(connection.execute(wanted))


def associations_of(connection: Connection, series_instance_uid: str) -> tuple[Row[Any], ...]:
    """Every association that carried an instance of the series, by time of opening."""
    carried = select(instance.c.association_id).where(
        instance.c.series_instance_uid == series_instance_uid
    )
    wanted = select(association).where(association.c.id.in_(carried))
    return tuple(connection.execute(wanted.order_by(association.c.opened_at)))


def abort_stale_associations(connection: Connection, now: float) -> int:
    """Close rows whose process is gone as aborted, at their last heartbeat; how many."""
    done = connection.execute(
        update(association)
        .where(association.c.closed_at.is_(None), association.c.heartbeat_at < now - STALE_S)
        .values(closed_at=association.c.heartbeat_at, end="aborted")
    )
    return done.rowcount


def series_row(connection: Connection, series_instance_uid: str) -> Row[Any] | None:
    """What is known of a series; None when it was never settled."""
    wanted = select(series).where(series.c.series_instance_uid == series_instance_uid)
    return connection.execute(wanted).one_or_none()


def insert_series(connection: Connection, values: Mapping[str, object]) -> None:
    """The first row of a series.

    Raises:
        sqlalchemy.exc.IntegrityError: Another process was first.
    """
    connection.execute(insert(series).values(**values))


def update_series(
    connection: Connection,
    series_instance_uid: str,
    values: Mapping[str, object],
    *,
    expected_revision: int,
) -> bool:
    """Change a series row if its revision is still the expected one; whether it was."""
    done = connection.execute(
        update(series)
        .where(
            series.c.series_instance_uid == series_instance_uid,
            series.c.revision == expected_revision,
        )
        .values(**values)
    )
    return done.rowcount == 1


def series_rows(
    connection: Connection, *, states: Sequence[str] = (), limit: int = 1000
) -> tuple[Row[Any], ...]:
    """Series, the newest first."""
    wanted: Select[Any] = select(series).order_by(series.c.last_received_at.desc()).limit(limit)
    if states:
        wanted = wanted.where(series.c.state.in_(states))
    return tuple(connection.execute(wanted))


def events(connection: Connection, *, limit: int = 100) -> tuple[Row[Any], ...]:
    """What an operator may want to know, the newest first."""
    return tuple(connection.execute(select(event).order_by(event.c.id.desc()).limit(limit)))


def splits_series(connection: Connection, peer: str) -> bool:
    """Whether a peer was once seen to send one series over several associations."""
    wanted = select(peer_habit.c.splits_series).where(peer_habit.c.peer == peer)
    return bool(connection.execute(wanted).scalar_one_or_none())


def remember_split(connection: Connection, peer: str, now: float) -> None:
    """Note that a peer sends one series over several associations."""
    changed = connection.execute(
        update(peer_habit).where(peer_habit.c.peer == peer).values(splits_series=True)
    )
    if changed.rowcount == 0:
        values = {"peer": peer, "splits_series": True, "learned_at": now}
        connection.execute(insert(peer_habit).values(**values))
