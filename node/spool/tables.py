"""The index: what lies in the spool, who sent it, and what is known of each series.

Every row but ``association`` can be rebuilt from the files of the spool.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# how much is kept of what a sender says of itself
SENDER_WIDTHS = {
    "peer": 64,
    "calling_ae_title": 16,
    "called_ae_title": 16,
    "address": 64,
    "http_user": 64,
}


def _sender_columns(*names: str) -> tuple[Column[str], ...]:
    return tuple(
        Column(name, String(SENDER_WIDTHS[name]), nullable=False, default="") for name in names
    )


instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("file_name", String(200), nullable=False),
    Column("data_offset", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("received_sha256", String(64), nullable=False),
    Column("pixel_identity", String(64), nullable=False),
    Column("is_input", Boolean, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("association_id", String(32), nullable=False),
    Column("transport", String(8), nullable=False),
    *_sender_columns("peer", "calling_ae_title", "called_ae_title", "address", "http_user"),
    # a tombstone: the file is gone, the row still recognises a re-send
    Column("file_deleted_at", Float),
    UniqueConstraint("sop_instance_uid", "version"),
    Index("instance_by_series", "series_instance_uid"),
    Index("instance_by_association", "association_id"),
)

association = Table(
    "association",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("transport", String(8), nullable=False),
    *_sender_columns("peer", "calling_ae_title", "called_ae_title", "address", "http_user"),
    Column("opened_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("end", String(8)),  # released | aborted
    Index("association_open", "closed_at"),
    Index("association_opened", "opened_at", "id"),
)

# what tells one sender of associations from another
CALLER = ("transport", "calling_ae_title", "address", "http_user")

# in a query they must stand as they do here: a planner compares texts to find the partial index
PROCESS_DIED = "kind = 'process_died'"
IS_FORCED = "forced <> ''"

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("patient_id", String(64), nullable=False, default=""),
    Column("patient_name", Text, nullable=False, default=""),
    Column("modality", String(16), nullable=False, default=""),
    Column("series_description", Text, nullable=False, default=""),
    Column("series_number", Integer),
    Column("instances", Integer, nullable=False, default=0),
    Column("frames", Integer, nullable=False, default=0),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("state", String(16), nullable=False),  # receiving | held | complete | discarded
    Column("evidence", String(32), nullable=False, default=""),
    Column("expected_instances", Integer),
    # [{"code", "facts"}]: why it is in its state, domain/reasons.py
    Column("reasons", JSON, nullable=False, default=list, server_default="[]"),
    # images known to be missing from the revision in force
    Column("missing", Integer, nullable=False, default=0, server_default="0"),
    Column("forced", String(16), nullable=False, default=""),  # proceed | rerun | discard
    # newest row of instance that this row was made of: a newer one means that it is out of date
    Column("newest_row", Integer, nullable=False, default=0),
    Column("guard", Integer, nullable=False, default=0),  # counts writes
    Column("updated_at", Float, nullable=False),
    # when retention looks at it next
    Column("sweep_at", Float, nullable=False, default=0.0, server_default="0"),
    # since when its tombstones recognise nothing: a day later its rows may go
    Column("forgotten_at", Float),
    Index("series_by_study", "study_instance_uid"),
    Index("series_by_state", "state", "last_received_at", "series_instance_uid"),
    Index("series_received", "last_received_at", "series_instance_uid"),
    Index("series_sweep", "sweep_at"),
    Index(
        "series_forced",
        "series_instance_uid",
        sqlite_where=text(IS_FORCED),
        postgresql_where=text(IS_FORCED),
    ),
)

# what only one series at a time is asked for: lists and counts do not carry it
series_detail = Table(
    "series_detail",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    # merged header and derived attributes as JSON, for rules, explanations and the API
    Column("header", JSON, nullable=False, default=dict),
    Column("snapshot", JSON),  # sop_instance_uid -> version, of the revision in force
    Column("gate", JSON),  # findings and notes of the geometry gate, each like reasons
)

# How far a reader of the index came: up to this row everything is known by other rows.
mark = Table(
    "mark",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("row", Integer, nullable=False),
)

# Studies that study rules are to be asked about: a series settled since they were.
unmatched_study = Table(
    "unmatched_study",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("writes", Integer, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("file_name", String(200), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, default=""),
    Column("series_instance_uid", String(64), nullable=False, default=""),
    Column("dimse_status", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("transport", String(8), nullable=False),
    *_sender_columns("peer", "calling_ae_title", "address"),
    Column("state", String(16), nullable=False, default="kept"),  # kept | accepted | discarded
    # of the folder transport: the file, as the sender named it
    Column("source", String(512), nullable=False, default="", server_default=""),
    Index("quarantine_by_state", "state", "id"),
    Index("quarantine_by_series", "series_instance_uid", "id"),
    Index("quarantine_age", "state", "received_at"),
    Index("quarantine_file", "file_name", unique=True),
)

# Of ``segnode run``: which file of its source was taken as which instance.
source_file = Table(
    "source_file",
    metadata,
    Column("path", LargeBinary, primary_key=True),  # absolute, as the system has it
    Column("size_bytes", BigInteger, nullable=False),
    Column("modified_ns", BigInteger, nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # what the file was then: stored, amended ...
    Column("scan", String(32), nullable=False),  # the run that met it last
    Column("first", Boolean, nullable=False),  # of those that hold the instance, in that run
    Index("source_file_by_instance", "sop_instance_uid"),
)

# What a sender meant to be kept and the node did not keep: evidence against completeness. One row
# per series and image; a later refusal of the same image takes its place.
loss = Table(
    "loss",
    metadata,
    Column("id", Integer, primary_key=True),
    # empty where the header could not say: then it counts against all series of its association
    Column("series_instance_uid", String(64), nullable=False, default=""),
    # the SOP Instance UID, or else what tells it from others: a file, a part of a request
    Column("image", String(512), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, default=""),
    Column("association_id", String(32), nullable=False),
    Column("dimse_status", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("lost_at", Float, nullable=False),
    # an image without a UID: since when it is known to have come after all
    Column("settled_at", Float),
    UniqueConstraint("series_instance_uid", "image"),
    Index("loss_by_association", "association_id"),
    Index("loss_age", "lost_at", "id"),
)

# Since when somebody listens on a transport: while nobody does, silence is no evidence.
listener = Table(
    "listener",
    metadata,
    Column("transport", String(8), primary_key=True),
    Column("since", Float, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("series_instance_uid", String(64), nullable=False, default=""),
    Column("sop_instance_uid", String(64), nullable=False, default=""),
    Column("sentence", Text, nullable=False),
    Index("event_by_series", "series_instance_uid", "id"),
    Index("event_at", "at", "id"),
    Index(
        "event_died",
        "series_instance_uid",
        sqlite_where=text(PROCESS_DIED),
        postgresql_where=text(PROCESS_DIED),
    ),
)

peer_habit = Table(
    "peer_habit",
    metadata,
    Column("peer", String(80), primary_key=True),
    # a peer once seen to send one series over several associations is judged by quiet time
    Column("splits_series", Boolean, nullable=False, default=False),
    Column("learned_at", Float, nullable=False),
)
