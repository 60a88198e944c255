"""What a node holds after a while: rows of every table, written at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import Engine, Table, text

from node.database.engine import writing
from node.jobs.tables import job, match, outbox, result
from node.spool.tables import association, event, instance, loss, quarantine, series, series_detail

INSTANCES = 7
_SENDER = {
    "transport": "dimse",
    "peer": "",
    "calling_ae_title": "PACS",
    "called_ae_title": "SEGNODE",
    "address": "127.0.0.1",
}
_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
_Rows: TypeAlias = defaultdict[Table, list[Mapping[str, Any]]]
_WITHOUT_JOB = {7: "unmatched", 8: "superseded"}


def add_past(engine: Engine, first: int, last: int, *, now: float) -> None:
    """Series ``first`` to ``last``, two to a study, the newest a minute old.

    Of ten, six were segmented and four of these delivered; one waits for a destination that is shut,
    one for a destination that is open. Two wait for a worker, one has no rule, one is superseded.
    """
    rows: _Rows = defaultdict(list)
    for n in range(first, last):
        _add_series(rows, n, now - 60.0 - 0.5 * (last - n))
        _add_work(rows, n, now - 30.0 - 0.001 * (last - n))
    _write(engine, rows)


def add_work(engine: Engine, first: int, last: int, *, now: float) -> None:
    """Only matches, jobs, results and deliveries of these series."""
    rows: _Rows = defaultdict(list)
    for n in range(first, last):
        _add_work(rows, n, now - 30.0 - 0.001 * (last - n))
    _write(engine, rows)


def series_of(n: int) -> str:
    return f"1.2.826.3.{n}"


def study_of(n: int) -> str:
    return f"1.2.826.2.{n // 2}"


def _write(engine: Engine, rows: _Rows) -> None:
    with writing(engine) as connection:
        for table, some in rows.items():
            connection.execute(table.insert(), some)
        if connection.dialect.name == "postgresql":
            for table in (table for table in rows if "id" in table.c and table is not association):
                newest = f"SELECT setval('{table.name}_id_seq', max(id)) FROM \"{table.name}\""
                connection.execute(text(newest))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def _add_series(rows: _Rows, n: int, at: float) -> None:
    uid, study, carrier = series_of(n), study_of(n), f"past{n}"
    rows[association].append(
        {"id": carrier, **_SENDER, "opened_at": at, "heartbeat_at": at, "closed_at": at}
        | {"http_user": "", "end": "released"}
    )
    images = [f"{uid}.{k}" for k in range(INSTANCES)]
    for k, image in enumerate(images, 1):
        row = {
            "id": INSTANCES * n + k,
            "sop_instance_uid": image,
            "version": 1,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "study_instance_uid": study,
            "series_instance_uid": uid,
            "file_name": f"{k:02x}/{image}.dcm",
            "data_offset": 4096,
            "size_bytes": 4096,
            "received_sha256": image,
            "pixel_identity": image,
            "is_input": True,
            "received_at": at,
            "association_id": carrier,
            "http_user": "",
        }
        rows[instance].append(row | _SENDER)
    rows[series].append(
        {"series_instance_uid": uid, "study_instance_uid": study, "modality": "CT"}
        | {"series_number": n % 2, "instances": INSTANCES, "frames": INSTANCES}
        | {"first_received_at": at, "last_received_at": at, "revision": 1, "state": "complete"}
        | {"evidence": "release", "newest_row": INSTANCES * (n + 1), "guard": 1, "updated_at": at}
        | {"sweep_at": at + 86_400.0}
    )
    rows[series_detail].append(
        {"series_instance_uid": uid, "header": {}, "snapshot": dict.fromkeys(images, 1)}
    )
    told = {"series_instance_uid": uid, "sop_instance_uid": images[0]}
    rows[event].append({"id": n + 1, "at": at, "kind": "late", "sentence": "", **told})
    if n % 5 == 0:
        refused = {"dimse_status": 0xC000, "reason": "cannot understand"}
        rows[loss].append(
            {"id": n + 1, "image": f"{uid}.lost", "association_id": carrier, "lost_at": at}
            | {"series_instance_uid": uid, "sop_instance_uid": f"{uid}.lost", **refused}
        )
        sender = {name: _SENDER[name] for name in ("transport", "peer", "calling_ae_title")}
        rows[quarantine].append(
            {"id": n + 1, "file_name": f"{n}.dcm", "size_bytes": 1, "received_at": at}
            | {"address": "", "state": "discarded", **told, **refused, **sender}
        )


def _add_work(rows: _Rows, n: int, at: float) -> None:
    uid, study, kind = series_of(n), study_of(n), n % 10
    part = {"image": {"series_instance_uid": uid, "revision": 1}}
    state = _WITHOUT_JOB.get(kind, "done" if kind < 6 else "queued")
    has_job = kind not in _WITHOUT_JOB
    rows[match].append(
        {"id": n + 1, "rule": "" if kind == 7 else "ct", "study_instance_uid": study}
        | {"series_key": uid, "roles": {"image": uid}, "made_of": part, "revision": 1}
        | {"state": state, "explanation": {"clauses": ["x" * 200]}, "created_at": at}
        | {"job_id": n + 1 if has_job else None, "updated_at": at}
    )
    if not has_job:
        return
    inputs = {"image": {**part["image"], "instances": {f"{uid}.0": 1}, "missing": 0}}
    is_done = state == "done"
    rows[job].append(
        {"id": n + 1, "job_key": f"past{n}", "state": state, "priority": 1 + n % 2}
        | {"model": f"model{n % 3}", "model_digest": "d", "parameters": {}, "inputs": inputs}
        | {"study_instance_uid": study, "destinations": ["open"], "revision": 1}
        | {"config_digest": "", "series_number": 1001, "content_date": "20260101"}
        | {"content_time": "120000", "deadline_s": 60.0, "attempts": int(is_done)}
        | {"forms": ["seg"] if is_done else [], "created_at": at}
        | {"started_at": at if is_done else None, "finished_at": at if is_done else None}
    )
    if not is_done:
        return
    rows[result].append(
        {"id": n + 1, "job_id": n + 1, "form": "seg", "file_name": f"{n}/seg.dcm"}
        | {"size_bytes": 1, "sha256": str(n), "sop_instance_uid": f"2.25.{n}", "created_at": at}
        | {"sop_class_uid": _SEG, "series_instance_uid": f"2.25.7.{n}", "summary": {}}
        | {"study_instance_uid": study}
    )
    waits = {4: "shut", 5: "open"}.get(kind)
    rows[outbox].append(
        {"id": n + 1, "result_id": n + 1, "destination": waits or "open", "next_at": at}
        | {"state": "waiting" if waits else "sent", "created_at": at}
        | {"sent_at": None if waits else at}
    )
