"""The index as the tick reads it: what arrived, how, and what was decided about each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from node.database.engine import epoch_s, reading, writing
from node.domain.errors import NodeError
from node.domain.instance import Ending, Instance, Origin, Transport
from node.domain.reasons import reasons_from_json, reasons_to_json
from node.domain.series import Evidence, Forced, SeriesRow, SeriesState
from node.spool.tables import association, instance, peer_habit, series

_OPEN_STATES = (SeriesState.RECEIVING.value, SeriesState.HELD.value)
# much longer than a heartbeat: a process that was only slow may still say how it ended
_DEAD_AFTER_S = 60.0


class Arrivals:
    """Queries and writes of the process that settles series."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def arrivals_after(self, row: int, limit: int = 2000) -> Sequence[tuple[int, Instance]]:
        """Instances whose row is newer, oldest first."""
        statement = select(instance).where(instance.c.id > row).order_by(instance.c.id).limit(limit)
        with reading(self._engine) as connection:
            return [(found.id, instance_of(found)) for found in connection.execute(statement)]

    def unsettled(self) -> tuple[Sequence[str], int]:
        """Series that need a look after a start, and the newest row that this answer covers.

        Those without a row, those not settled, and those whose row knows nothing of their newest
        instance.
        """
        arrived = (
            select(
                instance.c.series_instance_uid.label("uid"), func.max(instance.c.id).label("row")
            )
            .group_by(instance.c.series_instance_uid)
            .subquery()
        )
        statement = (
            select(arrived.c.uid)
            .outerjoin(series, series.c.series_instance_uid == arrived.c.uid)
            .where(
                or_(
                    series.c.series_instance_uid.is_(None),
                    series.c.state.in_(_OPEN_STATES),
                    series.c.forced != "",
                    series.c.newest_row < arrived.c.row,
                )
            )
        )
        with reading(self._engine) as connection:
            newest = connection.execute(select(func.max(instance.c.id))).scalar_one()
            return list(connection.execute(statement).scalars()), int(newest or 0)

    def newest_row(self, series_instance_uid: str) -> int:
        """The newest row of a series; 0 where there is none."""
        statement = select(func.max(instance.c.id)).where(
            instance.c.series_instance_uid == series_instance_uid
        )
        with reading(self._engine) as connection:
            return int(connection.execute(statement).scalar_one() or 0)

    def arrivals_of(self, series_instance_uid: str) -> Sequence[tuple[int, Instance]]:
        """Newest versions of a series' instances with their rows, oldest first, files still there."""
        statement = (
            select(instance)
            .where(instance.c.series_instance_uid == series_instance_uid)
            .order_by(instance.c.version)
        )
        newest: dict[str, Row[Any]] = {}
        with reading(self._engine) as connection:
            for found in connection.execute(statement):
                newest[found.sop_instance_uid] = found
        there = (row for row in newest.values() if row.file_deleted_at is None)
        return [(row.id, instance_of(row)) for row in sorted(there, key=lambda row: row.id)]

    def forget_deleted(self, series_instance_uid: str) -> None:
        """Have the deleted instances of a series taken in again when they are sent again.

        The tombstones stay, as rows keep their order; they recognise nothing any more.
        """
        gone = and_(
            instance.c.series_instance_uid == series_instance_uid,
            instance.c.file_deleted_at.is_not(None),
        )
        with writing(self._engine) as connection:
            connection.execute(update(instance).where(gone).values(received_sha256=""))

    def files_of(self, series_instance_uid: str, versions: Mapping[str, int]) -> Mapping[str, str]:
        """SOP Instance UID -> file name of the newest copy of each instance of a snapshot.

        The newest and not the one of the snapshot: a corrected header counts from then on.

        Raises:
            NodeError: The file of an instance is gone.
        """
        arrivals = self.arrivals_of(series_instance_uid)
        found = {one.sop_instance_uid: one for _, one in arrivals}
        gone = sorted(set(versions) - set(found))
        if gone:
            raise NodeError(f"{len(gone)} images of the series are gone, the first is {gone[0]}")
        return {uid: found[uid].file_name for uid in versions}

    def associations_around(self, series_instance_uid: str) -> Sequence[Mapping[str, Any]]:
        """Rows of associations that carried a series, and of the same callers' others since.

        Each with ``carried``: how many instances of the series it brought.
        """
        carried = (
            select(instance.c.association_id.label("id"), func.count().label("carried"))
            .where(instance.c.series_instance_uid == series_instance_uid)
            .group_by(instance.c.association_id)
        )
        with reading(self._engine) as connection:
            counts = {row.id: row.carried for row in connection.execute(carried)}
            if not counts:
                return []
            carriers = connection.execute(
                select(association).where(association.c.id.in_(list(counts)))
            ).all()
            others = _others_since(connection, carriers)
        rows = {row.id: row for row in [*others, *carriers]}
        return [{**row._mapping, "carried": counts.get(row.id, 0)} for row in rows.values()]

    def open_associations(self) -> frozenset[str]:
        """Ids of the associations that nobody closed yet."""
        statement = select(association.c.id).where(association.c.closed_at.is_(None))
        with reading(self._engine) as connection:
            return frozenset(connection.execute(statement).scalars())

    def close_dead_associations(self, now: float) -> int:
        """Close the rows of processes that died as aborted at their last sign of life; how many."""
        dead = and_(
            association.c.closed_at.is_(None), association.c.heartbeat_at < now - _DEAD_AFTER_S
        )
        values = {"closed_at": association.c.heartbeat_at, "end": Ending.ABORTED.value}
        with writing(self._engine) as connection:
            return connection.execute(update(association).where(dead).values(**values)).rowcount

    def series(self, series_instance_uid: str) -> SeriesRow | None:
        """What is known of a series."""
        statement = select(series).where(series.c.series_instance_uid == series_instance_uid)
        with reading(self._engine) as connection:
            found = connection.execute(statement).one_or_none()
        return _series_row(found) if found is not None else None

    def series_of_study(self, study_instance_uid: str) -> Sequence[SeriesRow]:
        """All series of a study."""
        statement = select(series).where(series.c.study_instance_uid == study_instance_uid)
        with reading(self._engine) as connection:
            return [_series_row(found) for found in connection.execute(statement)]

    def put_series(self, row: SeriesRow, *, was: SeriesRow | None) -> bool:
        """Write a row if it is still as it was; False when another process was faster."""
        guard = (was.guard if was is not None else 0) + 1
        values = {each.name: getattr(row, each.name) for each in fields(row)} | {
            "state": row.state.value,
            "evidence": row.evidence.value,
            "forced": row.forced.value if row.forced else "",
            "reasons": reasons_to_json(row.reasons),
            "guard": guard,
        }
        with writing(self._engine) as connection:
            if was is None:
                try:
                    connection.execute(series.insert().values(**values))
                except IntegrityError:
                    return False
                return True
            mine = and_(
                series.c.series_instance_uid == row.series_instance_uid,
                series.c.guard == was.guard,
            )
            return connection.execute(update(series).where(mine).values(**values)).rowcount == 1

    def force(self, series_instance_uid: str, what: Forced) -> None:
        """Write down what a person decided; the tick does it.

        Raises:
            NodeError: There is no such series.
        """
        statement = (
            update(series)
            .where(series.c.series_instance_uid == series_instance_uid)
            .values(forced=what.value, guard=series.c.guard + 1)
        )
        with writing(self._engine) as connection:
            if connection.execute(statement).rowcount == 0:
                raise NodeError(f"there is no series {series_instance_uid}")

    def forced_series(self) -> Sequence[str]:
        """Series that a person decided about."""
        statement = select(series.c.series_instance_uid).where(series.c.forced != "")
        with reading(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def held_series(self) -> Sequence[str]:
        """Series that wait for a person's decision, and none has decided yet."""
        statement = select(series.c.series_instance_uid).where(
            series.c.state == SeriesState.HELD.value, series.c.forced == ""
        )
        with reading(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def is_any_arriving(self, within_s: float) -> bool:
        """Whether an instance of a series that is not settled came in the last seconds."""
        with reading(self._engine) as connection:
            arriving = and_(
                series.c.state == SeriesState.RECEIVING.value,
                series.c.last_received_at > epoch_s(connection) - within_s,
            )
            return bool(connection.execute(select(exists().where(arriving))).scalar_one())

    def count(self, state: SeriesState) -> int:
        """How many series are in a state."""
        statement = select(func.count()).where(series.c.state == state.value)
        with reading(self._engine) as connection:
            return int(connection.execute(statement).scalar_one())

    def splits_series(self, peer: str) -> bool:
        """Whether a peer is known to send one series over several associations."""
        statement = select(exists().where(peer_habit.c.peer == peer, peer_habit.c.splits_series))
        with reading(self._engine) as connection:
            return bool(connection.execute(statement).scalar_one())

    def learn_splitting(self, peer: str, now: float) -> None:
        """Remember that it does."""
        with writing(self._engine) as connection:
            known = select(peer_habit.c.peer).where(peer_habit.c.peer == peer)
            if connection.execute(known).first() is None:
                values = {"peer": peer, "splits_series": True, "learned_at": now}
                connection.execute(peer_habit.insert().values(**values))

    def now(self) -> float:
        """The database's clock."""
        with reading(self._engine) as connection:
            return epoch_s(connection)


def instance_of(row: Row[Any]) -> Instance:
    """A row of ``instance`` as a value."""
    return Instance(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        version=row.version,
        file_name=row.file_name,
        data_offset=row.data_offset,
        size_bytes=row.size_bytes,
        received_sha256=row.received_sha256,
        pixel_identity=row.pixel_identity,
        is_input=row.is_input,
        received_at=row.received_at,
        origin=origin_of(row, row.association_id),
    )


def origin_of(row: Row[Any], association_id: str) -> Origin:
    """Who sent what a row of ``instance`` or ``association`` stands for."""
    return Origin(
        transport=Transport(row.transport),
        association_id=association_id,
        peer=row.peer,
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
        address=row.address,
        http_user=row.http_user,
    )


def _others_since(connection: Connection, carriers: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Associations of the same callers that are open, or were opened since the first carrier."""
    if not carriers:
        return []
    same_caller = or_(
        *(
            and_(
                association.c.transport == row.transport,
                association.c.calling_ae_title == row.calling_ae_title,
                association.c.address == row.address,
                association.c.http_user == row.http_user,
            )
            for row in {
                (r.transport, r.calling_ae_title, r.address, r.http_user): r for r in carriers
            }.values()
        )
    )
    since = or_(
        association.c.closed_at.is_(None),
        association.c.opened_at >= min(row.opened_at for row in carriers),
    )
    return connection.execute(select(association).where(same_caller, since)).all()


def _series_row(row: Row[Any]) -> SeriesRow:
    known = {name: row._mapping[name] for name in SeriesRow.__dataclass_fields__}
    known["state"] = SeriesState(row.state)
    known["evidence"] = Evidence(row.evidence)
    known["forced"] = Forced(row.forced) if row.forced else None
    known["snapshot"] = row.snapshot or {}
    known["gate"] = row.gate or {}
    known["reasons"] = reasons_from_json(row.reasons)
    return SeriesRow(**known)
