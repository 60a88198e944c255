"""What a complete series leads to: a match row for every rule that spoke, a job where one fired.

Every step may be repeated after a crash: matches are keyed by (rule, series set, revision), jobs by
their key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.assemble.gate import MinimumSize, judge_geometry
from node.assemble.phases import PhaseHints
from node.deliver.sender import resolve_destinations
from node.domain.form import FormsTaken
from node.domain.frames import Frame
from node.domain.header import Header
from node.domain.instance import Instance, Origin
from node.domain.job import MatchState, Priority, job_key
from node.domain.peers import Peer
from node.domain.reasons import Reason, ReasonCode, codes_of, in_one_sentence
from node.infer.registry import ModelSpec
from node.jobs.matches import MatchStore
from node.jobs.store import JobStore
from node.jobs.values import JobRequest, MatchReport
from node.pipeline.source import minimum_of
from node.route.conditions import Condition
from node.route.explain import Explanation, explain, why_not, why_true
from node.route.rules import Rule, StudyRule
from node.route.verdict import Truth

NO_RULE = ""
_WHOLE = 1 - 1e-6  # an extent is a product of decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRule:
    """A compiled rule with what it leads to.

    Args:
        accepts: Role of the model -> what it takes, compiled from its model.yaml.
        refuses: Role of the model -> what it must not be given, where it says so.
        deadline_s: Longest run.
    """

    rule: Rule | StudyRule
    model: ModelSpec
    accepts: Mapping[str, Condition]
    refuses: Mapping[str, Condition] = field(default_factory=dict)
    send: tuple[str, ...]
    priority: Priority
    deadline_s: float
    parameters: Mapping[str, object] = field(default_factory=dict)

    def minimum(self, role: str) -> MinimumSize:
        """The smallest series that the model takes for a role."""
        return minimum_of(self.model.inputs[role])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteSeries:
    """A series at one revision: the snapshot that rules judge and jobs are made of.

    Args:
        instances: In the order they came.
        frames: Of all instances.
        phase_hints: What may tell phases apart, frame by frame.
        missing: Images known to be missing, which somebody went on without.
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
    missing: int = 0

    @property
    def snapshot(self) -> dict[str, int]:
        """SOP Instance UID -> version."""
        return {one.sop_instance_uid: one.version for one in self.instances}


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
    spoke = False
    for active in deps.rules:
        explanation = explain(active.rule, series.header)
        if explanation.truth is not Truth.TRUE:
            silent.append(explanation)
            continue
        spoke = True
        if isinstance(active.rule, StudyRule):
            continue
        (role,) = active.model.inputs
        reasons = list(not_taken(active, {role: series}))
        report = report_of(
            active.rule.name, series.study_instance_uid, series.series_instance_uid,
            {role: series}, series.revision, explanation.as_json(),
        )  # fmt: skip
        park_or_ask(deps, active, report, {role: series}, reasons, taken_series_numbers, now)
    if not spoke:
        deps.matches.put(_unmatched(series, silent), now)


def not_taken(active: ActiveRule, inputs: Mapping[str, CompleteSeries]) -> Iterator[Reason]:
    """Why the model cannot, or must not, run on these series."""
    for role, series in inputs.items():
        prefix = f"role {role}: " if len(inputs) > 1 else ""
        for reason in _role_not_taken(active, role, series):
            yield replace(reason, sentence=prefix + reason.sentence)


def _role_not_taken(active: ActiveRule, role: str, series: CompleteSeries) -> Iterator[Reason]:
    name, given = active.model.name, active.model.inputs[role]
    verdict = active.accepts[role].judge(series.header)
    if verdict.truth is not Truth.TRUE:
        yield Reason(ReasonCode.NOT_ACCEPTED, f"{name} does not take it: {why_not(verdict)}")
    # what is unknown passes: many scanners leave Body Part Examined empty
    refused = active.refuses[role].judge(series.header) if role in active.refuses else None
    if refused is not None and refused.truth is Truth.TRUE:
        yield Reason(ReasonCode.MODEL_REFUSES, f"{name} must not be given it: {why_true(refused)}")
    gate = judge_geometry(
        series.frames,
        active.minimum(role),
        quantities=given.quantities,
        phase_hints=series.phase_hints,
    )
    yield from gate.findings
    if gate.stack is not None and gate.stack.grid.extent_mm < given.min_extent_mm * _WHOLE:
        extent_mm = gate.stack.grid.extent_mm
        why = f"{extent_mm:.4g} mm of the body along the stack, {name} needs {given.min_extent_mm:.4g} mm"
        yield Reason(ReasonCode.TOO_LITTLE_BODY, why)


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
        uid = next(iter(inputs.values())).series_instance_uid
        sentence = in_one_sentence(reasons) + judge_again(uid)
        parked = replace(report, reasons=tuple(codes_of(reasons)))
        deps.matches.put(with_state(parked, MatchState.PARKED, sentence), now)
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
            roles=report.roles,
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
            reasons=(ReasonCode.IMAGES_MISSING.value,)
            if any(series.missing for series in inputs.values())
            else (),
        ),
        now,
    )


def judge_again(series_instance_uid: str) -> str:
    """How a sentence ends that says why a series is parked in a node."""
    return f": judge again with: segnode series rerun {series_instance_uid}"


def _identities(inputs: Mapping[str, CompleteSeries]) -> Iterable[str]:
    """The pixels of a job's inputs; in a set, who plays which role is a part of it."""
    for role, series in inputs.items():
        prefix = f"{role}:" if len(inputs) > 1 else ""
        for one in series.instances:
            yield prefix + one.pixel_identity
        if series.missing:  # what is made of a part says so: it is no result of the same as a whole
            yield f"{prefix}missing {series.missing}"


def _unmatched(series: CompleteSeries, silent: Sequence[Explanation]) -> MatchReport:
    reasons = [f"rule {explanation.rule}: {explanation.sentence}" for explanation in silent]
    sentence = "; ".join(reasons)
    report = report_of(
        NO_RULE, series.study_instance_uid, series.series_instance_uid, {"": series},
        series.revision, [explanation.as_json() for explanation in silent],
    )  # fmt: skip
    return with_state(report, MatchState.UNMATCHED, f"no rule fired: {sentence}")


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
        roles={role: series.series_instance_uid for role, series in inputs.items()},
        revision=revision,
        state=MatchState.QUEUED,
        explanation=explanation,
    )


def with_state(report: MatchReport, state: MatchState, sentence: str) -> MatchReport:
    """The same match without a job, and why."""
    return replace(report, state=state, sentence=sentence)
