"""Retention over the work: what unfinished work of a study needs still, and the end of its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, delete, select

from node.database.engine import stored
from node.domain.job import DeliveryState, JobState, MatchState
from node.jobs.tables import job, match, outbox, result

_UNFINISHED_MATCHES = stored(MatchState.RECEIVING, MatchState.QUEUED, MatchState.RUNNING)
_UNFINISHED_JOBS = stored(JobState.QUEUED, JobState.RUNNING)
_UNFINISHED_DELIVERIES = stored(DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.BLOCKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyWork:
    """What rules made of the series of one study.

    Jobs of the study are those that it owns and those that its matches name: studies with the same
    pixels share a job, which the first of them owns.

    Args:
        fates: Series Instance UID -> states of the matches in force that it has a part in.
        in_use: Series that its unfinished jobs read.
        is_over: Nothing of it waits, runs or is to be delivered, and no file of a result is left.
        changed_at: When something of it changed last.
        named_by: Other studies whose matches name a job that it owns.
    """

    fates: Mapping[str, frozenset[MatchState]]
    in_use: frozenset[str]
    is_over: bool
    changed_at: float
    named_by: frozenset[str]


def work_of(connection: Connection, studies: Collection[str]) -> Mapping[str, StudyWork]:
    """Study Instance UID -> its work; the same number of queries for any number of studies."""
    gathered = {uid: _Gathered() for uid in studies}
    whose: dict[int, set[str]] = {}  # job -> studies of these that own or name it
    of_matches = select(
        *(match.c.study_instance_uid, match.c.roles, match.c.state),
        *(match.c.job_id, match.c.updated_at),
    ).where(match.c.study_instance_uid.in_(studies))
    for row in connection.execute(of_matches):
        gathered[row.study_instance_uid].note_match(row.roles.values(), row.state, row.updated_at)
        if row.job_id is not None:
            whose.setdefault(row.job_id, set()).add(row.study_instance_uid)
    owned = select(job.c.id, job.c.study_instance_uid).where(job.c.study_instance_uid.in_(studies))
    owner: dict[int, str] = {row.id: row.study_instance_uid for row in connection.execute(owned)}
    for job_id, study in owner.items():
        whose.setdefault(job_id, set()).add(study)
    of = {job_id: [gathered[uid] for uid in owners] for job_id, owners in whose.items()}
    _note_jobs(connection, of)
    _note_products(connection, of)
    # a question of its own: as one with the jobs PostgreSQL joins over all matches
    namers = select(match.c.job_id, match.c.study_instance_uid).where(match.c.job_id.in_(owner))
    for job_id, namer in connection.execute(namers):
        if namer != owner[job_id]:
            gathered[owner[job_id]].named_by.add(namer)
    return {uid: one.work() for uid, one in gathered.items()}


def hold_work(connection: Connection, study_instance_uid: str) -> None:
    """Let nobody else change the jobs and deliveries of a study until the transaction ends.

    SQLite has one writer anyway.
    """
    if connection.dialect.name != "postgresql":
        return
    its = job.c.study_instance_uid == study_instance_uid
    connection.execute(select(job.c.id).where(its).with_for_update()).all()
    given = outbox.c.result_id.in_(_results(its))
    connection.execute(select(outbox.c.id).where(given).with_for_update()).all()


def has_newest_work(connection: Connection, study_instance_uid: str) -> bool:
    """Whether the newest job, result or delivery is of this study: no number is given twice."""
    owner = select(job.c.study_instance_uid)
    with_result = owner.join(result, result.c.job_id == job.c.id)
    with_delivery = with_result.join(outbox, outbox.c.result_id == result.c.id)
    newest = (
        owner.order_by(job.c.id.desc()),
        with_result.order_by(result.c.id.desc()),
        with_delivery.order_by(outbox.c.id.desc()),
    )
    return any(
        connection.execute(query.limit(1)).scalar_one_or_none() == study_instance_uid
        for query in newest
    )


def delete_work(connection: Connection, study_instance_uid: str) -> None:
    """Delete all rows of a study that is over."""
    its = job.c.study_instance_uid == study_instance_uid
    results = _results(its)
    connection.execute(delete(outbox).where(outbox.c.result_id.in_(results)))
    connection.execute(delete(result).where(result.c.id.in_(results)))
    connection.execute(delete(match).where(match.c.study_instance_uid == study_instance_uid))
    connection.execute(delete(job).where(its))


def _results(of_jobs: ColumnElement[bool]) -> Select[tuple[int]]:
    return select(result.c.id).join(job, job.c.id == result.c.job_id).where(of_jobs)


def _note_jobs(connection: Connection, of: Mapping[int, Iterable[_Gathered]]) -> None:
    times = (job.c.created_at, job.c.started_at, job.c.finished_at)
    unfinished = []
    for row in connection.execute(
        select(job.c.id, job.c.state, *times).where(job.c.id.in_(list(of)))
    ):
        is_unfinished = row.state in _UNFINISHED_JOBS
        unfinished += [row.id] if is_unfinished else []
        for one in of[row.id]:
            one.note(is_unfinished, row.created_at, row.started_at, row.finished_at)
    inputs = select(job.c.id, job.c.inputs).where(job.c.id.in_(unfinished))
    for job_id, roles in connection.execute(inputs):
        for one in of[job_id]:
            one.in_use.update(str(role["series_instance_uid"]) for role in roles.values())


def _note_products(connection: Connection, of: Mapping[int, Iterable[_Gathered]]) -> None:
    """Files and deliveries: a result is done with when its file is gone and nothing has to leave."""
    of_results = (
        select(
            *(result.c.job_id, result.c.state.label("file"), result.c.created_at),
            *(outbox.c.state, outbox.c.created_at.label("given_at"), outbox.c.sent_at),
        )
        .outerjoin(outbox, outbox.c.result_id == result.c.id)
        .where(result.c.job_id.in_(list(of)))
    )
    for row in connection.execute(of_results):
        is_needed = row.file != "deleted" or row.state in _UNFINISHED_DELIVERIES
        for one in of[row.job_id]:
            one.note(is_needed, row.created_at, row.given_at, row.sent_at)


class _Gathered:
    """The work of one study while rows are read."""

    def __init__(self) -> None:
        self.fates: dict[str, set[MatchState]] = {}
        self.in_use: set[str] = set()
        self.named_by: set[str] = set()
        self._is_over = True
        self._changed_at = 0.0

    def note_match(self, series: Iterable[str], state: str, updated_at: float) -> None:
        self.note(state in _UNFINISHED_MATCHES, updated_at)
        if state != MatchState.SUPERSEDED:
            for uid in series:
                self.fates.setdefault(uid, set()).add(MatchState(state))

    def note(self, is_unfinished: bool, *times: float | None) -> None:
        """A row of the study: whether it is still needed, and when it changed."""
        self._is_over &= not is_unfinished
        self._changed_at = max(self._changed_at, *(time or 0.0 for time in times))

    def work(self) -> StudyWork:
        return StudyWork(
            fates={uid: frozenset(states) for uid, states in self.fates.items()},
            in_use=frozenset(self.in_use),
            is_over=self._is_over,
            changed_at=self._changed_at,
            named_by=frozenset(self.named_by),
        )
