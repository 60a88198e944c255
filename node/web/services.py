"""What the web part asks of the rest of the node: the two catalogs, and what acts or judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from node.domain.health import Readiness
from node.jobs.catalog import JobCatalog
from node.spool.catalog import SpoolCatalog

Row: TypeAlias = Mapping[str, Any]
Page: TypeAlias = tuple[Sequence[Row], int]
"""Rows of one page, and the number of all rows."""


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

    spool: SpoolCatalog
    jobs: JobCatalog
    models: ModelQueries
    actions: Actions
    health: Health
    results_dir: Path
