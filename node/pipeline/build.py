"""From configuration to stage objects: everything is checked here, before anything is opened.

``plan`` is what ``segnode check-config`` runs and what ``segnode serve`` starts from: the same code,
the same mistakes. ``Parts`` are the objects that touch the disk and the database.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from node.assemble.policy import CompletionPolicy, Late, OnGiveUp, OnRefused
from node.config import (
    DicomwebDestinationConfig,
    DimseDestinationConfig,
    FolderDestinationConfig,
    NodeConfig,
    RuleConfig,
    load,
)
from node.database.engine import open_engine
from node.deliver import DicomwebDestination, DimseDestination, FolderDestination
from node.deliver.dicomweb import Basic, Token
from node.deliver.sender import implicit_destinations
from node.domain.errors import ConfigInvalid
from node.infer.registry import ModelSpec, default_models_folder, load_models
from node.pipeline.acceptance import accepted_inputs, refused_inputs
from node.pipeline.deliver import Destination
from node.pipeline.judge import ActiveRule
from node.route.conditions import Condition
from node.route.contradiction import contradiction
from node.route.rules import Rule, StudyRule, compile_rules, conditions_of

Mistakes = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration that can be served: checked whole, with its models and compiled rules."""

    config: NodeConfig
    models: Mapping[str, ModelSpec]
    rules: tuple[ActiveRule, ...]
    destinations: Mapping[str, Destination]

    @property
    def policy(self) -> CompletionPolicy:
        """When series count as complete."""
        given = self.config.completion
        return CompletionPolicy(
            release_settle_s=given.release_settle_s,
            quiet_s=given.quiet_s,
            quiet_max_s=given.quiet_max_s,
            give_up_s=given.give_up_s,
            on_give_up=OnGiveUp(given.on_give_up),
            on_refused=OnRefused(given.on_refused),
            late=Late(given.late),
        )

    @property
    def results_folder(self) -> Path:
        """Where results lie as files."""
        return self.config.data_dir / "results"

    def open_engine(self) -> Engine:
        """An engine on the configured database."""
        return open_engine(self.config.database_url)


def plan(path: Path | None, environ: Mapping[str, str] | None = None) -> Plan:
    """Read and check a configuration file, or, without one, the safe default.

    Raises:
        ConfigInvalid: With every mistake and its path.
    """
    compiled: list[Rule | StudyRule] = []

    def check(raw_rules: Iterable[object]) -> Mistakes:
        compiled[:], found = compile_rules(raw_rules)
        return found

    config = load(path, os.environ if environ is None else environ, check_rules=check)
    models = load_models([default_models_folder(), *config.models_dirs])
    mistakes: Mistakes = []
    rules = [
        rule
        for index, (given, asked) in enumerate(zip(config.rules, compiled, strict=True))
        if (rule := _active_rule(config, given, asked, models, f"rules.{index}", mistakes))
    ]
    if mistakes:
        raise ConfigInvalid(mistakes)
    return Plan(
        config=config, models=models, rules=tuple(rules), destinations=_destinations(config)
    )


def _active_rule(
    config: NodeConfig,
    given: RuleConfig,
    rule: Rule | StudyRule,
    models: Mapping[str, ModelSpec],
    path: str,
    mistakes: Mistakes,
) -> ActiveRule | None:
    model = models.get(given.run)
    if model is None:
        known = ", ".join(sorted(models))
        mistakes.append((f"{path}.run", f"there is no model {given.run!r}; there are: {known}"))
        return None
    try:
        accepts, refuses = accepted_inputs(model), refused_inputs(model)
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
        priority=given.priority,
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


def _destinations(config: NodeConfig) -> Mapping[str, Destination]:
    calling = config.ae_titles[0]
    found: dict[str, Destination] = dict(implicit_destinations(config.peers.values(), calling))
    for name, given in config.destinations.items():
        match given:
            case DimseDestinationConfig():
                peer = config.peers[given.peer]
                found[name] = DimseDestination(
                    name=name,
                    ae_title=peer.ae_title,
                    host=peer.host,
                    port=peer.port,
                    calling_ae_title=given.calling_ae_title,
                    connect_timeout_s=given.connect_timeout_s,
                    negotiate_timeout_s=given.negotiate_timeout_s,
                    answer_timeout_s=given.answer_timeout_s,
                )
            case DicomwebDestinationConfig():
                found[name] = _dicomweb(name, given)
            case FolderDestinationConfig():
                found[name] = FolderDestination(name=name, path=given.path, layout=given.layout)
    return found


def _dicomweb(name: str, given: DicomwebDestinationConfig) -> DicomwebDestination:
    auth: Basic | Token | None = None
    if given.auth is not None:
        secret = given.auth.secret.value
        is_basic = given.auth.kind == "basic"
        auth = Basic(user=given.auth.user, password=secret) if is_basic else Token(token=secret)
    return DicomwebDestination(
        name=name,
        url=given.url,
        auth=auth,
        ca_file=given.ca_file,
        connect_timeout_s=given.connect_timeout_s,
        answer_timeout_s=given.answer_timeout_s,
    )
