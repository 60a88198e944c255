"""How an instance came in is called its transport."""

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = ("association", "instance", "quarantine", "listener")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN road TO transport")
