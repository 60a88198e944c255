"""What the tick works with: the index, the work so far, and the rules; declared by who calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.assemble.policy import CompletionPolicy
from node.domain.instance import Instance
from node.domain.job import Progress
from node.domain.loss import Loss
from node.domain.series import SeriesRow
from node.pipeline.matching import MatchDeps
from node.pipeline.watch import ReadHeader


class ArrivalIndex(Protocol):
    """What the tick asks of the index, and what it writes back."""

    def arrivals_after(self, row: int) -> Sequence[tuple[int, Instance]]:
        """Some of the instances whose row is newer, oldest first; empty where there are none."""
        ...

    def arrivals_of(self, series_instance_uid: str) -> Sequence[tuple[int, Instance]]:
        """All instances of a series with their rows, newest versions, files still there."""
        ...

    def newest_row(self, series_instance_uid: str) -> int:
        """The newest row of a series, whatever became of its file."""
        ...

    def unsettled(self) -> tuple[Sequence[str], int]:
        """Series that need a look after a start, and the newest row that this answer covers."""
        ...

    def associations_around(self, series_instance_uid: str) -> Sequence[Mapping[str, Any]]:
        """Rows of associations that carried a series, and of the same callers' others since."""
        ...

    def open_associations(self) -> frozenset[str]:
        """Ids of the associations that are open now."""
        ...

    def series(self, series_instance_uid: str) -> SeriesRow | None:
        """What is known of a series."""
        ...

    def series_of_study(self, study_instance_uid: str) -> Sequence[SeriesRow]:
        """All series of a study."""
        ...

    def put_series(self, row: SeriesRow, *, was: SeriesRow | None) -> bool:
        """Write a row if it is still as it was; False when another process was faster."""
        ...

    def forced_series(self) -> Sequence[str]:
        """Series that a person decided about."""
        ...

    def forget_deleted(self, series_instance_uid: str) -> None:
        """Have the deleted instances of a series taken in again when they are sent again."""
        ...

    def splits_series(self, peer: str) -> bool:
        """Whether a peer is known to send one series over several associations."""
        ...

    def learn_splitting(self, peer: str, now: float) -> None:
        """Remember it."""
        ...


class LossBook(Protocol):
    """What was refused or cut off, and whether it came since."""

    def newest_row(self) -> int:
        """The newest row; 0 where there is none."""
        ...

    def after(self, row: int) -> tuple[int, frozenset[str]]:
        """The newest row, and the series that rows after ``row`` may count against."""
        ...

    def of_series(self, series_instance_uid: str) -> Sequence[Loss]:
        """Images that were lost and have not come since."""
        ...

    def listening_since(self) -> Mapping[str, float]:
        """Road -> since when somebody listens on it."""
        ...


class SeriesWork(Protocol):
    """The work that was made of a series, alone or in a set."""

    def furthest(self, study_instance_uid: str, series_instance_uid: str) -> Progress:
        """How far it went."""
        ...

    def supersede(
        self, study_instance_uid: str, series_instance_uid: str, revision: int, now: float
    ) -> None:
        """End the work of states of the series before ``revision``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleDeps:
    """What the tick works with; made anew when the configuration is reloaded."""

    index: ArrivalIndex
    losses: LossBook
    work: SeriesWork
    match: MatchDeps
    policy: CompletionPolicy
    read_header: ReadHeader
