"""The index as the ingest writes it: rows of what came in, in small groups, and of who sends.

Rows follow their files within 50 ms. When the database is locked or full the rows wait in memory
and ``trouble`` says so: new instances are then answered 0xA700, while those acknowledged are safe
as files, from which their rows can be rebuilt.
"""

from __future__ import annotations

import os
import signal
import time
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import inf
from threading import Condition, Lock, Thread
from typing import TypeAlias
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    Update,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from node.database.engine import (
    Now,
    clock_of,
    column_of,
    columns_of,
    epoch_s,
    insert_in,
    inserting,
    rows_of,
    writing,
)
from node.domain.errors import InstanceRejected, Status, TryLater
from node.domain.instance import Ending, Instance, Origin, Transport
from node.domain.received import Loss, Received
from node.observe.beats import Beat
from node.spool import tables
from node.spool.losses import (
    attribute_losses,
    loss_values,
    settle_images,
    settle_nameless,
    write_losses,
)
from node.spool.parts import no_room, said_by

BATCH_S = 0.05
_MAX_BATCH = 500
_RETRY_S = 0.5
_WRITE_S = 60.0
_TURN_S = 1.0
# beyond this many waiting rows the sender has to wait too
MAX_WAITING = 20_000
_WRITER_LOCK = 0x5E6_0001
# series that come in: remembered at once, and for how long
_MAX_SERIES = 256
_KEEP_S = 30.0
# how often a series is counted on its way to as many instances as one may have
_ASKED_PER_SERIES = 100

_Row: TypeAlias = tuple[Table, Mapping[str, object]]


