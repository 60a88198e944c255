"""How many matches are in each state."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, func, select

from node.database.engine import reading
from node.jobs.tables import match


def count_matches(engine: Engine) -> Mapping[str, int]:
    """State -> number of matches in force; superseded revisions are left out."""
    statement = (
        select(match.c.state, func.count().label("number"))
        .where(match.c.state != "superseded")
        .group_by(match.c.state)
    )
    with reading(engine) as connection:
        return {row.state: row.number for row in connection.execute(statement)}
