"""At start: the index is made to agree with the files, and what a killed process left is removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, Table, insert, select

from node.database.engine import reading, writing
from node.domain.received import Loss
from node.spool.files import SeriesMarkers, SpoolFolders
from node.spool.index import instance_values, write_instances
from node.spool.losses import loss_values, write_losses
from node.spool.parts import InstanceRecord, read_record, remove_stale_parts
from node.spool.quarantine import quarantine_values
from node.spool.tables import instance, quarantine

_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What was out of step."""

    instances: int
    quarantined: int
    stale_parts: int


def rebuild_index(engine: Engine, folders: SpoolFolders) -> Rebuilt:
    """Write the rows of files that have none, and remove the parts of dead processes.

    Run before instances are taken; harmless while other processes take some.
    """
    instances = folders.instances
    markers = SeriesMarkers(folders.series)
    found = 0
    for shard in sorted(instances.glob("[0-9a-f][0-9a-f]")):
        names = {f"{shard.name}/{path.name}" for path in shard.glob("*.dcm")}
        missing = names - _indexed(engine, instance, names)
        found += len(missing)
        for some in _batches(missing):
            _index_instances(engine, instances, some, markers)
    return Rebuilt(
        instances=found,
        quarantined=_index_quarantine(engine, folders.quarantine),
        stale_parts=remove_stale_parts(folders.incoming),
    )


def _batches(names: set[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    return (ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH))


def _indexed(engine: Engine, table: Table, names: set[str]) -> set[str]:
    known: set[str] = set()
    with reading(engine) as connection:
        for some in _batches(names):
            wanted = select(table.c.file_name).where(table.c.file_name.in_(some))
            if table is instance:
                wanted = wanted.where(table.c.file_deleted_at.is_(None))
            known.update(connection.execute(wanted).scalars())
    return known


def _index_instances(
    engine: Engine, folder: Path, names: list[str], markers: SeriesMarkers
) -> None:
    kept: list[Mapping[str, object]] = []
    for name, head in _heads(folder, names):
        kept.append(instance_values(head.instance(name)))
        markers.claim(head.series_instance_uid, head.patient_key)
    with writing(engine) as connection:
        write_instances(connection, kept)


def _index_quarantine(engine: Engine, folder: Path) -> int:
    names = {path.name for path in folder.glob("*.dcm")}
    heads = list(_heads(folder, sorted(names - _indexed(engine, quarantine, names))))
    if heads:
        with writing(engine) as connection:
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


def _heads(folder: Path, names: list[str]) -> Iterator[tuple[str, InstanceRecord]]:
    for name in names:
        # another process may have deleted it; a file without our head was never acknowledged
        with suppress(FileNotFoundError, ValueError):
            yield name, read_record(folder / name)
