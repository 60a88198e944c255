"""What complete series lead to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key. A set is known by its rule and study. Its match counts revisions of its own: the next one
begins when a job was made of the one before and another choice of series, or a newer state of one,
takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Self

from node.deliver.destination import resolve_destinations
from node.domain.delivery import FormsTaken
from node.domain.job import MatchState, job_key
from node.domain.peers import Peer
from node.domain.reasons import Reason, ReasonCode
from node.jobs.matches import MatchStore
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MadeOf, MatchReport, SeriesPart
from node.pipeline.judge import ActiveRule, Settling, not_taken
from node.pipeline.series import Series
from node.route.conditions import Truth
from node.route.rules import StudyRule, explain, names_sop_class
from node.route.sets import Ambiguous, Candidate, Chosen, Waiting

NO_RULE = ""

ReadSeries = Callable[[str], Series | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A complete series of a study.

    Args:
        candidates: Name of a study rule -> the series as it judges it.
    """

    series_instance_uid: str
    revision: int
    first_received_at: float
    candidates: Mapping[str, Candidate]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMoment:
    """One study at one moment, and what matching works with.

    Args:
        taken_series_numbers: Series Numbers of the study that the node knows of.
    """

    deps: MatchDeps
    study_instance_uid: str
    taken_series_numbers: frozenset[int]
    now: float

    @classmethod
    def of(cls, uid: str, numbers: Iterable[int | None], deps: MatchDeps, now: float) -> Self:
        """A study of which the known series have these Series Numbers (PS3.3 C.7.3.1)."""
        taken = frozenset(number for number in numbers if number is not None)
        return cls(deps=deps, study_instance_uid=uid, taken_series_numbers=taken, now=now)

    def report(self, rule: str, series_key: str, made_of: MadeOf, revision: int) -> MatchReport:
        """A match as it stands while a job is asked for."""
        return MatchReport(
            rule=rule,
            study_instance_uid=self.study_instance_uid,
            series_key=series_key,
            made_of=made_of,
            revision=revision,
            state=MatchState.QUEUED,
        )

    def put(self, report: MatchReport, state: MatchState, reasons: tuple[Reason, ...]) -> None:
        """Write a match that leads to no job, or not yet."""
        self.deps.matches.put(replace(report, state=state, reasons=reasons), self.now)

    def supersede(self, rule: str, series_key: str, revision: int) -> None:
        """What older revisions led to is not wanted."""
        self.deps.jobs.supersede(self.study_instance_uid, rule, series_key, revision, self.now)

    def park_or_ask(
        self,
        active: ActiveRule,
        report: MatchReport,
        inputs: Mapping[str, Series],
        reasons: tuple[Reason, ...],
    ) -> None:
        """Park a match that its model does not take for these reasons, or ask for its job."""
        if reasons:
            self.put(report, MatchState.PARKED, reasons)
            self.supersede(report.rule, report.series_key, report.revision)
            return
        newest = max(inputs.values(), key=lambda series: series.instances[-1].received_at)
        self.deps.jobs.enqueue(
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
                destinations=resolve_destinations(active.send, self.deps.peers, newest.origin),
                taken=self.deps.taken,
                priority=active.priority,
                config_digest=self.deps.config_digest,
                taken_series_numbers=self.taken_series_numbers,
            ),
            self.now,
        )


# --- a series alone ------------------------------------------------------------------------------


def match_series(at: StudyMoment, settling: Settling) -> None:
    """Ask for the jobs of the rules on single series that fire."""
    series = settling.series
    for fired in settling.fired:
        report = _report_of_series(at, fired.active.rule.name, series, fired.role)
        report = replace(report, explanation=fired.explanation)
        at.park_or_ask(fired.active, report, {fired.role: series}, fired.reasons)
    if settling.silent is not None:
        report = _report_of_series(at, NO_RULE, series)
        report = replace(report, explanation=[each.as_json() for each in settling.silent])
        facts = {"rules": [each.why_silent() for each in settling.silent]}
        at.put(report, MatchState.UNMATCHED, (Reason(ReasonCode.NO_RULE_FIRED, facts),))


