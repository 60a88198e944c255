"""What ``segnode run`` is asked to do, and the plan of the node that does it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from node.batch.output_folder import DEFAULT_LAYOUT, OUTPUT
from node.config.values import DEVICE
from node.domain.delivery import DEFAULT_FORMS
from node.domain.errors import ConfigInvalid
from node.infer.assets import locked_licences, missing_assets
from node.infer.devices import choose_devices
from node.infer.registry import FoundModels, ModelSpec, default_models_folder, find_models
from node.pipeline.build import Plan, plan
from node.pipeline.forms import FORMS
from node.pipeline.judge import ActiveRule

DEFAULT_MODEL = "ct_tissue"

Parameter = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A folder in, results out.

    Args:
        models: Without a configuration: what to run, each on what it accepts. With one: only rules
            that run these.
        models_dirs: Folders of models besides those that come with segnode; not with ``config``.
        accept_licences: As ``accept_licences`` of a configuration; not with ``config``.
        parameters: Of all models, or, named ``MODEL.NAME``, of one; over those of rules.
        forms: What results are written as.
        devices: One worker each; empty: as configured, and else every GPU, or the CPU.
        proceed: Take series of which images were refused for what is there, and mark their results.
        accepts_implausible: Results that no patient can have are written too, with their mark.
    """

    source: Path
    output: Path
    models: Sequence[str] = ()
    models_dirs: Sequence[Path] = ()
    accept_licences: Sequence[str] = ()
    config: Path | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    layout: str = DEFAULT_LAYOUT
    forms: tuple[str, ...] = DEFAULT_FORMS
    devices: Sequence[str] = ()
    proceed: bool = False
    accepts_implausible: bool = False


def check_request(request: RunRequest) -> None:
    """Find what is wrong with a request before anything is made.

    Raises:
        ConfigInvalid: Folders, forms or devices cannot be used, or options exclude each other.
    """
    mistakes = []
    if not request.source.is_dir():
        mistakes.append(("INPUT", f"{request.source} is not a folder"))
    elif request.output.resolve().is_relative_to(request.source.resolve()):
        mistakes.append(
            ("OUTPUT", "lies inside INPUT: results would be read as input, choose another folder")
        )
    mistakes += [
        ("--device", f"{device!r} is none: use cpu, cuda, or cuda:1 for the second GPU")
        for device in request.devices
        if not DEVICE.fullmatch(device)
    ]
    mistakes += [
        ("--form", f"there is no form {form!r}; there are: {', '.join(FORMS)}")
        for form in request.forms
        if form not in FORMS
    ]
    own = {
        "--models-dir": ("models_dirs", request.models_dirs),
        "--accept-licence": ("accept_licences", request.accept_licences),
    }
    if request.config is not None:
        mistakes += [
            (option, f"belongs into the configuration that is given: {key}")
            for option, (key, given) in own.items()
            if given
        ]
    if mistakes:
        raise ConfigInvalid(mistakes)


def plan_run(request: RunRequest, state: Path, say: Callable[[str], None]) -> Plan:
    """A checked plan whose data lie in ``state``; its destination is still to be set.

    Args:
        say: Gets the devices that were chosen.
    Raises:
        ConfigInvalid: The configuration, a model or a device cannot be used.
    """
    base = plan(_written_rules(request, state) if request.config is None else request.config)
    if request.config is not None:
        for name in request.models:
            _model(name, base.found)
    chosen = [
        rule for rule in base.rules if not request.models or rule.model.name in request.models
    ]
    if not chosen:
        raise ConfigInvalid([("--model", "no rule of this configuration runs it")])
    _check_assets(request, base, chosen)
    rules = [
        replace(rule, send=(OUTPUT,), parameters={**rule.parameters, **given})
        for rule, given in zip(chosen, _parameters(request, chosen), strict=True)
    ]
    data_dir, work = state.absolute(), base.config.work
    devices = (
        choose_devices(request.devices)
        if request.devices
        else choose_devices(work.devices, work.workers)
    )
    if devices.missing:
        asked_by = "--device" if request.devices else "work.devices"
        raise ConfigInvalid([(asked_by, devices.missing)])
    say(f"models run on {devices.sentence}")
    return replace(
        base,
        config=replace(
            base.config,
            data_dir=data_dir,
            database_url=f"sqlite:///{data_dir / 'segnode.sqlite'}",
            completion=replace(base.config.completion, study_wait_s=0.0),
            work=replace(
                work,
                devices=devices.workers,
                workers=1,
                on_implausible="deliver" if request.accepts_implausible else work.on_implausible,
            ),
        ),
        rules=tuple(rules),
    )


