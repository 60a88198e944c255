"""What each loop works with, made of a checked plan and a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Engine

from node.domain.instance import Instance
from node.domain.series import Forced
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.jobs.results import ResultStore
from node.jobs.revisions import SeriesWork
from node.jobs.store import JobStore
from node.pipeline.build import Plan
from node.pipeline.deliver import DeliveryDeps
from node.pipeline.forms import forms_taken
from node.pipeline.matching import MatchDeps
from node.pipeline.settle_deps import SettleDeps
from node.pipeline.work import WorkDeps
from node.spool.arrivals import Arrivals
from node.spool.files import SpoolFolders
from node.spool.losses import Losses

ARRIVING_S = 10.0


def settle_deps(plan: Plan, engine: Engine) -> SettleDeps:
    """What the tick works with."""
    instances = SpoolFolders.of(plan.config.data_dir).instances

    def read_header(instance: Instance) -> Dataset:
        return dcmread(instances / instance.file_name, stop_before_pixels=True, force=True)

    return SettleDeps(
        index=Arrivals(engine),
        losses=Losses(engine, around_s=plan.policy.quiet_max_s),
        work=SeriesWork(engine),
        match=MatchDeps(
            matches=MatchStore(engine),
            jobs=JobStore(engine),
            rules=plan.rules,
            peers=plan.config.peers,
            config_digest=plan.config.digest,
            taken=forms_taken(plan.destinations),
            study_wait_s=plan.config.completion.study_wait_s,
        ),
        policy=plan.policy,
        read_header=read_header,
    )


def work_deps(plan: Plan, engine: Engine) -> WorkDeps:
    """What a worker works with."""
    arrivals = Arrivals(engine)
    instances = SpoolFolders.of(plan.config.data_dir).instances

    def files_of(series_instance_uid: str, versions: Mapping[str, int]) -> Mapping[str, Path]:
        found = arrivals.files_of(series_instance_uid, versions)
        return {uid: instances / name for uid, name in found.items()}

    in_rules: dict[str, Mapping[str, Any]] = {}
    for rule in plan.rules:
        in_rules.setdefault(rule.model.name, rule.parameters)
    return WorkDeps(
        leases=JobLeases(engine, max_attempts=plan.config.work.attempts),
        results=ResultStore(engine),
        models=plan.models,
        in_rules=in_rules,
        taken=forms_taken(plan.destinations),
        files_of=files_of,
        is_work_coming=lambda: arrivals.is_any_arriving(ARRIVING_S),
        judge_again=lambda uid: arrivals.force(uid, Forced.RERUN),
        results_folder=plan.results_folder,
        weights_dir=plan.config.weights_dir,
        accept_licences=frozenset(plan.config.accept_licences),
        devices=plan.config.work.devices,
        holds_implausible=plan.config.work.on_implausible == "hold",
    )


def delivery_deps(plan: Plan, engine: Engine) -> DeliveryDeps:
    """What the deliverer works with."""
    return DeliveryDeps(
        outbox=Outbox(engine, plan.config.digest, taken=forms_taken(plan.destinations)),
        destinations=plan.destinations,
        results=plan.results_folder,
        grid_roles={model.name: model.grid_role for model in plan.models.values()},
    )
