"""A job has a result in each form that was asked for, each of one or more parts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("job", sa.Column("forms", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column(
        "job", sa.Column("settled", sa.String(length=16), nullable=False, server_default="")
    )
    with op.batch_alter_table("result") as result:
        result.add_column(
            sa.Column("part", sa.String(length=64), nullable=False, server_default="")
        )
    _widen_uniqueness()
    op.execute("UPDATE result SET form = 'seg' WHERE form = 'seg_binary'")
    # what ended before had one form; of what was found nothing there is no object
    op.execute(
        """
        UPDATE job SET forms = '["seg"]'
        WHERE state IN ('done', 'implausible')
        AND EXISTS (SELECT 1 FROM result WHERE result.job_id = job.id AND result.state <> 'deleted')
        """
    )


def _widen_uniqueness() -> None:
    """The constraint was made without a name; SQLite keeps none, PostgreSQL gave it one."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("result_job_id_form_key", "result", type_="unique")
        op.create_unique_constraint(None, "result", ["job_id", "form", "part"])
        return
    named = {"uq": "%(table_name)s_%(column_0_N_name)s_key"}
    with op.batch_alter_table("result", naming_convention=named) as result:
        result.drop_constraint("result_job_id_form_key", type_="unique")
        result.create_unique_constraint("result_job_id_form_part_key", ["job_id", "form", "part"])
