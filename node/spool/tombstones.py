"""Tombstones: rows of instances whose files retention deleted, asked for once per series."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError

from node.database.engine import Now, reading
from node.domain.received import Received
from node.spool.parts import no_room
from node.spool.tables import instance

_MAX_SERIES = 256
_KEEP_S = 30.0


class Tombstones:
    """Remembers the deleted instances of the series that come in now."""

    def __init__(self, engine: Engine, now: Now) -> None:
        self._engine = engine
        self._now = now
        self._lock = Lock()
        self._by_series: OrderedDict[str, tuple[float, dict[str, dict[int, str]]]] = OrderedDict()

    def of(self, received: Received) -> dict[int, str]:
        """``received_sha256`` by version of the deleted copies of one instance.

        Raises:
            InstanceRejected: 0xA700, the index cannot be read.
        """
        series = received.series_instance_uid
        now = self._now()
        with self._lock:
            asked_at, deleted = self._by_series.get(series, (float("-inf"), {}))
        if not 0 <= now - asked_at <= _KEEP_S:  # a clock may be set back
            deleted = self._ask(series)
            with self._lock:
                self._by_series[series] = (now, deleted)
                self._by_series.move_to_end(series)
                while len(self._by_series) > _MAX_SERIES:
                    self._by_series.popitem(last=False)
        return deleted.get(received.sop_instance_uid, {})

    def _ask(self, series_instance_uid: str) -> dict[str, dict[int, str]]:
        columns = (instance.c.sop_instance_uid, instance.c.version, instance.c.received_sha256)
        wanted = select(*columns).where(
            instance.c.series_instance_uid == series_instance_uid,
            instance.c.file_deleted_at.is_not(None),
        )
        deleted: dict[str, dict[int, str]] = {}
        try:
            with reading(self._engine) as connection:
                for uid, version, sha256 in connection.execute(wanted):
                    deleted.setdefault(uid, {})[version] = sha256
        except DBAPIError as error:
            raise no_room("the index cannot be read") from error
        return deleted
