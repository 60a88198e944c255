"""What a complete series leads to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.deliver.sender import resolve_destinations
from node.domain.delivery import FormsTaken
from node.domain.job import MatchState, job_key
from node.domain.peers import Peer
from node.domain.reasons import Reason, ReasonCode
from node.jobs.matches import MatchStore
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport, SeriesPart
from node.pipeline.judge import ActiveRule, judge_rule
from node.pipeline.watch import CompleteSeries, SeriesWatch
from node.route.conditions import Truth
from node.route.rules import Explanation, StudyRule, explain, names_sop_class

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
