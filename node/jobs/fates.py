"""What became of each series, over all rules: retention asks before it deletes."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, select

from node.database.engine import reading
from node.domain.job import MatchState
from node.jobs.tables import match


def fates_of_series(engine: Engine) -> Mapping[str, frozenset[MatchState]]:
    """Series Instance UID -> states of every match in force that it has a part in."""
    fates: dict[str, set[MatchState]] = {}
    statement = select(match.c.roles, match.c.state).where(match.c.state != "superseded")
    with reading(engine) as connection:
        for row in connection.execute(statement):
            for uid in row.roles.values():
                fates.setdefault(str(uid), set()).add(MatchState(row.state))
    return {uid: frozenset(states) for uid, states in fates.items()}
