"""What rules and models say of complete series: pure, for the tick and for ``segnode explain`` alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from node.assemble.gate import MinimumSize, judge_geometry
from node.domain.header import Header
from node.domain.job import Priority
from node.domain.reasons import Reason, ReasonCode
from node.infer.registry import ModelSpec
from node.pipeline.source import minimum_of
from node.pipeline.watch import CompleteSeries
from node.route.conditions import Condition, Truth
from node.route.rules import Explanation, Rule, StudyRule, explain, why_not, why_true
from node.route.sets import Candidate, SetChoice

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
class RuleJudgement:
    """What one rule says of one series.

    Args:
        reasons: Why its model does not take the series, although the rule fires.
    """

    explanation: Explanation
    reasons: tuple[Reason, ...] = ()

    @property
    def fires(self) -> bool:
        """Of a rule on single series: whether it fires; of a study rule: whether a role fits."""
        return self.explanation.truth is Truth.TRUE


@dataclass(frozen=True, slots=True, kw_only=True)
class SetJudgement:
    """What a study rule says of the series of one study.

    Args:
        fitting: Series that could play a role.
        choice: One series per role, or why not yet.
    """

    fitting: tuple[str, ...]
    choice: SetChoice


def judge_rule(active: ActiveRule, series: CompleteSeries) -> RuleJudgement:
    """Whether a rule fires on a series; of one on single series also whether its model takes it."""
    explanation = explain(active.rule, series.header)
    if explanation.truth is not Truth.TRUE or isinstance(active.rule, StudyRule):
        return RuleJudgement(explanation=explanation)
    (role,) = active.model.inputs
    reasons = tuple(not_taken(active, {role: series}))
    return RuleJudgement(explanation=explanation, reasons=reasons)


def judge_set(rule: StudyRule, candidates: Sequence[Candidate]) -> SetJudgement | None:
    """Which series of a study play which role; None where none of them fits any."""
    fitting = tuple(
        each.series_instance_uid
        for each in candidates
        if explain(rule, each.header).truth is Truth.TRUE
    )
    return SetJudgement(fitting=fitting, choice=rule.choose(candidates)) if fitting else None


def minimum_slices(rules: Iterable[ActiveRule], header: Header) -> int:
    """The most slices that a model of a rule firing on this header needs."""
    wanted = [
        active.minimum(role or active.model.grid_role).slices
        for active in rules
        for role, verdict in explain(active.rule, header).roles.items()
        if verdict.truth is Truth.TRUE
    ]
    return max(wanted, default=2)


def not_taken(active: ActiveRule, inputs: Mapping[str, CompleteSeries]) -> Iterator[Reason]:
    """Why the model cannot, or must not, run on these series."""
    for role, series in inputs.items():
        for reason in _role_not_taken(active, role, series):
            yield reason.having(role=role) if len(inputs) > 1 else reason


def _role_not_taken(active: ActiveRule, role: str, series: CompleteSeries) -> Iterator[Reason]:
    name, given = active.model.name, active.model.inputs[role]
    verdict = active.accepts[role].judge(series.header)
    if verdict.truth is not Truth.TRUE:
        does_not_fit, unknown = why_not(verdict)
        facts = {"model": name, "does_not_fit": does_not_fit, "unknown": unknown}
        yield Reason(ReasonCode.NOT_ACCEPTED, facts)
    # what is unknown passes: many scanners leave Body Part Examined empty
    refused = active.refuses[role].judge(series.header) if role in active.refuses else None
    if refused is not None and refused.truth is Truth.TRUE:
        yield Reason(ReasonCode.MODEL_REFUSES, {"model": name, "because": why_true(refused)})
    gate = judge_geometry(
        series.frames,
        active.minimum(role),
        quantities=given.quantities,
        phase_hints=series.phase_hints,
    )
    yield from gate.findings
    if gate.stack is not None and gate.stack.grid.extent_mm < given.min_extent_mm * _WHOLE:
        extent_mm = gate.stack.grid.extent_mm
        yield Reason(
            ReasonCode.TOO_LITTLE_BODY,
            {"model": name, "extent_mm": extent_mm, "needed_mm": given.min_extent_mm},
        )
