"""What the complete series of one study lead to: a match row for every study rule that one fits.

A set is known by its rule and study. Its match counts revisions of its own: the next one begins when
a job was made of the one before and another choice of series, or a newer state of one, takes its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from node.domain.header import Header
from node.domain.job import MatchState
from node.domain.reasons import Reason, ReasonCode
from node.domain.series import SeriesRow
from node.jobs.matches import NewestMatch
from node.jobs.values import MatchReport, SeriesPart
from node.pipeline.judge import ActiveRule, judge_set, not_taken
from node.pipeline.matching import MatchDeps, park_or_ask, with_state
from node.pipeline.watch import CompleteSeries
from node.route.rules import StudyRule
from node.route.sets import Ambiguous, Candidate, Chosen, Waiting

ReadSeries = Callable[[str], CompleteSeries | None]


def match_study(
    deps: MatchDeps,
    study_instance_uid: str,
    rows: Sequence[SeriesRow],
    read: ReadSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> float | None:
    """Judge every study rule on the complete series of one study.

    Args:
        rows: The complete series.
        read: Series Instance UID -> what a job is made of; None where files are gone.
    Returns:
        When to judge again although nothing new came; None where only a new series matters.
    """
    again_at = [
        wait_until
        for active in deps.rules
        if isinstance(active.rule, StudyRule)
        for wait_until in _match_set(
            deps, active, active.rule, study_instance_uid, rows, read, taken_series_numbers, now
        )
    ]
    return min(again_at, default=None)


def _match_set(
    deps: MatchDeps,
    active: ActiveRule,
    rule: StudyRule,
    study_instance_uid: str,
    rows: Sequence[SeriesRow],
    read: ReadSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> Iterator[float]:
    """Judge one rule; yields when a wait for more series ends."""
    judged = judge_set(rule, [_candidate(row) for row in rows])
    newest = deps.matches.newest(rule.name, study_instance_uid)
    if judged is None:
        if newest is not None:
            deps.jobs.supersede(
                study_instance_uid, rule.name, study_instance_uid, newest.revision + 1, now
            )
        return
    choice = judged.choice
    roles = (
        dict(choice.roles) if isinstance(choice, Chosen) else {uid: uid for uid in judged.fitting}
    )
    report = _report(rule.name, study_instance_uid, roles, rows, newest)
    if not isinstance(choice, Chosen):
        # what an earlier choice led to and has not left yet was too early
        deps.jobs.supersede(study_instance_uid, rule.name, study_instance_uid, report.revision, now)
    match choice:
        case Chosen():
            if newest is None or newest.job_id is None or newest.revision != report.revision:
                _ask(deps, active, report, read, taken_series_numbers, now)
        case Ambiguous():
            deps.matches.put(with_state(report, MatchState.PARKED, choice.reasons), now)
        case Waiting():
            mine = (row for row in rows if row.series_instance_uid in roles.values())
            wait_until = min(row.first_received_at for row in mine) + deps.study_wait_s
            waits = now < wait_until
            state = MatchState.RECEIVING if waits else MatchState.HELD
            deps.matches.put(with_state(report, state, choice.reasons), now)
            if waits:
                yield wait_until


def _report(
    rule: str,
    study_instance_uid: str,
    roles: Mapping[str, str],
    rows: Sequence[SeriesRow],
    newest: NewestMatch | None,
) -> MatchReport:
    """The match of a set, in the revision of its own that these series make."""
    revisions = {row.series_instance_uid: row.revision for row in rows}
    made_of = {
        role: SeriesPart(series_instance_uid=uid, revision=revisions[uid])
        for role, uid in roles.items()
    }
    revision = newest.revision if newest is not None else 1
    if newest is not None and newest.job_id is not None and newest.made_of != made_of:
        revision += 1
    return MatchReport(
        rule=rule,
        study_instance_uid=study_instance_uid,
        series_key=study_instance_uid,
        made_of=made_of,
        revision=revision,
        state=MatchState.QUEUED,
    )


def _ask(
    deps: MatchDeps,
    active: ActiveRule,
    report: MatchReport,
    read: ReadSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    inputs: dict[str, CompleteSeries] = {}
    for role, uid in report.roles.items():
        series = read(uid)
        if series is None:
            gone = Reason(ReasonCode.FILES_DELETED, {"series": uid})
            deps.matches.put(with_state(report, MatchState.PARKED, [gone]), now)
            return
        inputs[role] = series
    reasons = list(not_taken(active, inputs))
    park_or_ask(deps, active, report, inputs, reasons, taken_series_numbers, now)


def _candidate(row: SeriesRow) -> Candidate:
    return Candidate(
        series_instance_uid=row.series_instance_uid,
        patient_id=row.patient_id,
        header=Header.from_json(row.header),
        slices=row.frames,
    )
