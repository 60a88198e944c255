"""What a match is made of gets a column of its own."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("match", sa.Column("made_of", sa.JSON(), nullable=False, server_default="{}"))
    connection = op.get_bind()
    for row in connection.execute(sa.text('SELECT * FROM "match"')).mappings().all():
        made_of, explanation = _made_of(dict(row))
        connection.execute(
            sa.text('UPDATE "match" SET made_of = :made_of, explanation = :told WHERE id = :id'),
            {"made_of": json.dumps(made_of), "told": json.dumps(explanation), "id": row["id"]},
        )


def _made_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Role -> series and revision; the match of a set told it as "UID@2" in its explanation."""
    roles, explanation = _json(row["roles"]), _json(row["explanation"])
    if row["series_key"] != row["study_instance_uid"]:
        return {role: _part(uid, row["revision"]) for role, uid in roles.items()}, explanation
    parts = (explanation or {}).items()
    told = {role: str(part).partition("@") for role, part in parts}
    return {role: _part(uid, int(of or 1)) for role, (uid, _, of) in told.items()}, None


def _part(series_instance_uid: str, of_revision: int) -> dict[str, Any]:
    return {"series_instance_uid": series_instance_uid, "revision": of_revision}


def _json(value: Any) -> Any:
    """SQLite gives JSON as text, PostgreSQL as what it says."""
    return json.loads(value) if isinstance(value, str) else value