def judged_by(current: Plan) -> str:
    """What decides which jobs there are: another digest, and every series is judged again."""
    rules = [
        [active.rule.name, active.model.digest, dict(active.parameters)] for active in current.rules
    ]
    # what the configuration says of this run's own folders and devices decides nothing, and what
    # becomes of a result is no matter of its job
    work = replace(current.config.work, devices=("auto",), workers=1, on_implausible="hold")
    config = replace(current.config, work=work)
    body = json.dumps([config.digest, rules], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def _written_rules(request: RunRequest, state: Path) -> Path:
    """A configuration with one rule per model, on whatever it accepts.

    The commands of a node can be pointed at it, to look into the run.
    """
    folders = [path.absolute() for path in request.models_dirs]
    known = find_models([default_models_folder(), *folders])
    names = dict.fromkeys(request.models or (DEFAULT_MODEL,))
    content = {
        "data_dir": ".",
        "storage": {"reserve_gb": 1, "max_used_percent": 100},
        "models_dirs": [str(folder) for folder in folders],
        "accept_licences": list(request.accept_licences),
        "rules": [_rule_of(_model(name, known)) for name in names],
    }
    path = state / "rules.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _model(name: str, known: FoundModels) -> ModelSpec:
    if why_not := known.why_not(name):
        raise ConfigInvalid([("--model", why_not)])
    return known.usable[name]


def _rule_of(model: ModelSpec) -> dict[str, Any]:
    """The rule that gives a model whatever it accepts."""
    accepts = {
        role: dict(given.accepts) or {"Modality": {"present": True}}
        for role, given in model.inputs.items()
    }
    rule: dict[str, Any] = {"name": model.name, "run": model.name, "send": []}
    if len(accepts) == 1:
        return rule | {"when": accepts[model.grid_role]}
    return rule | {"study": accepts}


def _check_assets(request: RunRequest, base: Plan, chosen: Sequence[ActiveRule]) -> None:
    """Say at once what every job of a model that was asked for by name would fail with."""
    mistakes = []
    for model in {rule.model.name: rule.model for rule in chosen}.values():
        if model.name not in request.models:
            continue
        missing = missing_assets(model, base.config.weights_dir)
        # the weights of a variant that is not run may be left out
        if set(missing) & set(model.files) or (missing and set(model.weights) <= set(missing)):
            what = f"{len(missing)} files of {model.name} are missing, {missing[0].path} among them"
            mistakes.append(("--model", f"{what}: segnode models pull {model.name}"))
        for licence in locked_licences(model, base.config.accept_licences):
            how = "--accept-licence" if request.config is None else "accept_licences"
            what = f"the weights of {model.name} forbid commercial use"
            mistakes.append(("--model", f"{what}: read {licence} and name it in {how}"))
    if mistakes:
        raise ConfigInvalid(mistakes)


def _parameters(
    request: RunRequest, chosen: Sequence[ActiveRule]
) -> Sequence[Mapping[str, Parameter]]:
    """What was set for the model of each rule."""
    models = {rule.model.name for rule in chosen}
    given: list[dict[str, Parameter]] = [{} for _ in chosen]
    for key, value in request.parameters.items():
        model, dot, name = key.partition(".")
        if dot and model not in models:
            runs = ", ".join(sorted(models))
            raise ConfigInvalid([("--set", f"{key}: this run has no model {model!r}, but {runs}")])
        for rule, its in zip(chosen, given, strict=True):
            if not dot or rule.model.name == model:
                its[name if dot else key] = value
    return given
