"""What models take, must not be given, and run as: the conditions of their model.yaml, compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node.domain.errors import JobFailed
from node.domain.header import Header
from node.infer.registry import ModelSpec
from node.infer.runner_part import VariantByPart
from node.route.compiling import compile_clause
from node.route.conditions import AllOf, Condition, Truth
from node.route.contradiction import could_match


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
    """What a model must not be given for a role, compiled; only roles that say so.

    Raises:
        ConfigInvalid: See ``accepted_inputs``.
    """
    where = f"models/{model.name}/model.yaml: inputs"
    return {
        role: compile_clause(given.refuses, f"{where}.{role}.refuses")
        for role, given in model.inputs.items()
        if given.refuses
    }


def variant_conditions(model: ModelSpec) -> Sequence[tuple[Condition, VariantByPart]]:
    """What chooses the variant of a model by a header, compiled, in order.

    Raises:
        ConfigInvalid: See ``accepted_inputs``.
    """
    where = f"models/{model.name}/model.yaml: runner.variant_by"
    return [
        (compile_clause(line.when, f"{where}.{index}.when"), line)
        for index, line in enumerate(model.runner.settings.variant_choices)
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
        JobFailed: The header does not choose one; permanent.
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
    there_are = ", ".join(model.runner.settings.variant_names)
    raise JobFailed(
        f"{line.ask}, so no variant of {model.name} goes without saying: name one of {there_are} as the"
        " parameter variant of the rule",
        permanent=True,
    )


def could_take(model: ModelSpec, wanted: Mapping[str, str]) -> bool:
    """Whether a series with these attributes could play a role of the model, for all that it says.

    Raises:
        ConfigInvalid: See ``accepted_inputs``.
    """
    if not wanted:
        return True
    asked = compile_clause(dict(wanted), "filter")
    return any(could_match(asked, accepts) for accepts in accepted_inputs(model).values())