def match_no_input(at: StudyMoment, series: Series) -> None:
    """Write the matches of a series without images: of rules that ask for its SOP class, or of none."""
    parked = [active for active in at.deps.rules if _names(active, series)]
    for active in parked:
        report = _report_of_series(at, active.rule.name, series)
        why = Reason(ReasonCode.NO_INPUT, {"model": active.model.name})
        at.put(report, MatchState.PARKED, (why,))
    if not parked:
        report = _report_of_series(at, NO_RULE, series)
        at.put(report, MatchState.NOT_AN_INPUT, (Reason(ReasonCode.NO_INPUT),))


def _report_of_series(at: StudyMoment, rule: str, series: Series, role: str = "") -> MatchReport:
    uid = series.series_instance_uid
    part = SeriesPart(series_instance_uid=uid, revision=series.revision)
    return at.report(rule, uid, {role: part}, series.revision)


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


def _names(active: ActiveRule, series: Series) -> bool:
    """Whether a rule asks for this series by naming its SOP class, and fires on it."""
    if isinstance(active.rule, StudyRule):
        return False
    classes = {one.sop_class_uid for one in series.others}
    is_named = any(names_sop_class(active.rule.condition, each) for each in classes)
    return is_named and explain(active.rule, series.header).truth is Truth.TRUE


# --- the series of one study ---------------------------------------------------------------------


def match_study(at: StudyMoment, members: Sequence[Member], read: ReadSeries) -> float:
    """Judge every study rule on the complete series of one study.

    Args:
        read: Series Instance UID -> what a job is made of; None where files are gone.
    Returns:
        When to judge again although nothing new came; infinite where only a new series matters.
    """
    again_at = [
        _match_set(at, active, active.rule, members, read)
        for active in at.deps.rules
        if isinstance(active.rule, StudyRule)
    ]
    return min(again_at, default=inf)


def _match_set(
    at: StudyMoment,
    active: ActiveRule,
    rule: StudyRule,
    members: Sequence[Member],
    read: ReadSeries,
) -> float:
    """Judge one rule; returns when a wait for more series ends."""
    candidates = [member.candidates[rule.name] for member in members]
    fitting = [each.series_instance_uid for each in candidates if each.fits_any]
    study = at.study_instance_uid
    newest = at.deps.matches.newest(rule.name, study)
    if not fitting:
        if newest is not None:
            at.supersede(rule.name, study, newest.revision + 1)
        return inf
    choice = rule.choose(candidates)
    roles = dict(choice.roles) if isinstance(choice, Chosen) else {uid: uid for uid in fitting}
    revisions = {member.series_instance_uid: member.revision for member in members}
    made_of = {
        role: SeriesPart(series_instance_uid=uid, revision=revisions[uid])
        for role, uid in roles.items()
    }
    revision = newest.revision if newest is not None else 1
    if newest is not None and newest.job_id is not None and newest.made_of != made_of:
        revision += 1
    report = at.report(rule.name, study, made_of, revision)
    if not isinstance(choice, Chosen) and revision > 1:
        # what an earlier choice led to and has not left yet was too early
        at.supersede(rule.name, study, revision)
    match choice:
        case Chosen():
            if newest is None or newest.job_id is None or newest.revision != revision:
                _ask_for_set(at, active, report, read)
        case Ambiguous():
            at.put(report, MatchState.PARKED, choice.reasons)
        case Waiting():
            mine = (each for each in members if each.series_instance_uid in roles)
            wait_until = min(each.first_received_at for each in mine) + at.deps.study_wait_s
            waits = at.now < wait_until
            at.put(report, MatchState.RECEIVING if waits else MatchState.HELD, choice.reasons)
            if waits:
                return wait_until
    return inf


def _ask_for_set(
    at: StudyMoment, active: ActiveRule, report: MatchReport, read: ReadSeries
) -> None:
    inputs: dict[str, Series] = {}
    for role, uid in report.roles.items():
        series = read(uid)
        if series is None:
            gone = Reason(ReasonCode.FILES_DELETED, {"series": uid})
            at.put(report, MatchState.PARKED, (gone,))
            return
        inputs[role] = series
    at.park_or_ask(active, report, inputs, tuple(not_taken(active, inputs)))
