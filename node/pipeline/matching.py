"""What complete series lead to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key. A set is known by its rule and study. Its match counts revisions of its own: the next one
begins when a job was made of the one before and another choice of series, or a newer state of one,
takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.deliver.sender import resolve_destinations
from node.domain.form import FormsTaken
from node.domain.header import Header
from node.domain.job import MatchState, job_key
from node.domain.peers import Peer
from node.domain.reasons import Reason, ReasonCode
from node.domain.series import SeriesRow
from node.jobs.matches import MatchStore, NewestMatch
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport, SeriesPart
from node.pipeline.judge import ActiveRule, judge_rule, judge_set, not_taken
from node.pipeline.series import CompleteSeries, SeriesWatch
from node.route.explain import Explanation, explain
from node.route.rules import StudyRule, names_sop_class
from node.route.sets import Ambiguous, Candidate, Chosen, Waiting
from node.route.verdict import Truth

NO_RULE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchDeps:
    """What matching works with."""

    matches: MatchStore
    jobs: JobStore
    rules: Sequence[ActiveRule]
    peers: Mapping[str, Peer]
    config_digest: str
    study_wait_s: float
    taken: FormsTaken = field(default_factory=FormsTaken)


def match_series(
    deps: MatchDeps,
    series: CompleteSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    """Judge every rule on single series, and ask for the jobs of those that fire."""
    silent: list[Explanation] = []
    for active in deps.rules:
        judged = judge_rule(active, series)
        if not judged.fires:
            silent.append(judged.explanation)
        elif not isinstance(active.rule, StudyRule):
            (role,) = active.model.inputs
            report = report_of(
                active.rule.name, series.study_instance_uid, series.series_instance_uid,
                {role: series}, series.revision, judged.explanation.as_json(),
            )  # fmt: skip
            park_or_ask(
                deps, active, report, {role: series}, judged.reasons, taken_series_numbers, now
            )
    if len(silent) == len(deps.rules):
        deps.matches.put(_unmatched(series, silent), now)


def park_or_ask(
    deps: MatchDeps,
    active: ActiveRule,
    report: MatchReport,
    inputs: Mapping[str, CompleteSeries],
    reasons: Sequence[Reason],
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    """Park a match for these reasons, or, where there are none, ask for its job."""
    if reasons:
        deps.matches.put(with_state(report, MatchState.PARKED, reasons), now)
        deps.jobs.supersede(
            report.study_instance_uid, report.rule, report.series_key, report.revision, now
        )
        return
    newest = max(inputs.values(), key=lambda series: series.instances[-1].received_at)
    deps.jobs.enqueue(
        JobRequest(
            rule=report.rule,
            study_instance_uid=report.study_instance_uid,
            series_key=report.series_key,
            revision=report.revision,
            explanation=report.explanation,
            job_key=job_key(_identities(inputs), active.model.digest, active.parameters),
            model=active.model.name,
            model_digest=active.model.digest,
            parameters=active.parameters,
            deadline_s=active.deadline_s,
            inputs={
                role: {
                    "series_instance_uid": series.series_instance_uid,
                    "revision": series.revision,
                    "instances": series.snapshot,
                    "missing": series.missing,
                }
                for role, series in inputs.items()
            },
            destinations=resolve_destinations(active.send, deps.peers, newest.origin),
            taken=deps.taken,
            priority=active.priority,
            config_digest=deps.config_digest,
            taken_series_numbers=taken_series_numbers,
            reasons=tuple(_missing_images(inputs)),
        ),
        now,
    )


def _missing_images(inputs: Mapping[str, CompleteSeries]) -> Iterable[Reason]:
    """What the result will be marked with."""
    parts = [
        (role if len(inputs) > 1 else "", len(series.instances), series.missing)
        for role, series in inputs.items()
        if series.missing
    ]
    if parts:
        yield Reason(ReasonCode.IMAGES_MISSING, {"parts": parts})


def _identities(inputs: Mapping[str, CompleteSeries]) -> Iterable[str]:
    """The pixels of a job's inputs; in a set, who plays which role is a part of it."""
    for role, series in inputs.items():
        prefix = f"{role}:" if len(inputs) > 1 else ""
        for one in series.instances:
            yield prefix + one.pixel_identity
        if series.missing:  # what is made of a part says so: it is no result of the same as a whole
            yield f"{prefix}missing {series.missing}"


def _unmatched(series: CompleteSeries, silent: Sequence[Explanation]) -> MatchReport:
    report = report_of(
        NO_RULE, series.study_instance_uid, series.series_instance_uid, {"": series},
        series.revision, [explanation.as_json() for explanation in silent],
    )  # fmt: skip
    why = Reason(ReasonCode.NO_RULE_FIRED, {"rules": [each.why_silent() for each in silent]})
    return with_state(report, MatchState.UNMATCHED, (why,))


def reports_of_no_input(rules: Iterable[ActiveRule], watch: SeriesWatch) -> Sequence[MatchReport]:
    """The matches of a series without images: of rules that ask for its SOP class, or of none."""
    parked = [
        (active.rule.name, MatchState.PARKED, {"model": active.model.name})
        for active in rules
        if _names(active, watch)
    ]
    uid = watch.series_instance_uid
    return [
        MatchReport(
            rule=rule,
            study_instance_uid=watch.study_instance_uid,
            series_key=uid,
            made_of={"": SeriesPart(series_instance_uid=uid, revision=1)},
            revision=1,
            state=state,
            reasons=(Reason(ReasonCode.NO_INPUT, facts),),
        )
        for rule, state, facts in parked or [(NO_RULE, MatchState.NOT_AN_INPUT, {})]
    ]


def _names(active: ActiveRule, watch: SeriesWatch) -> bool:
    """Whether a rule asks for this series by naming its SOP class, and fires on it."""
    if isinstance(active.rule, StudyRule):
        return False
    classes = {one.sop_class_uid for one in watch.others}
    is_named = any(names_sop_class(active.rule.condition, each) for each in classes)
    return is_named and explain(active.rule, watch.header()).truth is Truth.TRUE


def report_of(
    rule: str,
    study_instance_uid: str,
    series_key: str,
    inputs: Mapping[str, CompleteSeries],
    revision: int,
    explanation: object,
) -> MatchReport:
    """The match of a rule and its inputs, as it stands while a job is asked for."""
    return MatchReport(
        rule=rule,
        study_instance_uid=study_instance_uid,
        series_key=series_key,
        made_of={role: series.part for role, series in inputs.items()},
        revision=revision,
        state=MatchState.QUEUED,
        explanation=explanation,
    )


def with_state(report: MatchReport, state: MatchState, reasons: Sequence[Reason]) -> MatchReport:
    """The same match without a job, and why."""
    return replace(report, state=state, reasons=tuple(reasons))


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


def series_numbers(rows: Iterable[SeriesRow]) -> frozenset[int]:
    """Series Numbers in use (PS3.3 C.7.3.1)."""
    found = (Header.from_json(row.header).get("SeriesNumber") for row in rows)
    return frozenset(
        value
        for values in found
        if isinstance(values, tuple)
        for value in values
        if isinstance(value, int)
    )
