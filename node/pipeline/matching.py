"""What complete series lead to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key. A set is known by its rule and study. Its match counts revisions of its own: the next one
begins when a job was made of the one before and another choice of series, or a newer state of one,
takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.deliver.destination import resolve_destinations
from node.domain.delivery import FormsTaken
from node.domain.header import Header
from node.domain.job import MatchState, job_key
from node.domain.peers import Peer
from node.domain.reasons import Reason, ReasonCode
from node.domain.series import SeriesRow
from node.jobs.matches import MatchStore, NewestMatch
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport, SeriesPart
from node.pipeline.judge import ActiveRule, Settling, not_taken
from node.pipeline.series import Series
from node.route.conditions import Truth
from node.route.rules import StudyRule, explain, names_sop_class
from node.route.sets import Ambiguous, Candidate, Chosen, Waiting

NO_RULE = ""

ReadSeries = Callable[[str], Series | None]


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


# --- a series alone ------------------------------------------------------------------------------


def match_series(
    deps: MatchDeps, settling: Settling, taken_series_numbers: frozenset[int], now: float
) -> None:
    """Ask for the jobs of the rules on single series that fire."""
    series = settling.series
    for fired in settling.fired:
        active, inputs = fired.active, {fired.role: series}
        report = _report(active.rule.name, series, fired.role, fired.explanation)
        _park_or_ask(deps, active, report, inputs, fired.reasons, taken_series_numbers, now)
    if settling.silent is not None:
        report = _report(NO_RULE, series, "", [each.as_json() for each in settling.silent])
        facts = {"rules": [each.why_silent() for each in settling.silent]}
        why = Reason(ReasonCode.NO_RULE_FIRED, facts)
        deps.matches.put(replace(report, state=MatchState.UNMATCHED, reasons=(why,)), now)


def _report(rule: str, series: Series, role: str, explanation: object) -> MatchReport:
    """The match of a rule and one series, as it stands while a job is asked for."""
    part = SeriesPart(series_instance_uid=series.series_instance_uid, revision=series.revision)
    return MatchReport(
        rule=rule,
        study_instance_uid=series.study_instance_uid,
        series_key=series.series_instance_uid,
        made_of={role: part},
        revision=series.revision,
        state=MatchState.QUEUED,
        explanation=explanation,
    )


def _park_or_ask(
    deps: MatchDeps,
    active: ActiveRule,
    report: MatchReport,
    inputs: Mapping[str, Series],
    reasons: tuple[Reason, ...],
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    """Park a match that its model does not take for these reasons, or ask for its job."""
    if reasons:
        deps.matches.put(replace(report, state=MatchState.PARKED, reasons=reasons), now)
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
            reasons=tuple(_missing_images(inputs)),
            destinations=resolve_destinations(active.send, deps.peers, newest.origin),
            taken=deps.taken,
            priority=active.priority,
            config_digest=deps.config_digest,
            taken_series_numbers=taken_series_numbers,
        ),
        now,
    )


def _missing_images(inputs: Mapping[str, Series]) -> Iterable[Reason]:
    """What the result will be marked with."""
    parts = [
        (role if len(inputs) > 1 else "", len(series.instances), series.missing)
        for role, series in inputs.items()
        if series.missing
    ]
    if parts:
        yield Reason(ReasonCode.IMAGES_MISSING, {"parts": parts})


def _identities(inputs: Mapping[str, Series]) -> Iterable[str]:
    """The pixels of a job's inputs; in a set, who plays which role is a part of it."""
    for role, series in inputs.items():
        prefix = f"{role}:" if len(inputs) > 1 else ""
        for one in series.instances:
            yield prefix + one.pixel_identity
        if series.missing:  # what is made of a part says so: it is no result of the same as a whole
            yield f"{prefix}missing {series.missing}"


