"""Reading the work: matches, jobs, results and deliveries, for people and programs that ask.

Rows come out as plain dictionaries that JSON can carry: column names as keys, times as epoch
seconds. Lists are short rows, newest first, with the number of all rows that match; one row by its
key is whole. Nothing is changed here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Engine, FromClause, String, cast, func, select

from node.database.engine import reading
from node.jobs.tables import job, match, outbox, result

Row: TypeAlias = dict[str, Any]
Where: TypeAlias = list[ColumnElement[bool]]

# long columns that only the whole row shows
_JOB = [c for c in job.c if c.name not in ("inputs", "parameters")]
_MATCH = [c for c in match.c if c.name != "explanation"]
_DELIVERY = [
    *outbox.c,
    result.c.job_id,
    result.c.form,
    result.c.sop_instance_uid,
    result.c.series_instance_uid,
    result.c.study_instance_uid,
    job.c.model,
]
_WITH_RESULT = outbox.join(result, result.c.id == outbox.c.result_id).join(
    job, job.c.id == result.c.job_id
)


class JobCatalog:
    """Matches, jobs, results and deliveries, read-only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_matches(
        self,
        *,
        state: str | None = None,
        series_instance_uid: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """What rules decided, the last changed first, and how many there are."""
        where: Where = [match.c.state == state] if state else []
        if series_instance_uid:
            where.append(match.c.series_key.contains(series_instance_uid, autoescape=True))
        return self._page(match, _MATCH, where, match.c.updated_at, limit, offset)

    def matches_of_series(self, series_instance_uid: str) -> list[Row]:
        """Whole rows of the matches that a series takes part in, alone or in a set, newest first."""
        near = cast(match.c.roles, String).contains(series_instance_uid, autoescape=True)
        query = select(match).where(near).order_by(match.c.id.desc())
        with reading(self._engine) as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        # one UID may be the beginning of another
        return [row for row in rows if series_instance_uid in row["roles"].values()]

    def list_jobs(
        self,
        *,
        state: str | None = None,
        study_instance_uid: str | None = None,
        model: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """Jobs, the newest first, and how many there are."""
        where: Where = [job.c.state == state] if state else []
        if model:
            where.append(job.c.model == model)
        if study_instance_uid:
            where.append(job.c.study_instance_uid == study_instance_uid)
        return self._page(job, _JOB, where, job.c.id, limit, offset)

    def get_job(self, job_id: int) -> Row | None:
        """One job with its inputs, the matches that asked for it, its results and deliveries."""
        with reading(self._engine) as connection:
            row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
            if row is None:
                return None
            matches = select(*_MATCH).where(match.c.job_id == job_id).order_by(match.c.id)
            results = select(result).where(result.c.job_id == job_id).order_by(result.c.id)
            deliveries = (
                select(*outbox.c)
                .select_from(_WITH_RESULT)
                .where(result.c.job_id == job_id)
                .order_by(outbox.c.id)
            )
            return {
                **row._mapping,
                "matches": [dict(found._mapping) for found in connection.execute(matches)],
                "results": [dict(found._mapping) for found in connection.execute(results)],
                "deliveries": [dict(found._mapping) for found in connection.execute(deliveries)],
            }

    def list_results(
        self,
        *,
        state: str | None = None,
        study_instance_uid: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """Results, the newest first, and how many there are."""
        where: Where = [result.c.state == state] if state else []
        if study_instance_uid:
            where.append(result.c.study_instance_uid == study_instance_uid)
        return self._page(result, list(result.c), where, result.c.id, limit, offset)

    def get_result(self, result_id: int) -> Row | None:
        """One result."""
        with reading(self._engine) as connection:
            row = connection.execute(select(result).where(result.c.id == result_id)).one_or_none()
        return None if row is None else dict(row._mapping)

    def list_deliveries(
        self,
        *,
        state: str | None = None,
        destination: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Row], int]:
        """Deliveries with what they deliver, the newest first, and how many there are."""
        where: Where = [outbox.c.state == state] if state else []
        if destination:
            where.append(outbox.c.destination == destination)
        return self._page(_WITH_RESULT, _DELIVERY, where, outbox.c.id, limit, offset)

    def get_delivery(self, delivery_id: int) -> Row | None:
        """One delivery with what it delivers."""
        query = select(*_DELIVERY).select_from(_WITH_RESULT).where(outbox.c.id == delivery_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else dict(row._mapping)

    def _page(
        self,
        source: FromClause,
        columns: list[Any],
        where: Where,
        order: ColumnElement[Any],
        limit: int,
        offset: int,
    ) -> tuple[list[Row], int]:
        rows = select(*columns).select_from(source).where(*where)
        count = select(func.count()).select_from(source).where(*where)
        newest = rows.order_by(order.desc()).limit(limit).offset(offset)
        with reading(self._engine) as connection:
            found = [dict(row._mapping) for row in connection.execute(newest)]
            return found, int(connection.execute(count).scalar_one())
