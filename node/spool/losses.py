"""Losses as rows: what was refused, and whether it came after all.

A row is settled by facts alone: an image with a SOP Instance UID when an instance of that UID is in
the index, an image without one when its file was taken in, or when its whole series came again in
one association that lost nothing and brought as many more. Rows are kept for as long as files of
the series are: a job that is made later must know what is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from node.database.engine import column_of, columns_of, reading, rows_of, value_of, writing
from node.domain.health import COUNTED
from node.domain.received import Loss
from node.spool.tables import CALLER, association, instance, listener, loss

_BATCH = 500
# which say who a caller is, not only where
_NAMES = ("calling_ae_title", "http_user")


def write_losses(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; a later refusal of an image takes the place of the one before, as a newer row."""
    if not rows:
        return
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["series_instance_uid"], row["image"])
        last.pop(key, None)
        last[key] = row
    numbers: list[dict[str, int]] = [{} for _ in last]
    if connection.dialect.name == "sqlite":  # which gives the number of a deleted newest row again
        newest = connection.execute(select(func.max(loss.c.id))).scalar_one() or 0
        numbers = [{"id": newest + number} for number in range(1, len(last) + 1)]
    before = delete(loss).where(
        loss.c.series_instance_uid == bindparam("of_series"), loss.c.image == bindparam("of_image")
    )
    connection.execute(before, [{"of_series": key[0], "of_image": key[1]} for key in last])
    connection.execute(
        loss.insert(),
        [{**row, **number} for row, number in zip(last.values(), numbers, strict=True)],
    )


def loss_values(one: Loss, lost_at: float) -> dict[str, Any]:
    return {**columns_of(one), "image": one.image[-512:], "lost_at": lost_at, "settled_at": None}


def attribute_losses(
    connection: Connection,
    association_id: str,
    series: Collection[str],
    now: float,
    *,
    images: Collection[str] | None = None,
) -> None:
    """Count the losses of an association that name no series against every series beside them.

    Args:
        images: Only these; None: all of them.
    """
    is_nameless = loss.c.series_instance_uid == ""
    mine = (loss.c.association_id == association_id, is_nameless, loss.c.settled_at.is_(None))
    rows = connection.execute(select(loss).where(*mine)).all()
    rows = [row for row in rows if images is None or row.image in images]
    for row in rows:
        values = {name: value for name, value in row._mapping.items() if name != "id"}
        write_losses(connection, [{**values, "series_instance_uid": uid} for uid in sorted(series)])
    if rows and series:
        counted = loss.c.image.in_([row.image for row in rows])
        connection.execute(update(loss).where(*mine, counted).values(settled_at=now))


def settle_nameless(
    connection: Connection, association_id: str, brought: Mapping[str, Collection[str]], now: float
) -> None:
    """An association lost nothing: settle what is nameless in series that it brought as a whole.

    Args:
        brought: Series Instance UID -> SOP Instance UIDs that are kept.
    """
    names = sorted(brought)
    for start in range(0, len(names), _BATCH):
        nameless = (
            select(loss.c.series_instance_uid, func.count().label("images"))
            .where(
                loss.c.series_instance_uid.in_(names[start : start + _BATCH]),
                loss.c.sop_instance_uid == "",
                loss.c.settled_at.is_(None),
            )
            .group_by(loss.c.series_instance_uid)
        )
        for uid, images in connection.execute(nameless).all():
            earlier = select(instance.c.sop_instance_uid).where(
                instance.c.series_instance_uid == uid, instance.c.association_id != association_id
            )
            before = set(connection.execute(earlier).scalars())
            theirs = set(brought[uid])
            if before <= theirs and len(theirs - before) >= images:
                settled = (loss.c.series_instance_uid == uid, loss.c.sop_instance_uid == "")
                connection.execute(update(loss).where(*settled).values(settled_at=now))


def settle_images(connection: Connection, images: Collection[str], now: float) -> None:
    """What was lost under these names, and has no UID to be known by, was taken in after all."""
    nameless = (loss.c.sop_instance_uid == "", loss.c.settled_at.is_(None))
    names = {image[-512:] for image in images}
    for row in connection.execute(select(loss.c.id, loss.c.image).where(*nameless)).all():
        if row.image in names:
            connection.execute(update(loss).where(loss.c.id == row.id).values(settled_at=now))