def reports_of_no_input(rules: Iterable[ActiveRule], series: Series) -> Sequence[MatchReport]:
    """The matches of a series without images: of rules that ask for its SOP class, or of none."""
    parked = [
        (active.rule.name, MatchState.PARKED, {"model": active.model.name})
        for active in rules
        if _names(active, series)
    ]
    return [
        replace(
            _report(rule, series, "", None),
            state=state,
            reasons=(Reason(ReasonCode.NO_INPUT, facts),),
        )
        for rule, state, facts in parked or [(NO_RULE, MatchState.NOT_AN_INPUT, {})]
    ]


def _names(active: ActiveRule, series: Series) -> bool:
    """Whether a rule asks for this series by naming its SOP class, and fires on it."""
    if isinstance(active.rule, StudyRule):
        return False
    classes = {one.sop_class_uid for one in series.others}
    is_named = any(names_sop_class(active.rule.condition, each) for each in classes)
    return is_named and explain(active.rule, series.header).truth is Truth.TRUE


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


# --- the series of one study ---------------------------------------------------------------------


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
        _match_set(
            deps, active, active.rule, study_instance_uid, rows, read, taken_series_numbers, now
        )
        for active in deps.rules
        if isinstance(active.rule, StudyRule)
    ]
    return min((at for at in again_at if at is not None), default=None)


def _match_set(
    deps: MatchDeps,
    active: ActiveRule,
    rule: StudyRule,
    study_instance_uid: str,
    rows: Sequence[SeriesRow],
    read: ReadSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> float | None:
    """Judge one rule; returns when a wait for more series ends."""
    candidates = [
        Candidate(
            series_instance_uid=row.series_instance_uid,
            patient_id=row.patient_id,
            header=Header.from_json(row.header),
            slices=row.frames,
        )
        for row in rows
    ]
    fitting = [
        each.series_instance_uid
        for each in candidates
        if explain(rule, each.header).truth is Truth.TRUE
    ]
    newest = deps.matches.newest(rule.name, study_instance_uid)
    if not fitting:
        if newest is not None:
            deps.jobs.supersede(
                study_instance_uid, rule.name, study_instance_uid, newest.revision + 1, now
            )
        return None
    choice = rule.choose(candidates)
    roles = dict(choice.roles) if isinstance(choice, Chosen) else {uid: uid for uid in fitting}
    report = _report_of_set(rule.name, study_instance_uid, roles, rows, newest)
    if not isinstance(choice, Chosen):
        # what an earlier choice led to and has not left yet was too early
        deps.jobs.supersede(study_instance_uid, rule.name, study_instance_uid, report.revision, now)
    match choice:
        case Chosen():
            if newest is None or newest.job_id is None or newest.revision != report.revision:
                _ask_for_set(deps, active, report, read, taken_series_numbers, now)
        case Ambiguous():
            deps.matches.put(replace(report, state=MatchState.PARKED, reasons=choice.reasons), now)
        case Waiting():
            mine = (row for row in rows if row.series_instance_uid in roles.values())
            wait_until = min(row.first_received_at for row in mine) + deps.study_wait_s
            waits = now < wait_until
            state = MatchState.RECEIVING if waits else MatchState.HELD
            deps.matches.put(replace(report, state=state, reasons=choice.reasons), now)
            if waits:
                return wait_until
    return None


def _report_of_set(
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


def _ask_for_set(
    deps: MatchDeps,
    active: ActiveRule,
    report: MatchReport,
    read: ReadSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    inputs: dict[str, Series] = {}
    for role, uid in report.roles.items():
        series = read(uid)
        if series is None:
            gone = Reason(ReasonCode.FILES_DELETED, {"series": uid})
            deps.matches.put(replace(report, state=MatchState.PARKED, reasons=(gone,)), now)
            return
        inputs[role] = series
    reasons = tuple(not_taken(active, inputs))
    _park_or_ask(deps, active, report, inputs, reasons, taken_series_numbers, now)
