"""Rows keep facts: what a match is made of, and reasons as codes with facts in place of sentences.

Of a row that is there all that is known is its sentence. It becomes what was ``told`` of its first
code, without the commands at its end, which are named anew whenever the row is shown.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

Row: TypeAlias = Mapping[str, Any]

_BATCH = 500
# a column is dropped in place where SQLite can: a copy of the table takes its size once more
RECREATE: Literal["auto", "never"] = "never" if sqlite3.sqlite_version_info >= (3, 35) else "auto"


def upgrade() -> None:
    op.add_column("match", sa.Column("made_of", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("outbox", sa.Column("reasons", sa.JSON(), nullable=False, server_default="[]"))
    _convert("match", "id", lambda row: {**_made_of(row), "reasons": _reasons(row)})
    _convert("job", "id", lambda row: {"reasons": _reasons(row)})
    _convert("outbox", "id", lambda row: {"reasons": _delivery(row)})
    _convert(
        "series",
        "series_instance_uid",
        lambda row: {"reasons": _reasons(row), "gate": _gate(_json(row["gate"]))},
    )
    for table in ("match", "job", "outbox", "series"):
        with op.batch_alter_table(table, recreate=RECREATE) as batch:
            batch.drop_column("sentence")


def _convert(table: str, key: str, values_of: Callable[[Row], Row]) -> None:
    connection = op.get_bind()
    some = sa.text(
        f'SELECT * FROM "{table}" WHERE {key} > :after ORDER BY {key} LIMIT {_BATCH}'  # noqa: S608
    )
    after: Any = 0 if key == "id" else ""
    while rows := connection.execute(some, {"after": after}).mappings().all():
        after = rows[-1][key]
        made = [{"_key": row[key], **values_of(dict(row))} for row in rows]
        names = [name for name in made[0] if name != "_key"]
        its = sa.table(table, sa.column(key), *(sa.column(name, sa.JSON()) for name in names))
        values: dict[str, Any] = {name: sa.bindparam(name) for name in names}
        connection.execute(
            its.update().where(its.c[key] == sa.bindparam("_key")).values(values), made
        )


def _made_of(row: Row) -> Row:
    """Role -> series and revision; the match of a set told it as "UID@2" in its explanation."""
    roles, explanation = _json(row["roles"]), _json(row["explanation"])
    if row["series_key"] != row["study_instance_uid"]:
        parts = {role: _part(uid, row["revision"]) for role, uid in roles.items()}
        return {"made_of": parts, "explanation": explanation}
    told = {role: str(part).partition("@") for role, part in (explanation or {}).items()}
    parts = {role: _part(uid, int(of or 1)) for role, (uid, _, of) in told.items()}
    return {"made_of": parts, "explanation": None}


def _part(series_instance_uid: str, of_revision: int) -> Row:
    return {"series_instance_uid": series_instance_uid, "revision": of_revision}


def _reasons(row: Row) -> list[Row]:
    codes, said = _json(row["reasons"]), _without_commands(row)
    reasons: list[Row] = []
    if "images_missing" in codes and "inputs" in row:
        parts = _missing(_json(row["inputs"]))
        codes = [code for code in codes if code != "images_missing"]
        reasons.append({"code": "images_missing", "facts": {"parts": parts}})
        said = said.replace(f"made of {_made_of_part(parts)}", "").strip("; ")
    if said:
        reasons.append(_told(codes[0] if codes else "told", said))
    # the sentence says all of them at once
    return reasons + [_told(code, "") for code in (codes[1:] if said else codes)]


def _missing(inputs: Mapping[str, Row]) -> list[tuple[str, int, int]]:
    return [
        (role if len(inputs) > 1 else "", len(given["instances"]), int(given["missing"]))
        for role, given in inputs.items()
        if given.get("missing")
    ]


def _made_of_part(parts: Iterable[tuple[str, int, int]]) -> str:
    return ", ".join(
        f"{role + ' ' if role else ''}{count} of {count + missing} images"
        for role, count, missing in parts
    )


def _delivery(row: Row) -> list[Row]:
    if not row["sentence"]:
        return []
    if row["state"] == "blocked":
        said = row["sentence"].removesuffix(f": deliveries retry {row['id']} tries again")
        return [_told("delivery_blocked", said)]
    code = "no_destination" if row["state"] == "no_destination" else "told"
    return [_told(code, row["sentence"])]


def _without_commands(row: Row) -> str:
    """The sentence of a series, match or job without what is added whenever it is shown."""
    said = str(row["sentence"]).removeprefix("implausible: ")
    for command in _commands(row):
        head, found, rest = said.partition(command)
        # an operator who took a result is told behind the command
        said = head + (rest if rest.startswith(";") else "") if found else said
    return said


def _commands(row: Row) -> Iterable[str]:
    roles = _json(row.get("roles")) or {"": ""}
    uid = row.get("series_instance_uid") or next(iter(roles.values()))
    job = row.get("job_id") or row.get("id")
    return (
        f": judge again with: segnode series rerun {uid}",
        f"; go on without them with: segnode series proceed {uid}",
        f"; free it with: segnode series proceed {uid}",
        f"; run again with: segnode series rerun {uid}",
        f"; to leave it alone: segnode series discard {uid}",
        f": not delivered until: segnode jobs accept {job}",
    )


def _gate(gate: Any) -> Any:
    """Findings as sentences beside their codes, and notes as sentences."""
    if not gate:
        return gate
    codes = gate.get("reasons") or []
    findings = [_told("told", said) for said in gate.get("findings", ())]
    if findings and codes:
        findings = [
            {**finding, "code": codes[min(index, len(codes) - 1)]}
            for index, finding in enumerate(findings)
        ]
    return {"findings": findings, "notes": [_told("told", said) for said in gate.get("notes", ())]}


def _told(code: str, said: str) -> Row:
    return {"code": code, "facts": {"told": said}}


def _json(value: Any) -> Any:
    """SQLite gives JSON as text, PostgreSQL as what it says."""
    return json.loads(value) if isinstance(value, str) else value
