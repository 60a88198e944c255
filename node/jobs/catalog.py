"""Reading the work: matches, jobs, results and deliveries, for people and programs that ask.

Lists are short rows, newest first, in pages; one row by its key is whole. Counts go up to ``COUNTED``.
Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Unpack

from sqlalchemy import Engine, String, cast, func, select, text

from node.database.engine import reading
from node.database.pages import Asked, Page, Row, Shown, all_of, counts_of, every, one_of, page_of
from node.domain.health import COUNTED
from node.domain.job import JobState
from node.jobs.tables import IS_TRIED_AGAIN, job, match, outbox, result

# those of the queue that are looked at for the one that waits longest: nearly in that order
_OLDEST = 100
# long columns that only the whole row shows
_JOB = select(*(c for c in job.c if c.name not in ("inputs", "parameters")))
_MATCH = select(*(c for c in match.c if c.name != "explanation"))
_WITH_RESULT = outbox.join(result, result.c.id == outbox.c.result_id).join(
    job, job.c.id == result.c.job_id
)
_DELIVERY = select(
    *(*outbox.c, result.c.job_id, result.c.form, result.c.sop_instance_uid),
    *(result.c.series_instance_uid, result.c.study_instance_uid, job.c.model),
).select_from(_WITH_RESULT)


class JobCatalog:
    """Matches, jobs, results and deliveries, read-only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_matches(self, **asked: Unpack[Asked]) -> Page:
        """What rules decided, the last changed first."""
        return page_of(self._engine, _MATCH, [match.c.updated_at, match.c.id], **asked)

    def every_match(self) -> Iterator[Row]:
        """What rules decided, the newest first; a change meanwhile hides none."""
        return every(partial(page_of, self._engine, _MATCH, [match.c.id]))

    def matches_of_series(self, series_instance_uid: str, study_instance_uid: str) -> list[Shown]:
        """Whole rows of the matches that a series takes part in, alone or in a set, newest first.

        Args:
            study_instance_uid: Its study: a set is of one study.
        """
        of_study = match.c.study_instance_uid == study_instance_uid
        near = cast(match.c.roles, String).contains(series_instance_uid, autoescape=True)
        newest = select(match).where(of_study, near).order_by(match.c.id.desc())
        rows = all_of(self._engine, newest)
        # one UID may be the beginning of another
        return [row for row in rows if series_instance_uid in row["roles"].values()]

    def list_jobs(self, **asked: Unpack[Asked]) -> Page:
        """Jobs, the newest first."""
        return page_of(self._engine, _JOB, [job.c.id], **asked)

    def count_jobs(self, *states: JobState) -> Mapping[str, int]:
        """State -> number of jobs; without an argument all that there are."""
        return counts_of(self._engine, job.c.state, states or JobState)

    def count_tried_again(self) -> int:
        """How many jobs wait for another attempt, counted up to ``COUNTED``."""
        some = select(job.c.id).where(text(IS_TRIED_AGAIN)).limit(COUNTED).subquery()
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(some)).scalar_one()

    def longest_wait_s(self, now: float) -> float:
        """For how long the job has waited that is queued longest; 0.0 where none is.

        A job that was queued anew waits since then.
        """
        queued = select(job.c.created_at, job.c.not_before)
        oldest = queued.where(job.c.state == JobState.QUEUED.value).order_by(job.c.id)
        with reading(self._engine) as connection:
            rows = connection.execute(oldest.limit(_OLDEST)).all()
        return max((now - max(row.created_at, row.not_before) for row in rows), default=0.0)

    def get_job(self, job_id: int) -> Shown | None:
        """One job with its inputs, the matches that asked for it, its results and deliveries."""
        with reading(self._engine) as connection:
            row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
            if row is None:
                return None
            of_job = result.c.job_id == job_id
            more = {
                "matches": _MATCH.where(match.c.job_id == job_id).order_by(match.c.id),
                "results": select(result).where(of_job).order_by(result.c.id),
                "deliveries": select(*outbox.c)
                .select_from(_WITH_RESULT)
                .where(of_job)
                .order_by(outbox.c.id),
            }
            whole = dict(row._mapping)
            for name, query in more.items():
                whole[name] = [dict(found._mapping) for found in connection.execute(query)]
        return whole

    def list_results(self, **asked: Unpack[Asked]) -> Page:
        """Results, the newest first."""
        return page_of(self._engine, select(result), [result.c.id], **asked)

    def get_result(self, result_id: int) -> Shown | None:
        return one_of(self._engine, select(result).where(result.c.id == result_id))

    def list_deliveries(self, **asked: Unpack[Asked]) -> Page:
        """Deliveries with what they deliver, the newest first."""
        return page_of(self._engine, _DELIVERY, [outbox.c.id], **asked)

    def get_delivery(self, delivery_id: int) -> Shown | None:
        return one_of(self._engine, _DELIVERY.where(outbox.c.id == delivery_id))
