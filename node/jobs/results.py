"""Results: the durable products of jobs, and how their files enter the outbox.

Files come first, rows second: a row is written when its file is synced, and what has a row is never
computed or encoded again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Engine, and_, exists, select, update

from node.database.engine import reading, writing
from node.domain.delivery import FormsTaken
from node.domain.errors import LeaseLost, ResultRefused
from node.domain.job import DeliveryState, JobState
from node.domain.reasons import Reason, ReasonCode, tells_implausible
from node.jobs.giving import give
from node.jobs.leases import finish_held, held
from node.jobs.matches import is_wanted
from node.jobs.outbox_rows import kept_back
from node.jobs.revisions import mark_superseded, restore
from node.jobs.rows import clock, files_of, hold_study, result_of
from node.jobs.tables import job, outbox, result
from node.jobs.values import ResultFile, StoredResult

# What still has to leave keeps its file
_UNFINISHED = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.BLOCKED)
_UNFINISHED_JOBS = (JobState.QUEUED.value, JobState.RUNNING.value, JobState.IMPLAUSIBLE.value)


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
        with writing(self._engine) as connection:
            return _put(connection, job_id, owner, file, clock(connection, now))

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
        taken = taken or FormsTaken()
        with writing(self._engine) as connection:
            now = clock(connection, now)
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
            give(connection, row, row.destinations, taken, now, withheld=withheld)
            if wanted and not is_kept_back:
                mark_superseded(connection, job_id, row.replaces)
                if tells_implausible(
                    reasons
                ):  # an earlier attempt may have kept it back, under other settings
                    restore(connection, job_id, now)
        return ids

    def get(self, result_id: int) -> StoredResult | None:
        """One result."""
        with reading(self._engine) as connection:
            row = connection.execute(select(result).where(result.c.id == result_id)).one_or_none()
        return result_of(row) if row is not None else None

    def files_of(self, job_id: int) -> list[StoredResult]:
        """The files of a job's result that are still there, in order of form and part; not its labels."""
        with reading(self._engine) as connection:
            return files_of(connection, job_id)

    def retire(self, before: float) -> tuple[StoredResult, ...]:
        """Turn results made before a time into tombstones, unless something unfinished needs them.

        The caller removes the files of what is returned; a crash before that leaves files whose
        row says ``deleted``, which any later sweep may remove.
        """
        needed = exists().where(
            and_(
                outbox.c.result_id == result.c.id,
                outbox.c.state.in_([state.value for state in _UNFINISHED]),
            )
        )
        # the labels of an unfinished job are what its next attempt starts from
        unfinished = exists().where(
            and_(job.c.id == result.c.job_id, job.c.state.in_(_UNFINISHED_JOBS))
        )
        statement = (
            update(result)
            .where(result.c.created_at < before, result.c.state != "deleted")
            .where(~needed, ~unfinished)
            .values(state="deleted")
            .returning(*result.c)
        )
        with writing(self._engine) as connection:
            gone = tuple(result_of(row) for row in connection.execute(statement))
            for job_id in {stored.job_id for stored in gone}:
                # whoever asks for these again has them made again
                deleted = {stored.file.form for stored in gone if stored.job_id == job_id}
                row = connection.execute(select(job.c.forms).where(job.c.id == job_id)).one()
                forms = [form for form in row.forms if form not in deleted]
                connection.execute(update(job).where(job.c.id == job_id).values(forms=forms))
        return gone


def _has_ended(connection: Connection, job_id: int) -> bool:
    state = connection.execute(select(job.c.state).where(job.c.id == job_id)).scalar_one()
    return state not in (JobState.QUEUED.value, JobState.RUNNING.value)


def _put(connection: Connection, job_id: int, owner: str, file: ResultFile, now: float) -> int:
    """Insert a result of a held job; the same result again is the same row."""
    there = connection.execute(
        select(result).where(
            result.c.job_id == job_id, result.c.form == file.form, result.c.part == file.part
        )
    ).one_or_none()
    if there is not None and there.state != "deleted":
        if there.sha256 != file.sha256:
            part = f" of {file.part}" if file.part else ""
            raise ResultRefused([f"job {job_id} has another {file.form}{part} already"])
        return int(there.id)
    held(connection, job_id, owner)
    values = {
        "file_name": file.file_name,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "sop_instance_uid": file.sop_instance_uid,
        "sop_class_uid": file.sop_class_uid,
        "series_instance_uid": file.series_instance_uid,
        "study_instance_uid": file.study_instance_uid,
        "summary": dict(file.summary),
        "state": "current",
        "created_at": now,
    }
    if there is not None:
        connection.execute(update(result).where(result.c.id == there.id).values(**values))
        return int(there.id)
    statement = result.insert().values(job_id=job_id, form=file.form, part=file.part, **values)
    return int(connection.execute(statement).inserted_primary_key[0])  # type: ignore[index]
