"""Results: the durable products of jobs, and how their files enter the outbox.

Files come first, rows second: a row is written when its file is synced, and what has a row is never
computed or encoded again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, exists, select, text, update

from node.database.engine import (
    column_of,
    columns_of,
    inserting,
    reading,
    stored,
    value_of,
    writing,
)
from node.domain.delivery import FormsTaken
from node.domain.errors import LeaseLost, NodeError, ResultRefused
from node.domain.job import DeliveryState, JobState, Settled
from node.domain.reasons import Reason, ReasonCode, reasons_to_json, tells_implausible
from node.jobs.leases import finish_held, held
from node.jobs.matches import deciding, hold_study, is_wanted, tell_state
from node.jobs.revisions import kept_back, mark_superseded, restore, why_kept_back
from node.jobs.tables import IS_KEPT, job, outbox, result
from node.jobs.values import LABELS, ResultFile, StoredResult

# What still has to leave keeps its file
_UNFINISHED_DELIVERIES = stored(DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.BLOCKED)
_UNFINISHED_JOBS = stored(JobState.QUEUED, JobState.RUNNING)

QUEUED_AFRESH = {
    "state": JobState.QUEUED.value,
    "attempts": 0,
    "lost": 0,
    "not_before": 0.0,
    "finished_at": None,
}
_HOW_IT_ENDED = {
    JobState.DONE.value: Settled.DONE,
    JobState.IMPLAUSIBLE.value: Settled.IMPLAUSIBLE,
}


class ResultStore:
    """One row per (job, form, part)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put_labels(
        self, job_id: int, owner: str, file: ResultFile, now: float | None = None
    ) -> int:
        """Record what the model made; from here on a retry skips the run.

        Raises:
            LeaseLost: The job is in other hands.
            ResultRefused: This job has other labels already.
        """
        with deciding(self._engine, now) as (connection, now):
            return _put(connection, job_id, owner, file, now)

    def put_results(
        self,
        job_id: int,
        owner: str,
        files: Sequence[ResultFile],
        *,
        forms: Collection[str],
        taken: FormsTaken | None = None,
        reasons: Sequence[Reason] = (),
        is_kept_back: bool = False,
        now: float | None = None,
    ) -> tuple[int, ...]:
        """Record files of a result, their deliveries and the end of the job: all or nothing.

        Each destination of the job gets the forms that it takes. Deliveries of a job that no match
        wants any more are made ``withheld``, as are those of one that is kept back. A form that was
        asked for meanwhile queues the job again.

        Args:
            forms: What was made, whether or not it gave a file.
            reasons: How the job ended, and what is the matter with the result.
            is_kept_back: The job ends ``implausible``: a person decides whether it is delivered.
        Returns:
            Rows of the files, in their order.
        Raises:
            LeaseLost: The job is in other hands, and nothing is recorded.
            ResultRefused: This job has another file of a form and part already.
        """
        with deciding(self._engine, now) as (connection, now):
            row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
            if row is None:
                raise LeaseLost(f"job {job_id}", owner)
            hold_study(connection, row.study_instance_uid)
            ids = tuple(_put(connection, job_id, owner, file, now) for file in files)
            if ids and _has_ended(connection, job_id):
                return ids  # all of it was recorded before
            wanted = is_wanted(connection, job_id)
            state = JobState.DONE
            if is_kept_back:
                state = JobState.IMPLAUSIBLE if wanted else JobState.CANCELLED
            row = finish_held(connection, job_id, owner, reasons, now, state=state, forms=forms)
            withheld = None if wanted else Reason(ReasonCode.SUPERSEDED)
            if wanted and is_kept_back:
                withheld = kept_back(job_id)
            give(connection, row, row.destinations, taken or FormsTaken(), now, withheld=withheld)
            if wanted and not is_kept_back:
                mark_superseded(connection, job_id, row.replaces)
                # an earlier attempt may have kept it back, under other settings
                if tells_implausible(reasons):
                    restore(connection, job_id, now)
        return ids

    def files_of(self, job_id: int) -> list[StoredResult]:
        """The files of a job's result that are still there; not its labels."""
        with reading(self._engine) as connection:
            return files_of(connection, job_id)

    def retire(
        self, before: float, *, undecided_before: float = -inf, limit: int = 500
    ) -> tuple[StoredResult, ...]:
        """Turn a batch of old results into tombstones, unless something unfinished needs them.

        The caller removes the files of what is returned; a crash before that leaves files that no
        row names as kept.

        Args:
            before: Results that were made earlier are old.
            undecided_before: The same for those that are implausible and that nobody took.
        """
        needed = exists().where(
            outbox.c.result_id == result.c.id, outbox.c.state.in_(_UNFINISHED_DELIVERIES)
        )
        its_job = job.c.id == result.c.job_id
        # the labels of an unfinished job are what its next attempt starts from
        unfinished = exists().where(its_job, job.c.state.in_(_UNFINISHED_JOBS))
        undecided = exists().where(its_job, job.c.state == JobState.IMPLAUSIBLE.value)
        is_young = result.c.created_at >= undecided_before
        goes = and_(text(IS_KEPT), ~needed, ~unfinished, ~(undecided & is_young))
        old = select(result.c.id).where(result.c.created_at < before, goes)
        ids = column_of(self._engine, old.order_by(result.c.created_at, result.c.id).limit(limit))
        if not ids:
            return ()
        buried = update(result).where(result.c.id.in_(ids), goes).values(state="deleted")
        with writing(self._engine) as connection:
            rows = connection.execute(buried.returning(*result.c))
            gone = tuple(result_of(row) for row in rows)
            for job_id in {made.job_id for made in gone}:
                # whoever asks for these again has them made again
                deleted = {made.file.form for made in gone if made.job_id == job_id}
                row = connection.execute(select(job.c.forms).where(job.c.id == job_id)).one()
                forms = [form for form in row.forms if form not in deleted]
                connection.execute(update(job).where(job.c.id == job_id).values(forms=forms))
        return gone

    def kept_files(self, job_ids: Collection[int]) -> frozenset[str]:
        """Names of the files that rows of these jobs name, and nobody deleted."""
        of_jobs = select(result.c.file_name).where(result.c.job_id.in_(job_ids), text(IS_KEPT))
        return frozenset(column_of(self._engine, of_jobs))


