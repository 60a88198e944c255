"""Losses, since when somebody listens, and reasons as codes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "loss",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("image", sa.String(length=512), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association_id", sa.String(length=32), nullable=False),
        sa.Column("dimse_status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("lost_at", sa.Float(), nullable=False),
        sa.Column("settled_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("series_instance_uid", "image"),
    )
    op.create_index("loss_by_association", "loss", ["association_id"], unique=False)
    op.create_table(
        "listener",
        sa.Column("road", sa.String(length=8), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("road"),
    )
    for table in ("series", "match", "job"):
        op.add_column(table, sa.Column("reasons", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("series", sa.Column("missing", sa.Integer(), nullable=False, server_default="0"))
    op.add_column(
        "quarantine", sa.Column("source", sa.String(length=512), nullable=False, server_default="")
    )
