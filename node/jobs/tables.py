"""Matches, jobs, results and the outbox: three of the four durable points of the road."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# A (series set, rule): why a rule did or did not lead to a job. A series that no rule took has one
# row with an empty rule.
match = Table(
    "match",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule", String(128), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    # what a rule judged: a series by its UID, a set of several by the UID of their study
    Column("series_key", String(600), nullable=False),
    Column("roles", JSON, nullable=False),  # role -> series_instance_uid
    # role -> {"series_instance_uid", "revision"}: which state of each series was judged
    Column("made_of", JSON, nullable=False, default=dict, server_default="{}"),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    # [{"code", "facts"}]: why it is in its state, domain/reasons.py
    Column("reasons", JSON, nullable=False, default=list, server_default="[]"),
    Column("explanation", JSON),
    Column("job_id", Integer),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("rule", "series_key", "revision"),
    Index("match_by_job", "job_id"),
    Index("match_by_series", "series_key"),
    Index("match_by_study", "study_instance_uid"),
    Index("match_by_state", "state", "updated_at", "id"),
    Index("match_updated", "updated_at", "id"),
)

# in a query they must stand as they do here: a planner compares texts to find the partial index
IS_TRIED_AGAIN = "state = 'queued' AND attempts > 0"
IS_KEPT = "state <> 'deleted'"

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_key", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", String(64), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    # role -> {"series_instance_uid", "revision", "instances": {sop_instance_uid: version}, "missing"}
    Column("inputs", JSON, nullable=False),
    Column("destinations", JSON, nullable=False),  # names, "sender" already resolved
    Column("revision", Integer, nullable=False),
    Column("replaces", String(64), nullable=False, default=""),
    Column("config_digest", String(64), nullable=False),
    Column("series_number", Integer, nullable=False),
    Column("content_date", String(8), nullable=False),
    Column("content_time", String(13), nullable=False),
    Column("deadline_s", Float, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    # how many workers, one after the other, died or went silent with it in hand
    Column("lost", Integer, nullable=False, default=0, server_default="0"),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("stages", JSON, nullable=False, default=dict),  # stage -> seconds
    # [{"code", "facts"}]: why it is in its state, domain/reasons.py
    Column("reasons", JSON, nullable=False, default=list, server_default="[]"),
    # forms that its result was made into; those that gave no file, too
    Column("forms", JSON, nullable=False, default=list, server_default="[]"),
    # how it had ended before a form was asked for later: done | accepted | implausible
    Column("settled", String(16), nullable=False, default="", server_default=""),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("job_by_state", "state", "id"),
    Index("job_ready", "state", "model", "priority", "created_at", "id"),
    Index("job_oldest", "state", "model", "created_at", "id"),
    Index("job_by_model", "model", "id"),
    Index("job_by_study", "study_instance_uid"),
    Index("job_started", "started_at"),
    Index(
        "job_again",
        "id",
        sqlite_where=text(IS_TRIED_AGAIN),
        postgresql_where=text(IS_TRIED_AGAIN),
    ),
)

# A durable product of a job: the label volume, and each file that was made of it.
result = Table(
    "result",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, nullable=False),
    Column("form", String(16), nullable=False),  # labels, or a form of node.pipeline.forms
    # which part of the result, such as a region, where the form gives one file per part
    Column("part", String(64), nullable=False, default="", server_default=""),
    Column("file_name", String(200), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, default=""),
    Column("sop_class_uid", String(64), nullable=False, default=""),
    Column("series_instance_uid", String(64), nullable=False, default=""),
    Column("study_instance_uid", String(64), nullable=False, default=""),
    Column("summary", JSON, nullable=False, default=dict),  # segments, volumes in ml
    Column(
        "state", String(16), nullable=False, default="current"
    ),  # current | superseded | deleted
    Column("created_at", Float, nullable=False),
    UniqueConstraint("job_id", "form", "part"),
    Index("result_by_object", "sop_instance_uid"),
    Index("result_by_study", "study_instance_uid"),
    Index("result_by_state", "state", "id"),
    Index(
        "result_kept",
        "created_at",
        "id",
        sqlite_where=text(IS_KEPT),
        postgresql_where=text(IS_KEPT),
    ),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("result_id", Integer, nullable=False),
    Column("destination", String(80), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    # consecutive Cxxx answers: five of them block the row
    Column("refusals", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False, default=0.0),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("last_status", Integer),
    # like the reasons of a job
    Column("reasons", JSON, nullable=False, default=list, server_default="[]"),
    Column("config_digest", String(64), nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("sent_at", Float),
    UniqueConstraint("result_id", "destination"),
    Index("outbox_by_state", "state", "id"),
    Index("outbox_by_destination", "destination", "id"),
    Index("outbox_of_destination", "destination", "state", "id"),
    Index("outbox_due", "state", "destination", "next_at", "id"),
)

breaker = Table(
    "breaker",
    metadata,
    Column("destination", String(80), primary_key=True),
    Column("failures", Integer, nullable=False, default=0),
    Column("open_until", Float, nullable=False, default=0.0),
)
