"""The work that was made of series, alone or in a set: how far it went, its end, what they became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from node.database.engine import reading, writing
from node.domain.job import DeliveryState, JobState, MatchState, Progress
from node.domain.reasons import Reason, ReasonCode, reasons_to_json
from node.jobs.revisions import drop_unwanted
from node.jobs.rows import hold_study
from node.jobs.tables import job, match, outbox, result

_DELIVERED = (DeliveryState.SENT.value, DeliveryState.WARNED.value)
_IN_WORK = (JobState.RUNNING.value, JobState.DONE.value)


class SeriesWork:
    """Reads and ends what rules made of series."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def furthest(self, study_instance_uid: str, series_instance_uid: str) -> Progress:
        """How far its work in force went."""
        with reading(self._engine) as connection:
            rows = _in_force(connection, study_instance_uid, series_instance_uid)
            jobs = [row.job_id for row in rows if row.job_id is not None]
            states = set(
                connection.execute(select(job.c.state).where(job.c.id.in_(jobs))).scalars()
            )
            sent = (
                select(outbox.c.id)
                .join(result, result.c.id == outbox.c.result_id)
                .where(result.c.job_id.in_(jobs), outbox.c.state.in_(_DELIVERED))
            )
            if connection.execute(sent).first() is not None:
                return Progress.DELIVERED
        if states.intersection(_IN_WORK):
            return Progress.IN_WORK
        return Progress.QUEUED if states else Progress.NO_JOB

    def supersede(
        self, study_instance_uid: str, series_instance_uid: str, revision: int, now: float
    ) -> None:
        """Close matches of the series before ``revision``, and the work that only they wanted.

        Also of rules that do not exist any more, and of sets that an older state is a part of.
        """
        why = Reason(ReasonCode.SUPERSEDED, {"revision": revision, "is_of_series": True})
        with writing(self._engine) as connection:
            hold_study(connection, study_instance_uid)
            older = [
                row
                for row in _in_force(connection, study_instance_uid, series_instance_uid)
                if _is_older(row, series_instance_uid, revision)
            ]
            connection.execute(
                update(match)
                .where(match.c.id.in_([row.id for row in older]))
                .values(
                    state=MatchState.SUPERSEDED.value,
                    reasons=reasons_to_json([why]),
                    updated_at=now,
                )
            )
            jobs = {row.job_id for row in older if row.job_id is not None}
            drop_unwanted(connection, jobs, why, now)

    def fates(self) -> Mapping[str, frozenset[MatchState]]:
        """Series Instance UID -> states of every match in force that it has a part in."""
        fates: dict[str, set[MatchState]] = {}
        statement = select(match.c.roles, match.c.state).where(
            match.c.state != MatchState.SUPERSEDED.value
        )
        with reading(self._engine) as connection:
            for row in connection.execute(statement):
                for uid in row.roles.values():
                    fates.setdefault(str(uid), set()).add(MatchState(row.state))
        return {uid: frozenset(states) for uid, states in fates.items()}


def _in_force(
    connection: Connection, study_instance_uid: str, series_instance_uid: str
) -> Sequence[Row[Any]]:
    """Matches that the series has a part in."""
    rows = connection.execute(
        select(match).where(
            match.c.study_instance_uid == study_instance_uid,
            match.c.state != MatchState.SUPERSEDED.value,
        )
    )
    return [row for row in rows if series_instance_uid in row.roles.values()]


def _is_older(row: Row[Any], series_instance_uid: str, revision: int) -> bool:
    is_set = row.series_key != series_instance_uid
    if is_set and row.job_id is None:
        return False  # judged anew with every change of its study
    return any(
        part["series_instance_uid"] == series_instance_uid and part["revision"] < revision
        for part in row.made_of.values()
    )
