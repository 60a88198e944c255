"""The index writer: rows of instances, quarantine, events and associations, in small groups.

Rows follow their files within 50 ms. When the database is locked or full the rows wait in memory
and ``trouble`` says so: new instances are then answered 0xA700, while those acknowledged are safe
as files, from which their rows can be rebuilt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import cast
from uuid import uuid4

from sqlalchemy import Connection, Engine, Table, insert, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError

from node.database.engine import DatabaseClock, Now, writing
from node.domain.errors import TryLater
from node.domain.instance import Ending, Instance, Origin, Transport
from node.domain.received import Loss
from node.spool import tables
from node.spool.losses import (
    attribute_losses,
    loss_values,
    note_listener,
    settle_images,
    settle_nameless,
    write_losses,
)

BATCH_S = 0.05
_MAX_BATCH = 500
_RETRY_S = 0.5
# beyond this many waiting rows the sender has to wait too
MAX_WAITING = 20_000
# one writer at a time, so that row ids become visible in their order (PostgreSQL)
_WRITER_LOCK = 0x5E6_0001


@dataclass(frozen=True, slots=True)
class _Row:
    table: Table
    values: Mapping[str, object]


class Index:
    """The writing side of the index; one per process, safe to share between threads.

    Args:
        now: The clock that everything which comes in is stamped by; the database's by default.
    Raises:
        TryLater: The database cannot be reached at start.
    """

    def __init__(self, engine: Engine, *, batch_s: float = BATCH_S, now: Now | None = None) -> None:
        self.engine = engine
        self._batch_s = batch_s
        self._waiting: list[_Row] = []
        self._in_hand = 0
        self._changed = Condition()
        self._trouble = ""
        self._is_closing = False
        try:
            self.now = now or DatabaseClock(engine)
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
        """A row for a kept file."""
        self._put(_Row(tables.instance, instance_values(instance)))

    def record_quarantine(self, values: Mapping[str, object]) -> None:
        """A row for a file in quarantine."""
        self._put(_Row(tables.quarantine, values))

    def record_loss(self, loss: Loss) -> None:
        """A row for an image that was not kept."""
        self._put(_Row(tables.loss, loss_values(loss, self.now())))

    def settle_losses(self, images: Collection[str]) -> None:
        """What was lost under these names was taken in after all.

        Raises:
            TryLater: It cannot be written down now.
        """
        self.flush()
        self._now_or_later(lambda connection: settle_images(connection, images, self.now()))

    def count_losses(
        self, association_id: str, images: Collection[str], series: Collection[str]
    ) -> None:
        """Count images of an association that name no series against these, and no others of it.

        Raises:
            TryLater: It cannot be written down now.
        """
        self.flush()
        self._now_or_later(
            lambda connection: attribute_losses(
                connection, association_id, series, self.now(), images=images
            )
        )

    def listening(self, transport: Transport) -> None:
        """Somebody listens on a road from now on: before, silence told nothing.

        Raises:
            TryLater: It cannot be written down now.
        """
        self._now_or_later(
            lambda connection: note_listener(connection, transport.value, self.now())
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
        self._put(_Row(tables.event, values))

    def opened(self, origin: Origin) -> str:
        """Open the row of an association, STOW request or folder scan; its id."""
        association_id = origin.association_id or uuid4().hex
        now = self.now()
        row = {**_origin_values(origin), "opened_at": now, "heartbeat_at": now}
        row["id"] = association_id
        del row["association_id"]
        opened = insert(tables.association).values(**row)
        self._now_or_later(lambda connection: connection.execute(opened))
        return association_id

    def heartbeat(self, association_id: str) -> None:
        """The sender is still there."""
        row = tables.association
        open_row = (row.c.id == association_id) & row.c.closed_at.is_(None)
        alive = update(row).where(open_row).values(heartbeat_at=self.now())
        self._now_or_later(lambda connection: connection.execute(alive))

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
        row = tables.association
        open_row = (row.c.id == association_id) & row.c.closed_at.is_(None)

        def close(connection: Connection) -> None:
            now = self.now()
            if losses:
                attribute_losses(connection, association_id, list(brought or ()), now)
            elif brought and ending is Ending.RELEASED:
                settle_nameless(connection, association_id, brought, now)
            connection.execute(update(row).where(open_row).values(closed_at=now, end=ending.value))

        self._now_or_later(close)

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

    def _now_or_later(self, write: Callable[[Connection], object]) -> None:
        try:
            with writing(self.engine) as connection:
                write(connection)
        except DBAPIError as error:
            raise TryLater("the index cannot be written") from error

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
            is_written = self._write(batch)
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
            with writing(self.engine) as connection:
                if connection.dialect.name == "postgresql":
                    lock = text("SELECT pg_advisory_xact_lock(:key)")
                    connection.execute(lock, {"key": _WRITER_LOCK})
                write_instances(
                    connection, [row.values for row in batch if row.table is tables.instance]
                )
                write_losses(connection, [row.values for row in batch if row.table is tables.loss])
                for table in (tables.quarantine, tables.event):
                    values = [dict(row.values) for row in batch if row.table is table]
                    if values:
                        connection.execute(insert(table), values)
        except DBAPIError:
            self._trouble = "the index cannot be written"
            return False
        self._trouble = ""
        return True


def write_instances(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows; one that is there already stays, a tombstone whose file is back revives."""
    if not rows:
        return
    is_postgresql = connection.dialect.name == "postgresql"
    # the two dialects share this part of their interface, not a type
    statement = sqlite_insert(tables.instance)
    if is_postgresql:
        statement = cast("SqliteInsert", postgresql_insert(tables.instance))
    revived = {
        name: statement.excluded[name]
        for name in ("file_name", "received_sha256", "pixel_identity", "size_bytes", "received_at")
    }
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sop_instance_uid", "version"],
            set_={**revived, "file_deleted_at": None},
            where=tables.instance.c.file_deleted_at.is_not(None),
        ),
        [dict(row) for row in rows],
    )


def instance_values(instance: Instance) -> dict[str, object]:
    """The columns of an instance row."""
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "version": instance.version,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "study_instance_uid": instance.study_instance_uid,
        "series_instance_uid": instance.series_instance_uid,
        "file_name": instance.file_name,
        "data_offset": instance.data_offset,
        "size_bytes": instance.size_bytes,
        "received_sha256": instance.received_sha256,
        "pixel_identity": instance.pixel_identity,
        "is_input": instance.is_input,
        "received_at": instance.received_at,
        **_origin_values(instance.origin),
    }


def _origin_values(origin: Origin) -> dict[str, object]:
    return {
        "association_id": origin.association_id,
        "transport": origin.transport.value,
        "peer": origin.peer[:64],
        "calling_ae_title": origin.calling_ae_title[:16],
        "called_ae_title": origin.called_ae_title[:16],
        "address": origin.address[:64],
        "http_user": origin.http_user[:64],
    }
