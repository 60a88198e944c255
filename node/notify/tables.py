"""Notices and their deliveries: rows of what people are told of the node."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData()

# in a query it must stand as it does here: a planner compares texts to find the partial index
IS_OPEN = "over_at IS NULL"

# Something that is, or was, the matter.
notice = Table(
    "notice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("code", String(32), nullable=False),
    Column("subject", String(128), nullable=False, default=""),
    Column("facts", JSON, nullable=False, default=dict),
    Column("began_at", Float, nullable=False),
    Column("over_at", Float),
    # one that is open stands for all that look: two processes that see the same make one row
    Index(
        "notice_open",
        "code",
        "subject",
        unique=True,
        sqlite_where=text(IS_OPEN),
        postgresql_where=text(IS_OPEN),
    ),
    Index("notice_over", "over_at", "id"),
    Index("notice_about", "code", "subject", "id"),
)

# What of it is told whom.
notice_delivery = Table(
    "notice_delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("notice_id", Integer, nullable=False),
    Column("notifier", String(64), nullable=False),
    Column("course", String(8), nullable=False),  # began | grew | over
    Column("state", String(8), nullable=False),  # waiting | told | left | given up
    Column("at", Float, nullable=False),  # when it became so
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),
    Column("told_at", Float),
    Column("sentence", Text, nullable=False, default=""),  # why not yet
    Index("notice_delivery_state", "state", "id"),
    Index("notice_delivery_of", "notice_id", "notifier"),
)

# Which process looks after the node: one row.
watcher = Table(
    "watcher",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("until", Float, nullable=False),
)