class Losses:
    """Queries and writes over losses.

    Args:
        around_s: How far apart in time a loss that came alone, without naming its series, and a
            series of the same caller may lie for the one to count against the other.
    """

    def __init__(self, engine: Engine, *, around_s: float = 60.0) -> None:
        self._engine = engine
        self._around_s = around_s

    def newest_row(self) -> int:
        """The newest row; 0 where there is none."""
        return int(column_of(self._engine, select(func.max(loss.c.id)))[0] or 0)

    def after(self, row: int) -> tuple[int, frozenset[str]]:
        """The newest row, and the series that rows after ``row`` may count against."""
        with reading(self._engine) as connection:
            newest = int(connection.execute(select(func.max(loss.c.id))).scalar_one() or 0)
            if newest < row:  # SQLite counts anew in a table that was emptied
                row = 0
            if newest == row:
                return row, frozenset()
            found = connection.execute(select(loss).where(loss.c.id > row)).all()
            named = {one.series_instance_uid for one in found if one.series_instance_uid}
            lost: defaultdict[str, list[float]] = defaultdict(list)
            for one in found:
                if not one.series_instance_uid and one.settled_at is None:
                    lost[one.association_id].append(one.lost_at)
            concerned: set[str] = set()
            for association_id, times in lost.items():
                concerned |= self._concerned(connection, association_id, min(times), max(times))
            beside = select(instance.c.series_instance_uid).where(
                instance.c.association_id.in_(concerned)
            )
            near = set(connection.execute(beside.distinct()).scalars()) if concerned else set()
        return newest, frozenset(named | near)

    def _concerned(
        self, connection: Connection, association_id: str, first: float, last: float
    ) -> set[str]:
        """Associations whose series may have lost what one lost without naming a series."""
        if _carried_something(connection, association_id):
            return {association_id}
        its_row = select(association).where(association.c.id == association_id)
        caller = connection.execute(its_row).one_or_none()
        if caller is None:
            return set()
        near = select(association.c.id).where(
            *(association.c[name] == caller._mapping[name] for name in CALLER),
            association.c.opened_at <= last + self._around_s,
            association.c.heartbeat_at >= first - self._around_s,
        )
        return set(connection.execute(near).scalars())

    def of_series(self, series_instance_uid: str) -> Sequence[Loss]:
        """Images that were lost and have not come since.

        Of each kind no more than ``COUNTED`` are read. Those that name no series count where they came beside it: in an association that carried
        it, or, where theirs carried nothing at all, near one of the same caller.
        """
        missing = select(loss).where(loss.c.settled_at.is_(None), ~_has_come())
        with reading(self._engine) as connection:
            mine = _first(missing.where(loss.c.series_instance_uid == series_instance_uid))
            rows = [*connection.execute(mine), *self._nameless(connection, series_instance_uid)]
        found = {row.image: row for row in rows}
        return [value_of(Loss, row) for row in sorted(found.values(), key=lambda row: int(row.id))]

    def _nameless(self, connection: Connection, series_instance_uid: str) -> Iterator[Row[Any]]:
        """Losses that name no series and count against one.

        Callers without a name may be many behind one address: there only a series that comes in
        pieces, as the lost one did, is meant.
        """
        nameless = loss.c.series_instance_uid == "", loss.c.settled_at.is_(None)
        if connection.execute(select(loss.c.id).where(*nameless).limit(1)).first() is None:
            return
        of_it = select(instance.c.association_id).where(
            instance.c.series_instance_uid == series_instance_uid
        )
        carriers = set(connection.execute(of_it.distinct()).scalars())
        yield from connection.execute(
            _first(select(loss).where(*nameless, ~_has_come(), loss.c.association_id.in_(carriers)))
        )
        theirs: defaultdict[tuple[str, ...], list[Row[Any]]] = defaultdict(list)
        for row in connection.execute(select(association).where(association.c.id.in_(carriers))):
            theirs[tuple(row._mapping[name] for name in CALLER)].append(row)
        carried: dict[str, bool] = {}
        for caller, rows in theirs.items():
            least = 1 if any(rows[0]._mapping[name] for name in _NAMES) else 2
            if len(rows) < least:
                continue
            of_caller = select(association.c.id).where(
                *(association.c[name] == value for name, value in zip(CALLER, caller, strict=True))
            )
            beside = select(loss).where(
                *(*nameless, ~_has_come()),
                loss.c.association_id.in_(of_caller),
                loss.c.association_id.not_in(carriers),
                loss.c.lost_at >= min(row.opened_at for row in rows) - self._around_s,
                loss.c.lost_at <= max(row.heartbeat_at for row in rows) + self._around_s,
            )
            for lost in connection.execute(_first(beside)):
                by = lost.association_id
                if by not in carried:
                    carried[by] = _carried_something(connection, by)
                near = [
                    row
                    for row in rows
                    if row.opened_at <= lost.lost_at + self._around_s
                    and row.heartbeat_at >= lost.lost_at - self._around_s
                ]
                if not carried[by] and len(near) >= least:
                    yield lost

    def forget_all(self) -> None:
        """Forget every loss: the whole source is about to be read anew."""
        with writing(self._engine) as connection:
            connection.execute(delete(loss))

    def listening_since(self) -> Mapping[str, float]:
        """Transport -> since when somebody listens on it."""
        rows = rows_of(self._engine, select(listener.c.transport, listener.c.since))
        return {row.transport: row.since for row in rows}


def _first(losses: Select[Any]) -> Select[Any]:
    """As many as people are told of: a peer may cause any number."""
    return losses.order_by(loss.c.id).limit(COUNTED)


def _carried_something(connection: Connection, association_id: str) -> bool:
    own = select(instance.c.id).where(instance.c.association_id == association_id)
    return connection.execute(own.limit(1)).first() is not None


def _has_come() -> ColumnElement[bool]:
    """Whether an instance with the UID of the loss is in the index, as a file or a tombstone."""
    is_there = exists().where(instance.c.sop_instance_uid == loss.c.sop_instance_uid)
    return (loss.c.sop_instance_uid != "") & is_there
