"""What each process does, from a checked plan and the supervisor's signals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from node.clock import Clock
from node.database.engine import epoch_s, reading
from node.domain.errors import ConfigInvalid
from node.domain.instance import Instance
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.jobs.progress import WorkProgress
from node.jobs.results import ResultStore
from node.jobs.store import JobStore
from node.pipeline.accept import Replan
from node.pipeline.build import Plan
from node.pipeline.deliver import Deliverer, DeliveryRoom
from node.pipeline.matching import MatchRoom
from node.pipeline.retain import Retention
from node.pipeline.settle import Settler
from node.pipeline.settle_room import SettleRoom
from node.pipeline.supervise import Signals
from node.pipeline.work import Worker, WorkRoom
from node.spool.arrivals import Arrivals
from node.spool.losses import Losses

log = logging.getLogger(__name__)

TICK_S = 0.2
REAP_S = 5.0
RETAIN_S = 5.0
ARRIVING_S = 10.0


def route(plan: Plan, replan: Replan, signals: Signals) -> None:
    """The process "route": settles series, takes back lost leases, frees disk."""
    engine = plan.open_engine()
    settler = Settler(settle_room(plan, engine))
    retention = Retention(plan, engine)
    leases = JobLeases(engine, max_attempts=plan.config.work.attempts)

    def tick() -> None:
        if signals.reload.is_set():
            signals.reload.clear()
            fresh = _fresh(replan)
            if fresh is not None:
                settler.use(settle_room(fresh, engine))
                retention.use(fresh)
        _guarded("tick", lambda: settler.tick(_now(engine)))

    clock = Clock()
    clock.every(TICK_S, tick, "settle")
    clock.every(REAP_S, lambda: _guarded("reap", leases.reap), "reap")
    clock.every(
        RETAIN_S, lambda: _guarded("retain", lambda: retention.sweep(_now(engine))), "retain"
    )
    clock.start()
    signals.stop.wait()
    clock.stop()
    engine.dispose()


def work(plan: Plan, replan: Replan, signals: Signals, *, owner: str, device: str) -> None:
    """The process "work": one device."""
    engine = plan.open_engine()
    worker = Worker(
        work_room(plan, engine),
        owner=owner,
        device=device,
        idle_unload_s=plan.config.work.idle_unload_s,
    )

    def reload() -> None:
        fresh = _fresh(replan)
        if fresh is not None:
            worker.use(work_room(fresh, engine))

    worker.run(signals, reload)
    engine.dispose()


def deliver(plan: Plan, replan: Replan, signals: Signals, *, owner: str) -> None:
    """The process "deliver"."""
    engine = plan.open_engine()
    deliverer = Deliverer(delivery_room(plan, engine), owner=owner)

    def reload() -> None:
        fresh = _fresh(replan)
        if fresh is not None:
            deliverer.use(delivery_room(fresh, engine))

    deliverer.run(signals, reload)
    engine.dispose()


def settle_room(plan: Plan, engine: Engine) -> SettleRoom:
    """What the tick works with."""
    instances = plan.config.data_dir / "spool" / "instances"

    def read_header(instance: Instance) -> Dataset:
        return dcmread(instances / instance.file_name, stop_before_pixels=True, force=True)

    return SettleRoom(
        index=Arrivals(engine),
        losses=Losses(engine, around_s=plan.policy.quiet_max_s),
        work=WorkProgress(engine),
        match=MatchRoom(
            matches=MatchStore(engine),
            jobs=JobStore(engine),
            rules=plan.rules,
            peers=plan.config.peers,
            config_digest=plan.config.digest,
            study_wait_s=plan.config.completion.study_wait_s,
        ),
        policy=plan.policy,
        read_header=read_header,
    )


def work_room(plan: Plan, engine: Engine) -> WorkRoom:
    """What a worker works with."""
    arrivals = Arrivals(engine)
    instances = plan.config.data_dir / "spool" / "instances"

    def files_of(series_instance_uid: str, versions: Mapping[str, int]) -> Mapping[str, Path]:
        found = arrivals.files_of(series_instance_uid, versions)
        return {uid: instances / name for uid, name in found.items()}

    in_rules: dict[str, Mapping[str, Any]] = {}
    for rule in plan.rules:
        in_rules.setdefault(rule.model.name, rule.parameters)
    return WorkRoom(
        leases=JobLeases(engine, max_attempts=plan.config.work.attempts),
        results=ResultStore(engine),
        models=plan.models,
        in_rules=in_rules,
        files_of=files_of,
        is_work_coming=lambda: arrivals.is_any_arriving(ARRIVING_S),
        results_folder=plan.results_folder,
        weights_dir=plan.config.weights_dir,
        accept_licenses=frozenset(plan.config.accept_licenses),
        devices=plan.config.work.devices,
        holds_implausible=plan.config.work.on_implausible == "hold",
    )


def delivery_room(plan: Plan, engine: Engine) -> DeliveryRoom:
    """What the deliverer works with."""
    return DeliveryRoom(
        outbox=Outbox(engine, plan.config.digest),
        destinations=plan.destinations,
        results=plan.results_folder,
    )


def _now(engine: Engine) -> float:
    with reading(engine) as connection:
        return epoch_s(connection)


def _fresh(replan: Replan) -> Plan | None:
    """The configuration as it is on disk now, or None where it must not be used."""
    try:
        return replan()
    except ConfigInvalid as invalid:
        log.error("reload refused, the old configuration stays", extra={"why": str(invalid)})
        return None


def _guarded(name: str, call: Callable[[], object]) -> None:
    """One round of a loop: what goes wrong is logged, and the next round tries again."""
    try:
        call()
    except OperationalError as error:
        log.error("the database cannot be used", extra={"loop": name, "why": type(error).__name__})
    except Exception:
        log.exception("loop failed", extra={"loop": name})
