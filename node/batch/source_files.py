"""Which files of the source were taken as which instances: the next run opens only what changed.

A file is known by its path, size and time of change. It is taken again where its instance, or the
spool's copy of it, is gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, Row, delete, select

from node.database.engine import inserting, rows_of, value_of, writing
from node.domain.instance import InstanceState
from node.receive.folder import Trace
from node.receive.ingest import Receipt
from node.spool.tables import instance, source_file


class SourceFiles:
    """The memory of one run; the state folder belongs to it alone.

    Args:
        instances: The spool's folder of instances.
        source: The folder that all files lie in.
    """

    def __init__(self, engine: Engine, instances: Path, source: Path) -> None:
        self._engine = engine
        self._instances = instances
        self._source = source
        self._scan = uuid4().hex

    def known(self, files: Sequence[tuple[Path, Trace]]) -> Mapping[Path, Receipt]:
        """Of some files those that were taken before, look as they did, and are kept still."""
        wanted = source_file.c.path.in_([_key(path) for path, _ in files])
        found = {row.path: row for row in rows_of(self._engine, select(source_file).where(wanted))}
        same = {
            path: row
            for path, trace in files
            if (row := found.get(_key(path))) and (row.size_bytes, row.modified_ns) == trace
        }
        kept = self._kept({row.sop_instance_uid for row in same.values()})
        return {
            path: value_of(Receipt, kept[row.sop_instance_uid], state=InstanceState(row.state))
            for path, row in same.items()
            if row.sop_instance_uid in kept
        }

    def note(self, files: Sequence[tuple[Path, Trace, Receipt]]) -> Mapping[Path, Path]:
        """Remember files; of those whose instance came in this run before, which file held it."""
        uids = {receipt.sop_instance_uid for *_, receipt in files}
        its = source_file.c
        before = select(its.path, its.sop_instance_uid).where(
            its.scan == self._scan, its.first, its.sop_instance_uid.in_(uids)
        )
        first = {
            row.sop_instance_uid: self._named(row.path) for row in rows_of(self._engine, before)
        }
        others: dict[Path, Path] = {}
        for path, _, receipt in files:
            other = first.setdefault(receipt.sop_instance_uid, path)
            if other is not path:
                others[path] = other
        rows = [
            {
                "path": _key(path),
                "size_bytes": size_bytes,
                "modified_ns": modified_ns,
                "sop_instance_uid": receipt.sop_instance_uid,
                "state": receipt.state.value,
                "scan": self._scan,
                "first": path not in others,
            }
            for path, (size_bytes, modified_ns), receipt in files
        ]
        with writing(self._engine) as connection:
            given = inserting(connection, source_file)
            newer = {name: given.excluded[name] for name in rows[0] if name != "path"}
            connection.execute(
                given.on_conflict_do_update(index_elements=["path"], set_=newer), rows
            )
        return others

    def forget_others(self) -> None:
        """Forget files that this run did not meet."""
        with writing(self._engine) as connection:
            connection.execute(delete(source_file).where(source_file.c.scan != self._scan))

    def _named(self, key: bytes) -> Path:
        """The path of a file as this run calls it."""
        return self._source / Path(os.fsdecode(key)).relative_to(self._source.absolute())

    def _kept(self, uids: set[str]) -> Mapping[str, Row[Any]]:
        """A row of each instance of which all files are there."""
        live = select(instance).where(
            instance.c.sop_instance_uid.in_(uids), instance.c.file_deleted_at.is_(None)
        )
        rows = rows_of(self._engine, live)
        lost = {
            row.sop_instance_uid for row in rows if not (self._instances / row.file_name).exists()
        }
        return {row.sop_instance_uid: row for row in rows if row.sop_instance_uid not in lost}


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
