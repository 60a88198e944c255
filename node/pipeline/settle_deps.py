"""What the tick works with."""

from __future__ import annotations

from dataclasses import dataclass

from node.domain.completion_policy import CompletionPolicy
from node.jobs.revisions import SeriesWork
from node.pipeline.matching import MatchDeps
from node.pipeline.watch import ReadHeader
from node.spool.arrivals import Arrivals
from node.spool.losses import Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleDeps:
    """The index, the work so far, and the rules; made anew when the configuration is reloaded."""

    index: Arrivals
    losses: Losses
    work: SeriesWork
    match: MatchDeps
    policy: CompletionPolicy
    read_header: ReadHeader
