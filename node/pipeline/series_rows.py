"""Between rows of the index and values of the stages: what is known of a series, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from node.assemble.completion import Association, peer_key
from node.domain.header import Header
from node.domain.instance import Ending, Instance, Origin, Transport
from node.domain.reasons import Reason
from node.domain.series import SeriesRow, SeriesState
from node.pipeline.watch import SeriesWatch


def described(watch: SeriesWatch, was: SeriesRow | None, now: float) -> SeriesRow:
    """The row with what the headers and instances say now; decisions are kept as they were."""
    header = watch.header()
    everything = [*watch.inputs, *watch.others]
    fresh = SeriesRow(
        series_instance_uid=watch.series_instance_uid,
        study_instance_uid=watch.study_instance_uid,
        patient_id=header.text("PatientID"),
        patient_name=header.text("PatientName"),
        modality=header.text("Modality"),
        series_description=header.text("SeriesDescription"),
        header=header.to_json(),
        instances=len(everything),
        frames=len(watch.frames),
        first_received_at=min(one.received_at for one in everything),
        last_received_at=max(one.received_at for one in everything),
        state=SeriesState.RECEIVING,
        updated_at=now,
        newest_row=watch.newest_row,
    )
    if was is None:
        return fresh
    return replace(
        fresh,
        first_received_at=min(was.first_received_at, fresh.first_received_at),
        revision=was.revision,
        snapshot=was.snapshot,
        gate=was.gate,
        forced=was.forced,
        state=was.state,
        evidence=was.evidence,
        reasons=was.reasons,
        missing=was.missing,
        guard=was.guard,
    )


def not_judged(
    was: SeriesRow | None, instances: Sequence[Instance], why: Reason, now: float
) -> SeriesRow:
    """The row of a series whose judgement failed: held, with the reason."""
    known = was or SeriesRow(
        series_instance_uid=instances[0].series_instance_uid,
        study_instance_uid=instances[0].study_instance_uid,
        instances=len(instances),
        frames=0,
        first_received_at=min(one.received_at for one in instances),
        last_received_at=max(one.received_at for one in instances),
        state=SeriesState.HELD,
        updated_at=now,
    )
    return replace(
        known,
        state=SeriesState.HELD,
        reasons=(why,),
        updated_at=now,
    )


def association_of(row: Mapping[str, Any]) -> Association:
    """A row of an association, with what it carried of one series, as evidence."""
    origin = Origin(
        transport=Transport(row["transport"]),
        association_id=row["id"],
        peer=row["peer"],
        calling_ae_title=row["calling_ae_title"],
        called_ae_title=row["called_ae_title"],
        address=row["address"],
        http_user=row["http_user"],
    )
    return Association(
        id=row["id"],
        peer=peer_key(origin),
        opened_at=row["opened_at"],
        heartbeat_at=row["heartbeat_at"],
        closed_at=row["closed_at"],
        ended=Ending(row["end"]) if row["end"] else None,
        carried=row["carried"],
    )


def series_numbers(rows: Iterable[SeriesRow]) -> frozenset[int]:
    """Series Numbers in use (PS3.3 C.7.3.1)."""
    found = (Header.from_json(row.header).get("SeriesNumber") for row in rows)
    return frozenset(
        value
        for values in found
        if isinstance(values, tuple)
        for value in values
        if isinstance(value, int)
    )
