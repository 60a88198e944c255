"""What a complete series leads to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.assemble.gate import MinimumSize, judge_geometry
from node.assemble.phases import PhaseHints
from node.deliver.sender import resolve_destinations
from node.domain.frames import Frame
from node.domain.header import Header
from node.domain.instance import Instance, Origin
from node.domain.job import MatchState, Priority, job_key
from node.domain.peers import Peer
from node.infer.registry import ModelSpec
from node.jobs.matches import MatchStore
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport
from node.route.conditions import Condition
from node.route.explain import Explanation, explain, why_not
from node.route.rules import Rule, StudyRule
from node.route.sets import Ambiguous, Candidate, Chosen
from node.route.verdict import Truth

NO_RULE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRule:
    """A compiled rule with what it leads to.

    Args:
        accepts: Role of the model -> what it takes, compiled from its model.yaml.
    """

    rule: Rule | StudyRule
    model: ModelSpec
    accepts: Mapping[str, Condition]
    send: tuple[str, ...]
    priority: Priority
    parameters: Mapping[str, object] = field(default_factory=dict)

    def minimum(self, role: str) -> MinimumSize:
        """The smallest series that the model takes for a role."""
        given = self.model.inputs[role]
        return MinimumSize(slices=given.min_slices, rows=given.min_rows, columns=given.min_columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteSeries:
    """A series at one revision: the snapshot that rules judge and jobs are made of.

    Args:
        frames: Of all instances; empty where the series was complete before this process started
            and has been judged by the gate already.
        findings: Of the geometry gate, without any model's minimum size.
    """

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    revision: int
    header: Header
    instances: Sequence[Instance]
    frames: Sequence[Frame]
    origin: Origin
    first_received_at: float
    phase_hints: Sequence[PhaseHints] = ()

    @property
    def snapshot(self) -> dict[str, int]:
        """SOP Instance UID -> version."""
        return {one.sop_instance_uid: one.version for one in self.instances}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRoom:
    """What matching works with."""

    matches: MatchStore
    jobs: JobStore
    rules: Sequence[ActiveRule]
    peers: Mapping[str, Peer]
    config_digest: str
    study_wait_s: float


def match_series(
    room: MatchRoom,
    series: CompleteSeries,
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    """Judge every rule on single series, and ask for the jobs of those that fire."""
    silent: list[Explanation] = []
    spoke = False
    for active in room.rules:
        explanation = explain(active.rule, series.header)
        if isinstance(active.rule, StudyRule):
            spoke = spoke or explanation.truth is Truth.TRUE
            continue
        if explanation.truth is not Truth.TRUE:
            silent.append(explanation)
            continue
        spoke = True
        (role,) = active.model.inputs
        reasons = list(not_taken(active, {role: series}))
        report = _report(
            active.rule.name, series.study_instance_uid, series.series_instance_uid,
            {role: series}, series.revision, explanation.as_json(),
        )  # fmt: skip
        _park_or_ask(room, active, report, {role: series}, reasons, taken_series_numbers, now)
    if not spoke:
        room.matches.put(_unmatched(series, silent), now)


def match_study(
    room: MatchRoom,
    complete: Mapping[str, CompleteSeries],
    taken_series_numbers: frozenset[int],
    now: float,
) -> float | None:
    """Judge every study rule on the complete series of one study.

    Args:
        complete: Series Instance UID -> series, all of one study.
    Returns:
        When to judge again although nothing new came; None where only a new series matters.
    """
    candidates = [
        Candidate(
            series_instance_uid=uid,
            patient_id=series.patient_id,
            header=series.header,
            slices=len(series.frames) or len(series.instances),
        )
        for uid, series in complete.items()
    ]
    again_at: list[float] = []
    for active in room.rules:
        if isinstance(active.rule, StudyRule):
            again_at += _match_set(room, active, candidates, complete, taken_series_numbers, now)
    return min(again_at, default=None)


def _match_set(
    room: MatchRoom,
    active: ActiveRule,
    candidates: Sequence[Candidate],
    complete: Mapping[str, CompleteSeries],
    taken_series_numbers: frozenset[int],
    now: float,
) -> Iterable[float]:
    rule = active.rule
    if not isinstance(rule, StudyRule):
        return
    fitting = [c for c in candidates if explain(rule, c.header).truth is Truth.TRUE]
    if not fitting:
        return
    study = complete[fitting[0].series_instance_uid].study_instance_uid
    choice = rule.choose(candidates)
    chosen = (
        {role: complete[uid] for role, uid in choice.roles.items()}
        if isinstance(choice, Chosen)
        else {c.series_instance_uid: complete[c.series_instance_uid] for c in fitting}
    )
    made_of = {role: f"{s.series_instance_uid}@{s.revision}" for role, s in chosen.items()}
    newest = room.matches.newest(rule.name, study)
    same = newest is not None and newest.explanation == made_of
    revision = newest.revision if newest is not None and same else _next(newest)
    report = _report(rule.name, study, study, chosen, revision, made_of)
    if isinstance(choice, Chosen):
        if same and newest is not None and newest.job_id is not None:
            return
        reasons = list(not_taken(active, chosen))
        _park_or_ask(room, active, report, chosen, reasons, taken_series_numbers, now)
    elif isinstance(choice, Ambiguous):
        freed = f"{choice.sentence}: discard one with: segnode series discard UID"
        room.matches.put(_with(report, MatchState.PARKED, freed), now)
    else:
        wait_until = min(s.first_received_at for s in chosen.values()) + room.study_wait_s
        waits = now < wait_until
        state = MatchState.RECEIVING if waits else MatchState.HELD
        room.matches.put(_with(report, state, f"{choice.sentence}: send it"), now)
        if waits:
            yield wait_until


def _next(newest: Any) -> int:
    return 1 if newest is None else int(newest.revision) + 1


def not_taken(active: ActiveRule, inputs: Mapping[str, CompleteSeries]) -> Iterable[str]:
    """Why the model cannot run on these series, one sentence each."""
    for role, series in inputs.items():
        verdict = active.accepts[role].judge(series.header)
        prefix = f"role {role}: " if len(inputs) > 1 else ""
        if verdict.truth is not Truth.TRUE:
            yield f"{prefix}{active.model.name} does not take it: {why_not(verdict)}"
        gate = judge_geometry(
            series.frames, active.minimum(role), phase_hints=series.phase_hints
        )
        for finding in gate.findings:
            yield f"{prefix}{finding}"


def _park_or_ask(
    room: MatchRoom,
    active: ActiveRule,
    report: MatchReport,
    inputs: Mapping[str, CompleteSeries],
    reasons: Sequence[str],
    taken_series_numbers: frozenset[int],
    now: float,
) -> None:
    if reasons:
        uid = next(iter(inputs.values())).series_instance_uid
        sentence = f"{'; '.join(reasons)}: judge again with: segnode series rerun {uid}"
        room.matches.put(_with(report, MatchState.PARKED, sentence), now)
        room.jobs.supersede(
            report.study_instance_uid, report.rule, report.series_key, report.revision, now
        )
        return
    newest = max(inputs.values(), key=lambda series: series.instances[-1].received_at)
    identities = [one.pixel_identity for series in inputs.values() for one in series.instances]
    room.jobs.enqueue(
        JobRequest(
            rule=report.rule,
            study_instance_uid=report.study_instance_uid,
            series_key=report.series_key,
            roles=report.roles,
            revision=report.revision,
            explanation=report.explanation,
            job_key=job_key(identities, active.model.digest, active.parameters),
            model=active.model.name,
            model_digest=active.model.digest,
            parameters=active.parameters,
            inputs={
                role: {
                    "series_instance_uid": series.series_instance_uid,
                    "revision": series.revision,
                    "instances": series.snapshot,
                }
                for role, series in inputs.items()
            },
            destinations=resolve_destinations(active.send, room.peers, newest.origin),
            priority=active.priority,
            config_digest=room.config_digest,
            taken_series_numbers=taken_series_numbers,
        ),
        now,
    )


def _unmatched(series: CompleteSeries, silent: Sequence[Explanation]) -> MatchReport:
    reasons = [f"rule {explanation.rule}: {explanation.sentence}" for explanation in silent]
    sentence = "; ".join(reasons) or "there are no rules on single series"
    report = _report(
        NO_RULE, series.study_instance_uid, series.series_instance_uid, {"": series},
        series.revision, [explanation.as_json() for explanation in silent],
    )  # fmt: skip
    return _with(report, MatchState.UNMATCHED, f"no rule fired: {sentence}")


def _report(
    rule: str,
    study_instance_uid: str,
    series_key: str,
    inputs: Mapping[str, CompleteSeries],
    revision: int,
    explanation: object,
) -> MatchReport:
    return MatchReport(
        rule=rule,
        study_instance_uid=study_instance_uid,
        series_key=series_key,
        roles={role: series.series_instance_uid for role, series in inputs.items()},
        revision=revision,
        state=MatchState.QUEUED,
        explanation=explanation,
    )


def _with(report: MatchReport, state: MatchState, sentence: str) -> MatchReport:
    return MatchReport(
        rule=report.rule,
        study_instance_uid=report.study_instance_uid,
        series_key=report.series_key,
        roles=report.roles,
        revision=report.revision,
        state=state,
        sentence=sentence,
        explanation=report.explanation,
    )
