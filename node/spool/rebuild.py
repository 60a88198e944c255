"""The index is made to agree with the files, and what a killed process left is removed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from sqlalchemy import Engine, Executable, insert, select

from node.database.engine import column_of, rows_of, writing
from node.domain.received import Loss
from node.spool.files import SeriesMarkers, SpoolFolders
from node.spool.index import hold_arrivals, instance_values, write_instances
from node.spool.losses import loss_values, write_losses
from node.spool.parts import InstanceRecord, read_record, remove_stale_parts
from node.spool.quarantine import quarantine_values
from node.spool.tables import instance, quarantine

_BATCH = 200
_PAGE = 5000
_DIGEST_BYTES = 32
_SUFFIX = ".dcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What was out of step."""

    instances: int
    quarantined: int
    stale_parts: int


def rebuild_index(engine: Engine, folders: SpoolFolders, *, stop: Event | None = None) -> Rebuilt:
    """Write the rows of files that have none, and remove the parts of dead processes.

    One pass over the names in the index, then one listing of the folders. Other processes may take
    instances meanwhile: what they are about to write is written once, by whoever comes first. No
    series may be settled before it is through, and no file be deleted.

    Args:
        stop: When it is set the rest is left for the next time.
    """
    stop = stop or Event()
    markers = SeriesMarkers(folders.series)
    known = _KnownNames(engine)
    found = 0
    for shard in sorted(folders.instances.glob("[0-9a-f][0-9a-f]")):
        for some in _batches(known.missing(shard.name, _names_in(shard))):
            if stop.is_set():
                break
            found += _index_instances(engine, folders.instances, some, markers)
    return Rebuilt(
        instances=found,
        quarantined=_index_quarantine(engine, folders.quarantine, stop),
        stale_parts=remove_stale_parts(folders.incoming),
    )


class _KnownNames:
    """The names of files with a live row: of nearly all of them the 32 bytes that tell them apart."""

    def __init__(self, engine: Engine) -> None:
        self._digests = defaultdict[str, bytearray](bytearray)  # of first versions, by shard
        self._others: set[str] = set()  # amended ones, whole
        after = 0
        its = instance.c
        live = select(its.id, its.file_name).where(its.file_deleted_at.is_(None))
        while rows := rows_of(engine, live.where(its.id > after).order_by(its.id).limit(_PAGE)):
            after = rows[-1].id
            for name in (row.file_name for row in rows):
                stem = name[3 : -len(_SUFFIX)]
                if len(stem) == 2 * _DIGEST_BYTES:
                    self._digests[name[:2]] += bytes.fromhex(stem)
                else:
                    self._others.add(name)

    def missing(self, shard: str, names: Collection[str]) -> list[str]:
        """The names in one folder that are not known, relative to the folder above, in order."""
        packed = bytes(self._digests.pop(shard, b""))
        known = {
            f"{packed[start : start + _DIGEST_BYTES].hex()}{_SUFFIX}"
            for start in range(0, len(packed), _DIGEST_BYTES)
        }
        unknown = (f"{shard}/{name}" for name in names if name not in known)
        return sorted(name for name in unknown if name not in self._others)


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
    except FileNotFoundError:  # nothing came in yet
        return []


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))


def _index_instances(
    engine: Engine, folder: Path, names: Sequence[str], markers: SeriesMarkers
) -> int:
    """Write the rows that are still missing; how many."""
    heads = list(_heads(folder, names))
    for _, head in heads:
        markers.claim(head.series_instance_uid, head.patient_key)
    uids = instance.c.sop_instance_uid.in_([head.sop_instance_uid for _, head in heads])
    live = select(instance.c.file_name).where(uids, instance.c.file_deleted_at.is_(None))
    with writing(engine) as connection:
        hold_arrivals(connection)
        there = set(connection.execute(live).scalars())
        rows = [instance_values(head.instance(name)) for name, head in heads if name not in there]
        write_instances(connection, rows)
    return len(rows)


def _index_quarantine(engine: Engine, folder: Path, stop: Event) -> int:
    found = 0
    for some in _batches(sorted(_names_in(folder))):
        if stop.is_set():
            break
        known = set(column_of(engine, _in_quarantine(some)))
        missing = [name for name in some if name not in known]
        found += _index_refused(engine, list(_heads(folder, missing)))
    return found


def _in_quarantine(names: Sequence[str]) -> Executable:
    return select(quarantine.c.file_name).where(quarantine.c.file_name.in_(names))


def _index_refused(engine: Engine, heads: Sequence[tuple[str, InstanceRecord]]) -> int:
    if not heads:
        return 0
    with writing(engine) as connection:
        hold_arrivals(connection)
        there = set(connection.execute(_in_quarantine([name for name, _ in heads])).scalars())
        heads = [(name, head) for name, head in heads if name not in there]
        if heads:
            rows = [quarantine_values(head, name) for name, head in heads]
            connection.execute(insert(quarantine), rows)
            # the row of what it lost was on its way as well
            write_losses(connection, [_loss_values(head, name) for name, head in heads])
    return len(heads)


def _loss_values(head: InstanceRecord, file_name: str) -> Mapping[str, object]:
    loss = Loss(
        series_instance_uid=head.series_instance_uid,
        image=head.sop_instance_uid or head.source or file_name,
        sop_instance_uid=head.sop_instance_uid,
        association_id=head.origin.association_id,
        dimse_status=head.dimse_status,
        reason=head.reason,
    )
    return loss_values(loss, head.received_at)


def _heads(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, InstanceRecord]]:
    for name in names:
        # another process may have deleted it; a file without our head was never acknowledged
        with suppress(FileNotFoundError, ValueError):
            yield name, read_record(folder / name)
