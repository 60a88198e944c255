"""What models take and must not be given: the conditions of their model.yaml, compiled."""

from __future__ import annotations

from collections.abc import Mapping

from node.infer.registry import ModelSpec
from node.route.compiling import compile_clause
from node.route.conditions import AllOf, Condition
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


def could_take(model: ModelSpec, wanted: Mapping[str, str]) -> bool:
    """Whether a series with these attributes could play a role of the model, for all that it says.

    Raises:
        ConfigInvalid: See ``accepted_inputs``.
    """
    if not wanted:
        return True
    asked = compile_clause(dict(wanted), "filter")
    return any(could_match(asked, accepts) for accepts in accepted_inputs(model).values())