def _has_ended(connection: Connection, job_id: int) -> bool:
    state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one()
    return state not in (JobState.QUEUED.value, JobState.RUNNING.value)


def _put(connection: Connection, job_id: int, owner: str, file: ResultFile, now: float) -> int:
    """Insert a result of a held job; the same result again is the same row."""
    same = select(result).where(
        *(result.c.job_id == job_id, result.c.form == file.form, result.c.part == file.part)
    )
    there = connection.execute(same).one_or_none()
    if there is not None and there.state != "deleted":
        if there.sha256 != file.sha256:
            part = f" of {file.part}" if file.part else ""
            raise ResultRefused([f"job {job_id} has another {file.form}{part} already"])
        return int(there.id)
    held(connection, job_id, owner)
    values = {**columns_of(file), "summary": dict(file.summary)}
    values |= {"state": "current", "created_at": now}
    if there is not None:
        connection.execute(update(result).where(result.c.id == there.id).values(**values))
        return int(there.id)
    statement = result.insert().values(job_id=job_id, **values)
    return int(connection.execute(statement).inserted_primary_key[0])  # type: ignore[index]


def give(
    connection: Connection,
    row: Row[Any],
    destinations: Collection[str],
    taken: FormsTaken,
    now: float,
    *,
    withheld: Reason | None = None,
) -> None:
    """Let destinations have a job's result, each in the forms that it takes.

    What is made of it is delivered; a form that is not made yet queues a job that has ended again.
    Its labels are durable, so its next attempt only encodes and verifies; where retention took them
    the model runs once more.

    Args:
        row: Of the job; these are destinations of it already.
        withheld: Why nothing may leave now, if it may not.
    """
    for made in files_of(connection, row.id):
        takers = taken.takers(made.file.form, destinations)
        add_rows(connection, made.id, takers, now, withheld=withheld)
    if row.state not in _HOW_IT_ENDED:
        return  # an unfinished job is made into all that its destinations take when it ends
    if set(taken.of_all(destinations)) <= set(row.forms):
        return
    settled = _HOW_IT_ENDED[row.state]
    if row.settled == Settled.ACCEPTED:
        settled = Settled.ACCEPTED
    values = {**QUEUED_AFRESH, "settled": settled.value}
    connection.execute(update(job).where(job.c.id == row.id).values(**values))
    tell_state(connection, row.id, JobState.QUEUED, now)


def give_more(
    connection: Connection,
    job_id: int,
    destinations: Collection[str],
    taken: FormsTaken,
    now: float,
) -> None:
    """Give a job's result to destinations that may be new to it.

    Raises:
        NodeError: There is no such job.
    """
    row = job_of_held_study(connection, job_id)
    together = list(dict.fromkeys([*row.destinations, *destinations]))
    connection.execute(update(job).where(job.c.id == job_id).values(destinations=together))
    give(connection, row, destinations, taken, now, withheld=why_kept_back(row))


def job_of_held_study(connection: Connection, job_id: int) -> Row[Any]:
    """The row of a job, as it is once its study is held.

    Raises:
        NodeError: There is no such job.
    """
    wanted = select(job).where(job.c.id == job_id)
    row = connection.execute(wanted).one_or_none()
    if row is None:
        raise NodeError(f"there is no job {job_id}")
    hold_study(connection, row.study_instance_uid)
    return connection.execute(wanted).one()


def add_rows(
    connection: Connection,
    result_id: int,
    destinations: Iterable[str],
    now: float,
    *,
    withheld: Reason | None = None,
) -> None:
    """Add deliveries of a result that are not there yet, in the transaction of its maker.

    Args:
        destinations: Names; the empty name stands for a sender that nobody knows: the result is kept
            and an operator sees that it went nowhere.
        withheld: Why the rows must not be sent, if they must not.
    """
    for name in dict.fromkeys(destinations):
        state, why = DeliveryState.WAITING, None
        if not name:
            state, why = DeliveryState.NO_DESTINATION, Reason(ReasonCode.NO_DESTINATION)
        elif withheld is not None:
            state, why = DeliveryState.WITHHELD, withheld
        row = inserting(connection, outbox).values(
            result_id=result_id,
            destination=name,
            state=state.value,
            reasons=reasons_to_json([why] if why is not None else ()),
            next_at=now,
            created_at=now,
        )
        connection.execute(row.on_conflict_do_nothing())


def result_of(row: Row[Any]) -> StoredResult:
    return value_of(StoredResult, row, file=value_of(ResultFile, row))


def files_of(connection: Connection, job_id: int) -> list[StoredResult]:
    """The files of a job's result that may be delivered and are still there; not its labels."""
    rows = connection.execute(
        select(result)
        .where(result.c.job_id == job_id, result.c.state != "deleted", result.c.form != LABELS)
        .order_by(result.c.id)
    )
    return [result_of(row) for row in rows]


def is_any_deleted(connection: Connection, job_id: int) -> bool:
    """Whether retention took a file of a job's result; its labels do not count."""
    its = select(result.c.id).where(result.c.job_id == job_id, result.c.form != LABELS)
    return connection.execute(its.where(result.c.state == "deleted")).first() is not None
