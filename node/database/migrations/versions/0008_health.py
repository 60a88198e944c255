"""Jobs that wait for another attempt, found without looking at all that wait."""

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