class Index:
    """The writing side of the index; one per process, safe to share between threads.

    Args:
        now: The clock that everything which comes in is stamped by; the time of the node by default,
            looked at anew with every transaction.
        beat: Told before rows are written, and when they are.
    Raises:
        TryLater: The database cannot be reached at start; from all but ``record_...``: it cannot be
            written to now.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch_s: float = BATCH_S,
        now: Now | None = None,
        beat: Beat = lambda *_: None,
    ) -> None:
        self.engine = engine
        self._beat = beat
        self._batch_s = batch_s
        self._waiting: list[_Row] = []
        self._in_hand = 0
        self._changed = Condition()
        self._turn = Lock()
        self._trouble = ""
        self._is_closing = False
        self.now = now or clock_of(engine)
        try:
            with writing(engine) as connection:
                _keep_time(connection)
        except DBAPIError as error:
            raise TryLater("the index cannot be reached") from error
        self._writer = Thread(target=self._write_batches, name="index-writer", daemon=True)
        self._writer.start()

    @property
    def trouble(self) -> str:
        """One sentence while rows cannot be written, else empty."""
        if len(self._waiting) > MAX_WAITING:
            return "the index is behind"
        return self._trouble

    def record_instance(self, instance: Instance) -> None:
        """Write the row of a file that is there."""
        try:
            self._put((tables.instance, instance_values(instance)))
        except MemoryError:
            # nobody would look for the file before this process is started again
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def record_quarantine(self, values: Mapping[str, object]) -> None:
        self._put((tables.quarantine, values))

    def record_loss(self, loss: Loss) -> None:
        self._put((tables.loss, loss_values(loss, self.now())))

    def settle_losses(self, images: Collection[str]) -> None:
        """What was lost under these names was taken in after all."""
        self.flush()
        with self._writing() as connection:
            settle_images(connection, images, self.now())

    def count_losses(
        self, association_id: str, images: Collection[str], series: Collection[str]
    ) -> None:
        """Count images of an association that name no series against these, and no others of it."""
        self.flush()
        with self._writing() as connection:
            attribute_losses(connection, association_id, series, self.now(), images=images)

    def listening(self, transport: Transport) -> None:
        """Somebody listens on a transport from now on: before, silence told nothing."""
        with self._writing() as connection:
            row = {"transport": transport.value, "since": self.now()}
            newer = inserting(connection, tables.listener).values(**row)
            since = {"since": newer.excluded.since}
            connection.execute(
                newer.on_conflict_do_update(index_elements=["transport"], set_=since)
            )

    def record_event(
        self, kind: str, sentence: str, *, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> None:
        """Something an operator may want to know; no patient data in the sentence."""
        values = {
            "at": self.now(),
            "kind": kind,
            "series_instance_uid": series_instance_uid,
            "sop_instance_uid": sop_instance_uid,
            "sentence": sentence,
        }
        self._put((tables.event, values))

    def opened(self, origin: Origin) -> str:
        """Open the row of an association, STOW request or folder scan; its id."""
        association_id = origin.association_id or uuid4().hex
        with self._writing() as connection:
            now = self.now()
            row = {"id": association_id, "opened_at": now, "heartbeat_at": now, **_sender(origin)}
            connection.execute(insert(tables.association).values(**row))
        return association_id

    def heartbeat(self, association_id: str) -> None:
        """The sender is still there."""
        with self._writing() as connection:
            alive = _open_row(association_id).values(heartbeat_at=self.now())
            connection.execute(alive)

    def closed(
        self,
        association_id: str,
        ending: Ending,
        *,
        brought: Mapping[str, Collection[str]] | None = None,
        losses: int = 0,
    ) -> None:
        """The sender left; its instances are in the index before the row says so.

        Args:
            brought: Series Instance UID -> SOP Instance UIDs that it brought and that are kept.
            losses: How many images of it were not kept.
        """
        self.flush()
        with self._writing() as connection:
            now = self.now()
            if losses:
                attribute_losses(connection, association_id, list(brought or ()), now)
            elif brought and ending is Ending.RELEASED:
                settle_nameless(connection, association_id, brought, now)
            ended = _open_row(association_id).values(closed_at=now, end=ending.value)
            connection.execute(ended)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Return when every row given so far is written.

        Raises:
            TryLater: It took too long.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: not self._waiting and not self._in_hand, timeout_s
            ):
                raise TryLater(self._trouble or "the index is behind")

    def close(self) -> None:
        """Write what waits and end the writer."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._writer.join(timeout=15.0)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._taking_turns(), writing(self.engine) as connection:
                _keep_time(connection)
                yield connection
        except DBAPIError as error:
            raise TryLater("the index cannot be written") from error

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Keep threads of this process from waiting for SQLite's lock, where they would sleep and look again.

        Not for long: where the database is held by others, each waits as long as it is told to.
        """
        is_sqlite = self.engine.dialect.name == "sqlite"
        has_turn = is_sqlite and self._turn.acquire(timeout=_TURN_S)
        try:
            yield
        finally:
            if has_turn:
                self._turn.release()

    def _put(self, row: _Row) -> None:
        with self._changed:
            self._waiting.append(row)
            self._changed.notify_all()

    def _write_batches(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                is_closing = self._is_closing
            if not is_closing:
                time.sleep(self._batch_s)
            with self._changed:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                self._in_hand = len(batch)
            self._beat("index", _WRITE_S)
            is_written = self._write(batch)
            self._beat("index", inf)
            with self._changed:
                if not is_written:
                    self._waiting = batch + self._waiting
                self._in_hand = 0
                self._changed.notify_all()
                if not is_written and is_closing:
                    # the rebuild at the next start finds these files
                    return
            if not is_written:
                time.sleep(_RETRY_S)

    def _write(self, batch: Sequence[_Row]) -> bool:
        try:
            with self._taking_turns(), writing(self.engine) as connection:
                _keep_time(connection)
                hold_arrivals(connection)
                of: defaultdict[Table, list[Mapping[str, object]]] = defaultdict(list)
                for table, values in batch:
                    of[table].append(values)
                write_instances(connection, of[tables.instance])
                write_losses(connection, of[tables.loss])
                if of[tables.quarantine]:
                    refused = inserting(connection, tables.quarantine)
                    # a rebuild that looks at this moment may have been faster
                    refused = refused.on_conflict_do_nothing(index_elements=["file_name"])
                    connection.execute(refused, of[tables.quarantine])
                if of[tables.event]:
                    connection.execute(insert(tables.event), of[tables.event])
        except (DBAPIError, MemoryError):
            self._trouble = "the index cannot be written"
            return False
        self._trouble = ""
        return True


@dataclass(slots=True)
class _Known:
    """What the index said of a series.

    Args:
        deleted: ``received_sha256`` by version, by SOP Instance UID.
        rows: How many it had, and those that this process added since.
        step: After so many more of this process the index is asked again.
    """

    asked_at: float
    deleted: Mapping[str, Mapping[int, str]]
    rows: int
    step: int


class KnownSeries:
    """What the index knows of the series that come in now, asked for once each and remembered.

    Rows of instances whose files retention deleted, and how many rows there are: other processes may add
    some, so the index is asked again after half a minute, and after a hundredth of what a series may have.
    """

    def __init__(self, engine: Engine, now: Now, max_instances: int) -> None:
        self._engine = engine
        self._now = now
        self._max_instances = max_instances
        self._lock = Lock()
        self._by_series: OrderedDict[str, _Known] = OrderedDict()

    def deleted(self, received: Received) -> Mapping[int, str]:
        """``received_sha256`` by version of the deleted copies of one instance.

        Raises:
            InstanceRejected: 0xA700, the index cannot be read.
        """
        return self._of(received).deleted.get(received.sop_instance_uid, {})

    def require_room(self, received: Received) -> None:
        """Refuse one more instance of a series that has as many as one may have.

        Raises:
            InstanceRejected: 0xC031, it has; 0xA700, the index cannot be read.
        """
        if self._of(received).rows >= self._max_instances:
            raise InstanceRejected(
                f"the series has {self._max_instances} instances, and one may have no more",
                dimse_status=Status.TOO_MANY_IN_SERIES,
                sop_instance_uid=received.sop_instance_uid,
                quarantine=False,
            )

    def note(self, received: Received) -> None:
        """One more instance of a series is kept."""
        with self._lock:
            if (known := self._by_series.get(received.series_instance_uid)) is not None:
                known.rows += 1
                known.step -= 1

    def _of(self, received: Received) -> _Known:
        series = received.series_instance_uid
        now = self._now()
        with self._lock:
            known = self._by_series.get(series)
        # a clock may be set back
        is_fresh = known is not None and 0 <= now - known.asked_at <= _KEEP_S
        if known is None or not is_fresh or known.step <= 0:
            known = self._ask(series, now, known if is_fresh else None)
            with self._lock:
                self._by_series[series] = known
                self._by_series.move_to_end(series)
                while len(self._by_series) > _MAX_SERIES:
                    self._by_series.popitem(last=False)
        return known

    def _ask(self, series_instance_uid: str, now: float, before: _Known | None) -> _Known:
        its = tables.instance.c
        of_series = its.series_instance_uid == series_instance_uid
        step = max(self._max_instances // _ASKED_PER_SERIES, 1)
        wanted = select(its.sop_instance_uid, its.version, its.received_sha256).where(
            of_series, its.file_deleted_at.is_not(None)
        )
        deleted: dict[str, dict[int, str]] = {}
        try:
            (rows,) = column_of(self._engine, select(func.count()).where(of_series))
            if before is not None:  # rows of ours may be on their way
                return _Known(before.asked_at, before.deleted, max(rows, before.rows), step)
            for row in rows_of(self._engine, wanted):
                deleted.setdefault(row.sop_instance_uid, {})[row.version] = row.received_sha256
        except DBAPIError as error:
            raise no_room("the index cannot be read") from error
        return _Known(now, deleted, rows, step)


def _keep_time(connection: Connection) -> None:
    """Look at the clock, and write down at once where somebody set it: "route" may be down."""
    epoch_s(connection)
    if clock_of(connection).was_set:
        clock_of(connection).write_down(connection)


def _open_row(association_id: str) -> Update:
    row = tables.association
    return update(row).where(row.c.id == association_id, row.c.closed_at.is_(None))


def hold_arrivals(connection: Connection) -> None:
    """Until the end of this transaction nobody else writes rows that came in.

    So their ids become visible in their order: a reader goes by the newest that it knows.
    """
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        connection.execute(lock, {"key": _WRITER_LOCK})


def write_instances(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows; one that is there already stays, a tombstone whose file is back revives.

    It does so under a new number: readers go by the newest that they know.
    """
    if rows:
        connection.execute(_adding(connection.dialect.name, tuple(rows[0])), rows)


@cache  # to build it anew for every batch cost a tenth of the ingest's time
def _adding(dialect: str, columns: tuple[str, ...]) -> sqlite.Insert:
    statement = insert_in(dialect, tables.instance)
    revived = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(
        index_elements=["sop_instance_uid", "version"],
        set_={**revived, "id": _next_number(dialect), "file_deleted_at": None},
        where=tables.instance.c.file_deleted_at.is_not(None),
    )


def _next_number(dialect: str) -> ColumnElement[int]:
    """The number that a new row of instances would get."""
    if dialect == "postgresql":
        return func.nextval(func.pg_get_serial_sequence("instance", "id"))
    return select(func.max(tables.instance.c.id) + 1).scalar_subquery()


def instance_values(instance: Instance) -> dict[str, object]:
    association = {"association_id": instance.origin.association_id}
    return {**columns_of(instance, "origin"), **association, **_sender(instance.origin)}


def _sender(origin: Origin) -> dict[str, object]:
    return {"transport": origin.transport.value, **said_by(origin)}
