"""The tables of the first version."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "int": sa.Integer(),
    "float": sa.Float(),
    "bool": sa.Boolean(),
    "json": sa.JSON(),
    "text": sa.Text(),
}


def upgrade() -> None:
    _table(
        "association",
        "id 32, road 8, peer 64, calling_ae_title 16, called_ae_title 16, address 64, "
        "http_user 64, opened_at float, heartbeat_at float, closed_at float?, end 8?",
    )
    op.create_index("association_open", "association", ["closed_at"], unique=False)
    _table("breaker", "destination 80, failures int, open_until float")
    _table(
        "event",
        "id int, at float, kind 32, series_instance_uid 64, sop_instance_uid 64, sentence text",
    )
    _table(
        "instance",
        "id int, sop_instance_uid 64, version int, sop_class_uid 64, transfer_syntax_uid 64, "
        "study_instance_uid 64, series_instance_uid 64, file_name 200, data_offset int, "
        "size_bytes int, received_sha256 64, pixel_identity 64, is_input bool, "
        "received_at float, association_id 32, road 8, peer 64, calling_ae_title 16, "
        "called_ae_title 16, address 64, http_user 64, file_deleted_at float?",
        unique=("sop_instance_uid", "version"),
    )
    op.create_index("instance_by_association", "instance", ["association_id"], unique=False)
    op.create_index("instance_by_series", "instance", ["series_instance_uid"], unique=False)
    _table(
        "job",
        "id int, job_key 64, state 16, priority int, model 64, model_digest 64, "
        "parameters json, study_instance_uid 64, inputs json, destinations json, "
        "revision int, replaces 64, config_digest 64, series_number int, content_date 8, "
        "content_time 13, deadline_s float, attempts int, owner 64?, lease_until float?, "
        "not_before float, stages json, sentence text, created_at float, started_at float?, "
        "finished_at float?",
        unique=("job_key",),
    )
    op.create_index("job_by_study", "job", ["study_instance_uid"], unique=False)
    op.create_index("job_ready", "job", ["state", "priority", "created_at"], unique=False)
    op.create_index("job_started", "job", ["started_at"], unique=False)
    _table(
        "match",
        "id int, rule 128, study_instance_uid 64, series_key 600, roles json, revision int, "
        "state 16, sentence text, explanation json?, job_id int?, created_at float, "
        "updated_at float",
        unique=("rule", "series_key", "revision"),
    )
    op.create_index("match_by_job", "match", ["job_id"], unique=False)
    op.create_index("match_by_series", "match", ["series_key"], unique=False)
    _table(
        "outbox",
        "id int, result_id int, destination 80, state 16, attempts int, refusals int, "
        "next_at float, owner 64?, lease_until float?, last_status int?, sentence text, "
        "config_digest 64, created_at float, sent_at float?",
        unique=("result_id", "destination"),
    )
    op.create_index("outbox_by_destination", "outbox", ["destination", "state"], unique=False)
    op.create_index("outbox_ready", "outbox", ["state", "next_at"], unique=False)
    _table("peer_habit", "peer 80, splits_series bool, learned_at float")
    _table(
        "quarantine",
        "id int, file_name 200, size_bytes int, sop_instance_uid 64, series_instance_uid 64, "
        "dimse_status int, reason text, received_at float, road 8, peer 64, "
        "calling_ae_title 16, address 64, state 16",
    )
    _table(
        "result",
        "id int, job_id int, form 16, file_name 200, size_bytes int, sha256 64, "
        "sop_instance_uid 64, sop_class_uid 64, series_instance_uid 64, "
        "study_instance_uid 64, summary json, state 16, created_at float",
        unique=("job_id", "form"),
    )
    _table(
        "series",
        "series_instance_uid 64, study_instance_uid 64, patient_id 64, patient_name text, "
        "modality 16, series_description text, header json, instances int, frames int, "
        "first_received_at float, last_received_at float, revision int, snapshot json?, "
        "state 16, evidence 32, expected_instances int?, gate json?, sentence text, "
        "forced 16, newest_row int, guard int, updated_at float",
    )
    op.create_index("series_by_state", "series", ["state"], unique=False)
    op.create_index("series_by_study", "series", ["study_instance_uid"], unique=False)


def _table(name: str, columns: str, unique: Sequence[str] = ()) -> None:
    """Create a table whose first column is its key.

    Args:
        columns: Name and type of each, the type of a short text being its length; ``?``: it may be null.
    """
    made = [_column(*column.split()) for column in columns.split(", ")]
    constraints: list[sa.Constraint] = [sa.PrimaryKeyConstraint(made[0].name)]
    if unique:
        constraints.append(sa.UniqueConstraint(*unique))
    op.create_table(name, *made, *constraints)


def _column(name: str, kind: str) -> sa.Column[Any]:
    plain = kind.removesuffix("?")
    type_ = sa.String(int(plain)) if plain.isdigit() else _TYPES[plain]
    return sa.Column(name, type_, nullable=kind != plain)
