"""What rules and models say of complete series: pure, for the tick and for ``segnode explain`` alike.

What a model takes, must not be given, and runs as are the conditions of its model.yaml, compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge
from typing import Any

from node.assemble.gate import judge_geometry
from node.assemble.values import judge_quantity
from node.domain.errors import JobRefused
from node.domain.grid import GateVerdict
from node.domain.header import Header
from node.domain.job import Priority
from node.domain.reasons import Reason, ReasonCode
from node.infer.model_file import InputPart
from node.infer.registry import ModelSpec
from node.infer.runner_part import VariantByPart
from node.pipeline.series import Series, minimum_of
from node.route.compiling import compile_clause
from node.route.conditions import AllOf, Condition, Truth
from node.route.contradiction import could_match
from node.route.rules import Explanation, Rule, StudyRule, explain, why_not, why_true

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What rules say of one series.

    Args:
        firing: Rules on single series that fire, and study rules of which a role fits.
        minimum_slices: The most slices that a model of a firing rule needs.
    """

    firing: Sequence[tuple[ActiveRule, Explanation]]
    silent: Sequence[Explanation]
    minimum_slices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """A rule on single series that fires, and what it leads to.

    Args:
        role: Of the one input of its model.
        explanation: As it is kept.
        reasons: Why its model does not take the series all the same.
    """

    active: ActiveRule
    role: str
    explanation: Mapping[str, Any]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """A series at the revision that opens, and what rules on single series lead to.

    Args:
        silent: What all rules say, where none fires.
    """

    series: Series
    fired: Sequence[Fired]
    silent: Sequence[Explanation] | None


def judge_rules(rules: Iterable[ActiveRule], header: Header) -> Judgement:
    """Judge the header of a series by every rule."""
    explained = [(active, explain(active.rule, header)) for active in rules]
    firing = [(a, explanation) for a, explanation in explained if explanation.truth is Truth.TRUE]
    needed = [
        next(given for name, given in active.model.inputs.items() if role in ("", name)).min_slices
        for active, explanation in firing
        for role, verdict in explanation.roles.items()
        if verdict.truth is Truth.TRUE
    ]
    return Judgement(
        firing=firing,
        silent=[each for _, each in explained if each.truth is not Truth.TRUE],
        minimum_slices=max(needed, default=2),
    )


def settling(judgement: Judgement, series: Series) -> Settling:
    """What the rules lead to now that the series settles."""
    fired = [
        Fired(
            active=active,
            role=role,
            reasons=tuple(not_taken(active, {role: series})),
            explanation=explanation.as_json(),
        )
        for active, explanation in judgement.firing
        if not isinstance(active.rule, StudyRule)
        for role in active.model.inputs
    ]
    return Settling(
        series=series, fired=fired, silent=None if judgement.firing else judgement.silent
    )


def not_taken(active: ActiveRule, inputs: Mapping[str, Series]) -> Iterator[Reason]:
    """Why the model cannot, or must not, run on these series."""
    for role, series in inputs.items():
        for reason in _role_not_taken(active, role, series):
            yield reason.having(role=role) if len(inputs) > 1 else reason


def _role_not_taken(active: ActiveRule, role: str, series: Series) -> Iterator[Reason]:
    name, given = active.model.name, active.model.inputs[role]
    gate = _gate_for(given, series)
    verdict = active.accepts[role].judge(series.header)
    if verdict.truth is not Truth.TRUE:
        does_not_fit, unknown = why_not(verdict)
        facts = {"model": name, "does_not_fit": does_not_fit, "unknown": unknown}
        yield Reason(ReasonCode.NOT_ACCEPTED, facts)
    # what is unknown passes: many scanners leave Body Part Examined empty
    refused = active.refuses[role].judge(series.header) if role in active.refuses else None
    if refused is not None and refused.truth is Truth.TRUE:
        yield Reason(ReasonCode.MODEL_REFUSES, {"model": name, "because": why_true(refused)})
    yield from gate.findings
    if gate.stack is not None and gate.stack.grid.extent_mm < given.min_extent_mm * _WHOLE:
        extent_mm = gate.stack.grid.extent_mm
        yield Reason(
            ReasonCode.TOO_LITTLE_BODY,
            {"model": name, "extent_mm": extent_mm, "needed_mm": given.min_extent_mm},
        )


def _gate_for(given: InputPart, series: Series) -> GateVerdict:
    """The gate's verdict for a model; a volume that is all that the model takes is not judged again."""
    needed, stack = (given.min_slices, given.min_rows, given.min_columns), series.gate.stack
    if (
        stack is not None
        and all(map(ge, stack.grid.shape, needed))
        and not (given.quantity and judge_quantity(series.frames, given.quantities))
    ):
        return series.gate
    return judge_geometry(
        series.frames,
        minimum_of(given),
        quantities=given.quantities,
        phase_hints=series.phase_hints,
    )


def accepted_inputs(model: ModelSpec) -> Mapping[str, Condition]:
    """What a model takes for each role, compiled; a role without ``accepts`` takes any series.

    Raises:
        ConfigInvalid: Its model.yaml names what no rule can.
    """
    where = f"models/{model.name}/model.yaml: inputs"
    return {
        role: compile_clause(given.accepts, f"{where}.{role}.accepts")
        if given.accepts
        else AllOf(conditions=())
        for role, given in model.inputs.items()
    }


def refused_inputs(model: ModelSpec) -> Mapping[str, Condition]:
    """What a model must not be given for a role, compiled likewise; only roles that say so."""
    where = f"models/{model.name}/model.yaml: inputs"
    return {
        role: compile_clause(given.refuses, f"{where}.{role}.refuses")
        for role, given in model.inputs.items()
        if given.refuses
    }


def variant_conditions(model: ModelSpec) -> Sequence[tuple[Condition, VariantByPart]]:
    """What chooses the variant of a model by a header, compiled likewise, in order."""
    where = f"models/{model.name}/model.yaml: runner.variant_by"
    return [
        (compile_clause(line.when, f"{where}.{index}.when"), line)
        for index, line in enumerate(model.runner.variant_choices)
    ]


def variant_by_header(
    model: ModelSpec, parameters: Mapping[str, object], header: Header
) -> Mapping[str, str]:
    """The parameter ``variant``, where the header chooses it; nothing where the job names one.

    What the header does not tell is not guessed: a body's variant on a brain gives labels all the same.

    Args:
        parameters: Of the job.
        header: Of the first input.
    Raises:
        JobRefused: The header does not choose one.
    """
    if "variant" in {**model.runner.parameters, **parameters}:
        return {}
    choices = variant_conditions(model)
    if not choices:
        return {}
    true = (line for condition, line in choices if condition.judge(header).truth is Truth.TRUE)
    line = next(true, VariantByPart(when={}, ask="the header chooses none"))
    if line.variant:
        return {"variant": line.variant}
    there_are = ", ".join(model.runner.variant_names)
    raise JobRefused(
        f"{line.ask}, so no variant of {model.name} goes without saying: name one of {there_are} as the"
        " parameter variant of the rule"
    )


def could_take(model: ModelSpec, wanted: Mapping[str, str]) -> bool:
    """Whether a series with these attributes could play a role of the model, for all that it says."""
    if not wanted:
        return True
    asked = compile_clause(dict(wanted), "filter")
    return any(could_match(asked, accepts) for accepts in accepted_inputs(model).values())
