"""The index as the tick reads it: what arrived, how, and what was decided about each series."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    and_,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from node.database.engine import (
    column_of,
    columns_of,
    epoch_s,
    inserting,
    reading,
    rows_of,
    stored,
    value_of,
    writing,
)
from node.domain.errors import NodeError
from node.domain.instance import (
    Ending,
    Evidence,
    Forced,
    Instance,
    Origin,
    SeriesRow,
    SeriesState,
    Transport,
)
from node.domain.reasons import reasons_from_json, reasons_to_json
from node.spool.tables import (
    CALLER,
    IS_FORCED,
    PROCESS_DIED,
    association,
    event,
    instance,
    loss,
    mark,
    peer_habit,
    series,
    series_detail,
    unmatched_study,
)

_T = TypeVar("_T", bound=Hashable)

_OPEN_STATES = stored(SeriesState.RECEIVING, SeriesState.HELD)
# much longer than a heartbeat: a process that was only slow may still say how it ended
_DEAD_AFTER_S = 60.0
_DETAIL = ("header", "snapshot", "gate")
_OUTLINE = select(
    *(
        series.c[name]
        for name in (
            *("series_instance_uid", "state", "revision", "frames", "series_number"),
            *("patient_id", "first_received_at", "guard", "updated_at"),
        )
    )
)
_WITH_DETAIL = select(*series.c, *(series_detail.c[name] for name in _DETAIL)).join(
    series_detail, series_detail.c.series_instance_uid == series.c.series_instance_uid
)
_KNOWN_UNTIL = "settled"  # name of the mark
_PROCESS_DIED = "process_died"  # kind of event
_BATCH = 500
# of an instance, equal in most of its series
_SHARED = (
    *("sop_class_uid", "transfer_syntax_uid"),
    *("study_instance_uid", "series_instance_uid"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesOutline:
    """A row of ``series`` as far as sets of a study are chosen by it.

    Args:
        state: Of which write of the row this is: equal ones are of equal rows.
    """

    series_instance_uid: str
    is_complete: bool
    revision: int
    frames: int
    series_number: int | None
    patient_id: str
    first_received_at: float
    state: tuple[int, float]


class Arrivals:
    """Queries and writes of the process that settles series."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def newest(self) -> tuple[int, int]:
        """The newest row of all instances, and that of all losses; 0 where there is none."""
        newest = select(
            select(func.max(instance.c.id)).scalar_subquery().label("instance"),
            select(func.max(loss.c.id)).scalar_subquery().label("loss"),
        )
        row = rows_of(self._engine, newest)[0]
        return int(row.instance or 0), int(row.loss or 0)

    def arrivals_after(self, row: int, limit: int = 5000) -> Sequence[tuple[int, str]]:
        """Rows of instances that are newer, each with its Series Instance UID, oldest first."""
        columns = select(instance.c.id, instance.c.series_instance_uid)
        query = columns.where(instance.c.id > row).order_by(instance.c.id).limit(limit)
        return [(found.id, found.series_instance_uid) for found in rows_of(self._engine, query)]

    def unsettled(self) -> tuple[Sequence[str], int]:
        """Series that need a look after a start, and the newest row that this answer covers.

        Those without a row, those not settled, and those whose row knows nothing of their newest
        instance; of instances only those beyond the mark are asked. First those whose rules have
        not spoken, as they came; last those that are held.
        """
        # SQLite would rather walk through the index of all series there ever were
        uid = (instance.c.series_instance_uid + text("''")).label("series_instance_uid")
        of_its = series.c.series_instance_uid
        is_open = series.c.state.in_(_OPEN_STATES)
        is_held = case((series.c.state == SeriesState.HELD.value, 1), else_=0)
        with reading(self._engine) as connection:
            newest = _newest(connection)
            beyond = (
                select(
                    uid,
                    func.min(instance.c.id).label("first"),
                    func.max(instance.c.id).label("row"),
                )
                .where(instance.c.id > _known_until(connection, newest))
                .group_by(uid)
                .subquery()
            )
            is_behind = or_(of_its.is_(None), series.c.newest_row < beyond.c.row)
            arrived = (
                select(beyond.c.series_instance_uid)
                .outerjoin(series, of_its == beyond.c.series_instance_uid)
                .where(is_behind)
                .order_by(beyond.c.first)
            )
            known = select(of_its).where(is_open).order_by(is_held, series.c.first_received_at)
            questions = (arrived, select(of_its).where(text(IS_FORCED)), known)
            found = [uid for each in questions for uid in connection.execute(each).scalars()]
        return list(dict.fromkeys(found)), newest

    def known_until(self) -> int:
        """The mark: every series of an instance up to this row is open, or its row knows of it."""
        with reading(self._engine) as connection:
            return _known_until(connection, _newest(connection))

    def note_known_until(self, row: int) -> None:
        """Move the mark; what lies beyond it is looked at after a start."""
        with writing(self._engine) as connection:
            noted = inserting(connection, mark).values(name=_KNOWN_UNTIL, row=row)
            connection.execute(
                noted.on_conflict_do_update(index_elements=["name"], set_={"row": row})
            )

    def newest_row(self, series_instance_uid: str) -> int:
        """The newest row of a series; 0 where there is none."""
        of_series = instance.c.series_instance_uid == series_instance_uid
        query = select(func.max(instance.c.id)).where(of_series)
        return int(column_of(self._engine, query)[0] or 0)

    def arrivals_of(
        self, series_instance_uid: str, after: int = 0
    ) -> Sequence[tuple[int, Instance]]:
        """Newest versions of a series' instances with their rows, oldest first, files still there.

        Args:
            after: Only of rows that are newer than this one.
        """
        its = and_(instance.c.series_instance_uid == series_instance_uid, instance.c.id > after)
        rows = rows_of(self._engine, select(instance).where(its).order_by(instance.c.version))
        newest = {row.sop_instance_uid: row for row in rows}
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
        names = {one.sop_instance_uid: one.file_name for _, one in arrivals}
        gone = sorted(set(versions) - set(names))
        if gone:
            raise NodeError(f"{len(gone)} images of the series are gone, the first is {gone[0]}")
        return {uid: names[uid] for uid in versions}

    def associations_around(self, series_instance_uid: str) -> Sequence[Mapping[str, Any]]:
        """Rows of associations that carried a series, and of the same callers' others.

        Of those the ones that are open, or were opened since the last of the carriers ended. Each
        with ``carried``: how many instances of the series it brought.
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
        query = select(association.c.id).where(association.c.closed_at.is_(None))
        return frozenset(column_of(self._engine, query))

    def close_dead_associations(self, now: float) -> int:
        """Close the rows of processes that died as aborted at their last sign of life; how many."""
        dead = and_(
            association.c.closed_at.is_(None), association.c.heartbeat_at < now - _DEAD_AFTER_S
        )
        values = {"closed_at": association.c.heartbeat_at, "end": Ending.ABORTED.value}
        with writing(self._engine) as connection:
            return connection.execute(update(association).where(dead).values(**values)).rowcount

    def series(self, series_instance_uid: str) -> SeriesRow | None:
        query = _WITH_DETAIL.where(series.c.series_instance_uid == series_instance_uid)
        return next((_series_row(found) for found in rows_of(self._engine, query)), None)

    def outline_of_study(self, study_instance_uid: str) -> Sequence[SeriesOutline]:
        """All series of a study, without what they are judged by."""
        of_study = series.c.study_instance_uid == study_instance_uid
        return [_outline(row) for row in rows_of(self._engine, _OUTLINE.where(of_study))]

    def series_numbers(self, study_instance_uid: str) -> Sequence[int | None]:
        """Series Numbers of a study, as far as they are known."""
        of_study = series.c.study_instance_uid == study_instance_uid
        return column_of(self._engine, select(series.c.series_number).where(of_study))

    def headers_of_inputs(self, uids: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Headers as JSON of those of these series that a revision was made of."""
        detail = select(*(series_detail.c[each] for each in ("series_instance_uid", *_DETAIL[:2])))
        for start in range(0, len(uids), _BATCH):
            some = series_detail.c.series_instance_uid.in_(uids[start : start + _BATCH])
            for row in rows_of(self._engine, detail.where(some)):
                if row.snapshot:
                    yield row.series_instance_uid, row.header

    def put_series(
        self, row: SeriesRow, *, was: SeriesRow | None, is_study_unmatched: bool = False
    ) -> bool:
        """Write a row if it is still as it was; False when another process was faster.

        Args:
            is_study_unmatched: Study rules have to be asked about its study again.
        """
        values = columns_of(row, *_DETAIL) | {
            "state": row.state.value,
            "evidence": row.evidence.value,
            "forced": row.forced.value if row.forced else "",
            "reasons": reasons_to_json(row.reasons),
            "guard": was.guard + 1 if was is not None else 1,
            "sweep_at": row.updated_at,
        }
        uid = row.series_instance_uid
        detail = {name: getattr(row, name) for name in _DETAIL}
        with writing(self._engine) as connection:
            if was is None:
                try:
                    connection.execute(series.insert().values(**values))
                except IntegrityError:
                    return False
                connection.execute(series_detail.insert().values(series_instance_uid=uid, **detail))
            else:
                mine = and_(series.c.series_instance_uid == uid, series.c.guard == was.guard)
                if connection.execute(update(series).where(mine).values(**values)).rowcount == 0:
                    return False
                its = series_detail.c.series_instance_uid == uid
                connection.execute(update(series_detail).where(its).values(**detail))
            if is_study_unmatched:
                unmatched = inserting(connection, unmatched_study).values(
                    study_instance_uid=row.study_instance_uid, writes=1
                )
                once_more = {"writes": unmatched_study.c.writes + 1}
                connection.execute(
                    unmatched.on_conflict_do_update(
                        index_elements=["study_instance_uid"], set_=once_more
                    )
                )
            return True

    def unmatched_studies(self) -> Sequence[str]:
        """Studies of which a series settled since study rules were asked."""
        return column_of(self._engine, select(unmatched_study.c.study_instance_uid))

    def writes_unmatched(self, study_instance_uid: str) -> int:
        """How many series of a study settled since study rules were asked."""
        its = unmatched_study.c.study_instance_uid == study_instance_uid
        return next(iter(column_of(self._engine, select(unmatched_study.c.writes).where(its))), 0)

    def note_matched(self, study_instance_uid: str, writes: int) -> None:
        """Study rules were asked about a study, at so many writes; not where it is more by now."""
        if not writes:
            return
        asked = and_(
            unmatched_study.c.study_instance_uid == study_instance_uid,
            unmatched_study.c.writes == writes,
        )
        with writing(self._engine) as connection:
            connection.execute(delete(unmatched_study).where(asked))

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
        deaths = and_(
            event.c.series_instance_uid == series_instance_uid, event.c.kind == _PROCESS_DIED
        )
        with writing(self._engine) as connection:
            if connection.execute(statement).rowcount == 0:
                raise NodeError(f"there is no series {series_instance_uid}")
            connection.execute(delete(event).where(deaths))

    def note_death(self, series_instance_uid: str, now: float) -> None:
        """A process died with a series in hand."""
        with writing(self._engine) as connection:
            connection.execute(
                event.insert().values(
                    at=now,
                    kind=_PROCESS_DIED,
                    series_instance_uid=series_instance_uid,
                    sentence="a process of the node died while it worked on this series",
                )
            )

    def suspects(self) -> set[str]:
        """Series that processes died with."""
        query = select(event.c.series_instance_uid).where(text(PROCESS_DIED))
        return set(column_of(self._engine, query))

    def deaths(self, series_instance_uid: str) -> int:
        """How many processes died with a series in hand since a person decided about it."""
        its = event.c.series_instance_uid == series_instance_uid
        query = select(func.count()).where(its, event.c.kind == _PROCESS_DIED)
        return int(column_of(self._engine, query)[0])

    def forced_series(self) -> Sequence[str]:
        """Series that a person decided about."""
        query = select(series.c.series_instance_uid).where(text(IS_FORCED))
        return column_of(self._engine, query)

    def held_series(self) -> Sequence[str]:
        """Series that wait for a person's decision, and none has decided yet."""
        waits = and_(series.c.state == SeriesState.HELD.value, series.c.forced == "")
        return column_of(self._engine, select(series.c.series_instance_uid).where(waits))

    def is_any_arriving(self, within_s: float) -> bool:
        """Whether an instance of a series that is not settled came in the last seconds."""
        with reading(self._engine) as connection:
            arriving = and_(
                series.c.state == SeriesState.RECEIVING.value,
                series.c.last_received_at > epoch_s(connection) - within_s,
            )
            return bool(connection.execute(select(exists().where(arriving))).scalar_one())

    def splits_series(self, peer: str) -> bool:
        """Whether a peer is known to send one series over several associations."""
        query = select(exists().where(peer_habit.c.peer == peer, peer_habit.c.splits_series))
        return bool(column_of(self._engine, query)[0])

    def learn_splitting(self, peer: str, now: float) -> None:
        values = {"peer": peer, "splits_series": True, "learned_at": now}
        with writing(self._engine) as connection:
            learnt = inserting(connection, peer_habit).values(**values)
            connection.execute(learnt.on_conflict_do_nothing())

    def now(self) -> float:
        """The database's clock."""
        with reading(self._engine) as connection:
            return epoch_s(connection)


