"""A node's past, written past the node's own code: rows and files as fast as a disk takes them.

Fits whatever schema a measured tree made: a column that it does not have is left out, and one that
nobody here knows gets nothing. Every tenth series stands for what became of it: six were done, one was
parked, one failed, two matched no rule; ten wait for a person. Of the two deliveries of
each result one was sent, or is blocked, and one waits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Engine, MetaData, Numeric, String, Table

from tests.support.phantoms import Phantom

ARCHIVE, SICK = "archive", "sick"
"""Destinations: one took what was sent to it, the other one is waited for."""

DONE, PARKED, FAILED, UNMATCHED = "done", "parked", "failed", "unmatched"
_FATES = (DONE,) * 6 + (UNMATCHED, PARKED, FAILED, UNMATCHED)
DATA_OFFSET = 306
"""Bytes before the data set in the files of ``write_slices``."""
HELD = 10
_CALLERS = 5
_DAY_S = 86_400.0
_SPAN_S = 2 * _DAY_S  # shorter than anything is kept: nothing is due to be deleted
_CHUNK = 20_000
_FOLDS = 2  # series of one study
SLICES = ("slices", "t1c", "t1", "t2", "flair")

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """So many series came in during two days, and ended an hour before ``now``.

    Args:
        is_settled: Whether the node knows what became of them; otherwise they have just come.
        in_one_study: All of them, each of four roles once at the beginning.
    """

    series: int
    now: float
    instances: int = 10
    is_settled: bool = True
    in_one_study: bool = False

    def series_uid(self, number: int) -> str:
        return f"2.25.2{number:09d}"

    def study_uid(self, number: int) -> str:
        return f"2.25.1{0 if self.in_one_study else number // _FOLDS:09d}"

    def instance_uid(self, number: int, slice_number: int) -> str:
        return f"2.25.3{number:09d}{slice_number:04d}"

    def received_at(self, number: int) -> float:
        return self.now - 3600.0 - _SPAN_S * (1 - number / self.series)

    def fate(self, number: int) -> str:
        """What became of a series; of the first ones nobody has decided."""
        return "held" if number < HELD else _FATES[number % len(_FATES)]

    def is_done(self, number: int) -> bool:
        return self.fate(number) == DONE


def file_name(sop_instance_uid: str) -> str:
    """Where the spool keeps the first version of an instance."""
    stem = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
    return f"{stem[:2]}/{stem}.dcm"


def fill(engine: Engine, past: Past) -> Mapping[str, int]:
    """Write every row of a past into empty tables; how many there are of each table."""
    known = MetaData()
    known.reflect(engine)
    written = {}
    for name, rows in _tables(past).items():
        if name in known.tables:
            written[name] = write(engine, known.tables[name], rows)
    if engine.dialect.name == "postgresql":
        _as_if_the_server_had_counted(engine, known)
    return written


def write(engine: Engine, table: Table, rows: Iterable[Values]) -> int:
    """Write rows into a table, what it has no column for left out; how many."""
    raw = engine.raw_connection()
    count = 0
    try:
        cursor = raw.cursor()
        names: Sequence[str] = ()
        for some in _chunks(rows):
            names = names or [c.name for c in table.columns if _is_told(c, some[0])]
            tuples = [
                tuple(row.get(name, _nothing(table.c[name])) for name in names) for row in some
            ]
            columns = ", ".join(f'"{name}"' for name in names)
            if engine.dialect.name == "postgresql":
                with cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
                    for each in tuples:
                        copy.write_row(each)
            else:
                marks = ", ".join("?" * len(names))
                cursor.executemany(
                    f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})', tuples
                )
            count += len(tuples)
        raw.commit()
    finally:
        raw.close()
    return count


def write_files(folder: Path, past: Past, slices: Path) -> int:
    """The files of all instances, in a spool's folder of instances; how many.

    Of a settled past only what waits for a person can be read: nobody reads the others again.

    Args:
        slices: The folder that ``write_slices`` made; series are links to what lies in it.
    """
    for shard in range(256):
        (folder / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
    for number in range(past.series):
        kind = SLICES[number + 1] if past.in_one_study and number < 4 else SLICES[0]
        for slice_number in range(past.instances):
            path = folder / file_name(past.instance_uid(number, slice_number))
            if past.is_settled and number >= HELD:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            else:
                os.link(slices / kind / f"IM{slice_number + 1:04d}.dcm", path)
    return past.series * past.instances


def write_slices(folder: Path, instances: int = 10) -> None:
    """Small series of CT and of four MR sequences, for ``write_files`` to link to."""
    for kind in SLICES:
        modality = "CT" if kind == SLICES[0] else "MR"
        Phantom(
            shape=(instances, 24, 28),
            spacing_mm=(200.0 / instances, 10.0, 11.0),
            attributes=(("Modality", modality), ("SeriesDescription", kind)),
        ).write(folder / kind)


# --- rows ----------------------------------------------------------------------------------------


def _tables(past: Past) -> Mapping[str, Iterator[Values]]:
    """Table -> its rows, with a column for each name that a schema gave it."""
    arrived = {"association": _associations(past), "instance": _instances(past)}
    if not past.is_settled:
        return arrived
    return {
        **arrived,
        "series": _series(past),
        "series_detail": _series(past),
        "match": _matches(past),
        "job": _jobs(past),
        "result": _results(past),
        "outbox": _deliveries(past),
        "breaker": iter([{"destination": SICK, "failures": 0, "open_until": 0.0}]),
        "event": _events(past),
        "quarantine": _quarantine(past),
        "loss": _losses(past),
    }


def _sender(number: int) -> Values:
    return {
        "transport": "dimse",
        "road": "dimse",
        "calling_ae_title": f"MODALITY{number % _CALLERS}",
        "called_ae_title": "SEGNODE",
        "address": f"192.0.2.{number % _CALLERS}",
    }


def _associations(past: Past) -> Iterator[Values]:
    for number in range(past.series):
        at = past.received_at(number)
        yield {
            **_sender(number),
            "id": f"{number:032x}",
            "opened_at": at - 5.0,
            "heartbeat_at": at,
            "closed_at": at + 0.5,
            "end": "released",
        }


def _instances(past: Past) -> Iterator[Values]:
    for number in range(past.series):
        at, sender = past.received_at(number), _sender(number)
        for slice_number in range(past.instances):
            uid = past.instance_uid(number, slice_number)
            digest = hashlib.sha256(f"{uid} as received".encode()).hexdigest()
            yield {
                **sender,
                "id": number * past.instances + slice_number + 1,
                "sop_instance_uid": uid,
                "version": 1,
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "study_instance_uid": past.study_uid(number),
                "series_instance_uid": past.series_uid(number),
                "file_name": file_name(uid),
                "data_offset": DATA_OFFSET,
                "size_bytes": 525_000,
                "received_sha256": digest,
                "pixel_identity": digest,
                "is_input": True,
                "received_at": at - (past.instances - slice_number) * 0.01,
                "association_id": f"{number:032x}",
            }


def _series(past: Past) -> Iterator[Values]:
    # as wide as that of a real CT
    header = json.dumps(
        {"values": {f"Attribute{n}": ["a value of some length"] for n in range(60)}}
    )
    for number in range(past.series):
        at = past.received_at(number)
        uids = (past.instance_uid(number, each) for each in range(past.instances))
        is_held = past.fate(number) == "held"
        yield {
            "series_instance_uid": past.series_uid(number),
            "study_instance_uid": past.study_uid(number),
            "patient_id": f"P{number // _FOLDS}",
            "patient_name": "Bench^Growth",
            "modality": "CT",
            "series_description": "of the bench",
            "series_number": number % _FOLDS + 1,
            "header": header,
            "instances": past.instances,
            "frames": past.instances,
            "first_received_at": at - past.instances * 0.01,
            "last_received_at": at,
            "revision": 0 if is_held else 1,
            "snapshot": json.dumps({} if is_held else dict.fromkeys(uids, 1)),
            "state": "held" if is_held else "complete",
            "evidence": "" if is_held else "release",
            "gate": "{}",
            "reasons": "[]",
            "newest_row": (number + 1) * past.instances,
            "guard": 2,
            "updated_at": at + 1.0,
            # as a sweep leaves it: nothing can go today
            "sweep_at": past.now + _DAY_S,
        }


def _matches(past: Past) -> Iterator[Values]:
    for number in range(HELD, past.series):
        fate, uid, at = past.fate(number), past.series_uid(number), past.received_at(number)
        part = {"series_instance_uid": uid, "revision": 1}
        yield {
            "id": number + 1,
            "rule": "" if fate == UNMATCHED else "ct",
            "study_instance_uid": past.study_uid(number),
            "series_key": uid,
            "roles": json.dumps({"ct": uid}),
            "made_of": json.dumps({"ct": part}),
            "revision": 1,
            "state": fate,
            "reasons": "[]",
            "explanation": json.dumps({"rule": "ct", "verdict": "yes", "clauses": []}),
            "job_id": number + 1 if fate in (DONE, FAILED) else None,
            "created_at": at + 1.0,
            "updated_at": at + 60.0,
        }


def _jobs(past: Past) -> Iterator[Values]:
    for number in range(HELD, past.series):
        fate, uid, at = past.fate(number), past.series_uid(number), past.received_at(number)
        if fate not in (DONE, FAILED):
            continue
        versions = {past.instance_uid(number, each): 1 for each in range(past.instances)}
        role = {"series_instance_uid": uid, "revision": 1, "instances": versions, "missing": 0}
        yield {
            "id": number + 1,
            "job_key": hashlib.sha256(uid.encode()).hexdigest(),
            "state": fate,
            "priority": 1,
            "model": "ct_tissue",
            "model_digest": "0" * 64,
            "parameters": "{}",
            "study_instance_uid": past.study_uid(number),
            "inputs": json.dumps({"ct": role}),
            "destinations": json.dumps([ARCHIVE, SICK]),
            "revision": 1,
            "config_digest": "0" * 64,
            "series_number": 1001 + number % _FOLDS,
            "content_date": "20260101",
            "content_time": "120000",
            "deadline_s": 600.0,
            "attempts": 1,
            "stages": json.dumps({"infer": 1.5}),
            "reasons": "[]",
            "forms": json.dumps(["seg"]),
            "created_at": at + 1.0,
            "started_at": at + 2.0,
            "finished_at": at + 10.0,
        }


def _results(past: Past) -> Iterator[Values]:
    """Labels and a SEG of each job that was done."""
    for number in filter(past.is_done, range(past.series)):
        for form, row in (("labels", 2 * number + 1), ("seg", 2 * number + 2)):
            is_object = form == "seg"
            yield {
                "id": row,
                "job_id": number + 1,
                "form": form,
                "file_name": f"{number}/{form}",
                "size_bytes": 90_000,
                "sha256": hashlib.sha256(f"{number} {form}".encode()).hexdigest(),
                "sop_instance_uid": f"2.25.4{number:09d}" if is_object else "",
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4" if is_object else "",
                "series_instance_uid": f"2.25.5{number:09d}" if is_object else "",
                "study_instance_uid": past.study_uid(number) if is_object else "",
                "summary": "{}",
                "state": "current",
                "created_at": past.received_at(number) + 10.0,
            }


def _deliveries(past: Past) -> Iterator[Values]:
    for number in filter(past.is_done, range(past.series)):
        at = past.received_at(number) + 10.0
        went_out = "blocked" if number % 100 == 11 else "sent"
        for destination, state, row in (
            (ARCHIVE, went_out, 2 * number + 1),
            (SICK, "waiting", 2 * number + 2),
        ):
            yield {
                "id": row,
                "result_id": 2 * number + 2,
                "destination": destination,
                "state": state,
                "attempts": 1,
                "next_at": at + 60.0,
                "reasons": "[]",
                "created_at": at,
                "sent_at": at + 1.0 if state == "sent" else None,
            }


def _events(past: Past) -> Iterator[Values]:
    for number in range(0, past.series, 10):
        yield {
            "id": number // 10 + 1,
            "at": past.received_at(number),
            "kind": "amended",
            "series_instance_uid": past.series_uid(number),
            "sop_instance_uid": past.instance_uid(number, 0),
            "sentence": "An instance came again.",
        }


def _quarantine(past: Past) -> Iterator[Values]:
    for number in range(0, past.series, 100):
        yield {
            **_sender(number),
            "id": number // 100 + 1,
            "file_name": f"{number:032x}.dcm",
            "size_bytes": 1000,
            "series_instance_uid": past.series_uid(number),
            "dimse_status": 0xC000,
            "reason": "it ends within an element",
            "received_at": past.received_at(number),
            "state": "discarded",
        }


def _losses(past: Past) -> Iterator[Values]:
    """Refused images of which a good copy came later."""
    for number in range(0, past.series, 200):
        uid = past.instance_uid(number, 0)
        yield {
            "id": number // 200 + 1,
            "series_instance_uid": past.series_uid(number),
            "image": uid,
            "sop_instance_uid": uid,
            "association_id": f"{number:032x}",
            "dimse_status": 0xC000,
            "reason": "it ended within an element",
            "lost_at": past.received_at(number),
        }


# --- into tables that the generator was not written for --------------------------------------------


def _chunks(rows: Iterable[Values]) -> Iterator[list[Values]]:
    some: list[Values] = []
    for row in rows:
        some.append(row)
        if len(some) == _CHUNK:
            yield some
            some = []
    if some:
        yield some


def _is_told(column: Any, row: Values) -> bool:
    """Whether a column is written: the row has it, or the database would refuse a row without."""
    is_open = column.nullable or column.server_default is not None or column.primary_key
    return column.name in row or not is_open


def _nothing(column: Any) -> Any:
    """What stands where a row says nothing, and something must stand."""
    if column.nullable:
        return None
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, Numeric) or not isinstance(column.type, String):
        return "{}" if column.type.__class__.__name__ == "JSON" else 0
    return ""


def _as_if_the_server_had_counted(engine: Engine, known: MetaData) -> None:
    """Sequences and statistics of PostgreSQL, which rows written with their ids leave behind."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in known.tables.values():
            if "id" in table.c and not isinstance(table.c.id.type, String):
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('\"{table.name}\"', 'id'), "
                    f'(SELECT coalesce(max(id), 1) FROM "{table.name}"))'
                )
        connection.exec_driver_sql("VACUUM ANALYZE")
