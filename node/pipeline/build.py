"""From configuration to stage objects: everything is checked here, before anything is opened.

``plan`` is what ``segnode check-config`` runs and what ``segnode serve`` starts from: the same code,
the same mistakes. ``Parts`` are the objects that touch the disk and the database.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine

from node.config import NodeConfig, RuleConfig, load
from node.database.engine import open_engine
from node.deliver.destination import Destination as ConfiguredDestination
from node.deliver.dimse import implicit_destinations
from node.domain.completion_policy import CompletionPolicy
from node.domain.delivery import DeliverableObject, Outcome, TakesForms
from node.domain.errors import ConfigInvalid
from node.domain.job import Priority
from node.infer.registry import FoundModels, ModelSpec, default_models_folder, find_models
from node.pipeline.forms import FORMS
from node.pipeline.judge import ActiveRule, accepted_inputs, refused_inputs, variant_conditions
from node.route.compiling import compile_rules
from node.route.conditions import Condition
from node.route.contradiction import contradiction
from node.route.rules import Rule, StudyRule, conditions_of
from node.tls import mistakes_of

Mistakes = list[tuple[str, str]]


class Destination(TakesForms, Protocol):
    """Where results go; what a peer does, down to silence, is an outcome."""

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Send one object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration that can be served: checked whole, with its models and compiled rules.

    Args:
        found: All models; those with mistakes are used by no rule.
        models: Those that can be used, by name.
    """

    config: NodeConfig
    found: FoundModels
    rules: tuple[ActiveRule, ...]
    destinations: Mapping[str, Destination]
    models: Mapping[str, ModelSpec] = field(init=False)
    policy: CompletionPolicy = field(init=False)
    results_folder: Path = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (
            ("models", self.found.usable),
            ("policy", self.config.completion),
            ("results_folder", self.config.data_dir / "results"),
        ):
            object.__setattr__(self, name, value)

    def open_engine(self) -> Engine:
        return open_engine(self.config.database_url)


def plan(path: Path | None, environ: Mapping[str, str] | None = None) -> Plan:
    """Read and check a configuration file, or, without one, the safe default.

    Raises:
        ConfigInvalid: With every mistake and its path.
    """
    compiled: list[Rule | StudyRule] = []

    def check(raw_rules: Iterable[object]) -> Mistakes:
        compiled[:], wrong = compile_rules(raw_rules)
        return wrong

    environ = os.environ if environ is None else environ
    forms = {name: form.is_dicom for name, form in FORMS.items()}
    config = load(path, environ, check_rules=check, forms=forms)
    found = find_models([default_models_folder(), *config.models_dirs])
    mistakes: Mistakes = []
    for at, tls in (("dimse.tls", config.dimse.tls), ("web.tls", config.web.tls)):
        mistakes += mistakes_of(tls, at) if tls is not None else []
    rules = [
        rule
        for index, (given, asked) in enumerate(zip(config.rules, compiled, strict=True))
        if (rule := _active_rule(config, given, asked, found, f"rules.{index}", mistakes))
    ]
    if mistakes:
        raise ConfigInvalid(mistakes)
    return Plan(
        config=config, found=found, rules=tuple(rules), destinations=destinations_of(config)
    )


def destinations_of(config: NodeConfig) -> Mapping[str, ConfiguredDestination]:
    """The destinations of the configuration, and the peers that are one by themselves."""
    peers = implicit_destinations(config.peers.values(), config.ae_titles[0])
    return {**peers, **config.destinations}


def _active_rule(
    config: NodeConfig,
    given: RuleConfig,
    rule: Rule | StudyRule,
    found: FoundModels,
    path: str,
    mistakes: Mistakes,
) -> ActiveRule | None:
    model = found.usable.get(given.run)
    if model is None:
        mistakes.append((f"{path}.run", found.why_not(given.run)))
        return None
    try:
        accepts, refuses = accepted_inputs(model), refused_inputs(model)
        variant_conditions(model)
    except ConfigInvalid as invalid:
        mistakes.extend(invalid.mistakes)
        return None
    asked = conditions_of(rule)
    before = len(mistakes)
    if isinstance(rule, StudyRule):
        mistakes.extend(_role_mistakes(asked, model, path))
    elif len(model.inputs) != 1:
        roles = ", ".join(model.inputs)
        mistakes.append((f"{path}.when", f"{model.name} takes several series: use study ({roles})"))
    if len(mistakes) == before:
        for role, condition in asked.items():
            accepted = accepts[role or next(iter(accepts))]
            clash = contradiction(condition, accepted, model=model.name)
            if clash is not None:
                where = f"{path}.study.{role}" if role else f"{path}.when"
                mistakes.append((where, f"can never fire: {clash}"))
    if len(mistakes) > before:
        return None
    return ActiveRule(
        rule=rule,
        model=model,
        accepts=accepts,
        refuses=refuses,
        send=given.send,
        priority=Priority[given.priority.upper()],
        parameters=dict(given.parameters),
        deadline_s=given.deadline_s or min(model.resources.deadline_s, config.work.deadline_s),
    )


def _role_mistakes(
    asked: Mapping[str, Condition], model: ModelSpec, path: str
) -> Iterable[tuple[str, str]]:
    for role in asked.keys() - model.inputs.keys():
        yield f"{path}.study.{role}", f"{model.name} has no role {role!r}: take it out"
    for role in model.inputs.keys() - asked.keys():
        yield f"{path}.study", f"{model.name} needs role {role!r}: say which series it is"