def instance_of(row: Row[Any]) -> Instance:
    """A row of ``instance`` as a value."""
    origin = _one(value_of(Origin, row, transport=Transport(row.transport)))
    same = {name: _one(row._mapping[name]) for name in _SHARED}
    pixels = row.pixel_identity
    is_first = pixels == row.received_sha256
    return value_of(
        Instance,
        row,
        **same,
        pixel_identity=row.received_sha256 if is_first else pixels,
        origin=origin,
    )


@lru_cache(maxsize=1024)
def _one(value: _T) -> _T:
    """The one object that stands for all equal ones: instances of a series share most they say."""
    return value


def _newest(connection: Connection) -> int:
    return int(connection.execute(select(func.max(instance.c.id))).scalar_one() or 0)


def _known_until(connection: Connection, newest: int) -> int:
    """The mark; nothing where rows are counted anew, as SQLite does in a table that was emptied."""
    known = select(mark.c.row).where(mark.c.name == _KNOWN_UNTIL)
    row = int(connection.execute(known).scalar_one_or_none() or 0)
    return row if row <= newest else 0


def _outline(row: Row[Any]) -> SeriesOutline:
    return value_of(
        SeriesOutline,
        row,
        is_complete=row.state == SeriesState.COMPLETE.value,
        state=(row.guard, row.updated_at),
    )


