"""What the web part asks of the rest of the node: Protocols that the composition fills in.

``node.spool.catalog.SpoolCatalog`` and ``node.jobs.catalog.JobCatalog`` are the first two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from node.domain.health import Readiness

Row: TypeAlias = Mapping[str, Any]
Page: TypeAlias = tuple[Sequence[Row], int]
"""Rows of one page, and the number of all rows."""


class SpoolQueries(Protocol):
    """Series and what was refused."""

    def list_series(
        self, *, state: str | None, study_instance_uid: str | None, limit: int, offset: int
    ) -> Page: ...
    def get_series(self, series_instance_uid: str, /) -> Row | None: ...
    def list_quarantine(self, *, state: str | None, limit: int, offset: int) -> Page: ...
    def get_quarantine(self, quarantine_id: int, /) -> Row | None: ...


class JobQueries(Protocol):
    """Matches, jobs, results, deliveries."""

    def matches_of_series(self, series_instance_uid: str, /) -> Sequence[Row]: ...
    def list_jobs(
        self, *, state: str | None, study_instance_uid: str | None, limit: int, offset: int
    ) -> Page: ...
    def get_job(self, job_id: int, /) -> Row | None: ...
    def list_results(
        self, *, state: str | None, study_instance_uid: str | None, limit: int, offset: int
    ) -> Page: ...
    def get_result(self, result_id: int, /) -> Row | None: ...
    def list_deliveries(
        self, *, state: str | None, destination: str | None, limit: int, offset: int
    ) -> Page: ...
    def get_delivery(self, delivery_id: int, /) -> Row | None: ...


class ModelQueries(Protocol):
    """The models of this node."""

    def list_models(self) -> Sequence[Row]: ...
    def get_model(self, name: str, /) -> Row | None: ...


class Actions(Protocol):
    """What an operator may do; what they name is known to exist.

    Raises:
        NodeError: It cannot be done in the state that the thing is in; the message says why.
        TryLater: It cannot be done now.
    """

    def proceed_series(self, series_instance_uid: str, /) -> None: ...
    def rerun_series(self, series_instance_uid: str, /) -> None: ...
    def discard_series(self, series_instance_uid: str, /) -> None: ...
    def retry_job(self, job_id: int, /) -> None: ...
    def accept_job(self, job_id: int, /) -> None: ...

    def cancel_job(self, job_id: int, /) -> None: ...
    def retry_delivery(self, delivery_id: int, /) -> None: ...
    def accept_quarantine(self, quarantine_id: int, /) -> None: ...
    def discard_quarantine(self, quarantine_id: int, /) -> None: ...


class Health(Protocol):
    """The state of the whole node."""

    def readiness(self) -> Readiness: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """All that the web part is given."""

    spool: SpoolQueries
    jobs: JobQueries
    models: ModelQueries
    actions: Actions
    health: Health
    results_dir: Path
