"""Jobs that wait for another attempt, found without looking at all that wait; notices to people."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_IS_TRIED_AGAIN = "state = 'queued' AND attempts > 0"


def upgrade() -> None:
    op.create_index(
        "job_again",
        "job",
        ["id"],
        sqlite_where=sa.text(_IS_TRIED_AGAIN),
        postgresql_where=sa.text(_IS_TRIED_AGAIN),
    )
    op.create_table(
        "notice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("over_at", sa.Float()),
        sa.PrimaryKeyConstraint("id"),
    )
    is_open = sa.text("over_at IS NULL")
    op.create_index(
        "notice_open",
        "notice",
        ["code", "subject"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("notice_over", "notice", ["over_at", "id"])
    op.create_index("notice_about", "notice", ["code", "subject", "id"])
    op.create_table(
        "notice_delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notice_id", sa.Integer(), nullable=False),
        sa.Column("notifier", sa.String(64), nullable=False),
        sa.Column("course", sa.String(8), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("told_at", sa.Float()),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("notice_delivery_state", "notice_delivery", ["state", "id"])
    op.create_index("notice_delivery_of", "notice_delivery", ["notice_id", "notifier"])
    op.create_table(
        "watcher",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
