"""Reading the work: matches, jobs, results and deliveries, for people and programs that ask.

Lists are short rows, newest first, with the number of all rows that match; one row by its key is
whole. Nothing is changed here.
"""

from __future__ import annotations

from typing import Unpack

from sqlalchemy import Engine, String, cast, select

from node.database.engine import reading
from node.database.pages import Only, Page, Shown, all_of, one_of, page_of
from node.jobs.tables import job, match, outbox, result

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

    def list_matches(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """What rules decided, the last changed first, and how many there are."""
        return page_of(self._engine, _MATCH, [match.c.updated_at], limit, offset, **only)

    def matches_of_series(self, series_instance_uid: str) -> list[Shown]:
        """Whole rows of the matches that a series takes part in, alone or in a set, newest first."""
        near = cast(match.c.roles, String).contains(series_instance_uid, autoescape=True)
        rows = all_of(self._engine, select(match).where(near).order_by(match.c.id.desc()))
        # one UID may be the beginning of another
        return [row for row in rows if series_instance_uid in row["roles"].values()]

    def list_jobs(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """Jobs, the newest first, and how many there are."""
        return page_of(self._engine, _JOB, [job.c.id], limit, offset, **only)

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

    def list_results(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """Results, the newest first, and how many there are."""
        return page_of(self._engine, select(result), [result.c.id], limit, offset, **only)

    def get_result(self, result_id: int) -> Shown | None:
        return one_of(self._engine, select(result).where(result.c.id == result_id))

    def list_deliveries(self, *, limit: int = 100, offset: int = 0, **only: Unpack[Only]) -> Page:
        """Deliveries with what they deliver, the newest first, and how many there are."""
        return page_of(self._engine, _DELIVERY, [outbox.c.id], limit, offset, **only)

    def get_delivery(self, delivery_id: int) -> Shown | None:
        return one_of(self._engine, _DELIVERY.where(outbox.c.id == delivery_id))