def _others_since(connection: Connection, carriers: Sequence[Row[Any]]) -> Iterable[Row[Any]]:
    """Associations of the same callers that are open, and the newest opened since the last carrier ended.

    One of each caller tells that it went on: of a busy one there are thousands.
    """
    if not carriers:
        return []
    # what ended without a word ended at its last sign of life
    ended_at = max(row.heartbeat_at if row.closed_at is None else row.closed_at for row in carriers)
    found: list[Row[Any]] = []
    for caller in {tuple(row._mapping[name] for name in CALLER) for row in carriers}:
        theirs = select(association).where(
            *(association.c[name] == said for name, said in zip(CALLER, caller, strict=True))
        )
        since = theirs.where(association.c.opened_at > ended_at)
        newest = since.order_by(association.c.opened_at.desc()).limit(1)
        # by an index each: of all associations there ever were neither asks many
        for query in (theirs.where(association.c.closed_at.is_(None)), newest):
            found += connection.execute(query)
    return found


def _series_row(row: Row[Any]) -> SeriesRow:
    return value_of(
        SeriesRow,
        row,
        state=SeriesState(row.state),
        evidence=Evidence(row.evidence),
        forced=Forced(row.forced) if row.forced else None,
        snapshot=row.snapshot or {},
        gate=row.gate or {},
        reasons=reasons_from_json(row.reasons),
    )
