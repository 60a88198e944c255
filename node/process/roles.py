"""What each process does, from a checked plan and the supervisor's signals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from node.clock import Clock
from node.database.engine import epoch_s, keep_time, reading
from node.domain.errors import ConfigInvalid
from node.jobs.leases import JobLeases
from node.observe import beats
from node.pipeline import accept
from node.pipeline.accept import Replan, dimse_settings, spool_settings
from node.pipeline.build import Plan
from node.pipeline.data_folder import roles_folder
from node.pipeline.deliver import Deliverer, delivery_deps
from node.pipeline.in_hand import InHand
from node.pipeline.retain import Retention
from node.pipeline.settle import SLICE_S, TICK_WORK_S, Settler, settle_deps
from node.pipeline.signals import Signals
from node.pipeline.work import Worker, work_deps
from node.process.health import NodeHealth
from node.process.memory import limit_memory
from node.process.supervise import Supervisor
from node.process.watch import Watch
from node.receive.dimse import open_ports
from node.spool.files import SpaceGuard, SpoolFolders
from node.spool.losses import Losses
from node.spool.rebuild import rebuild_index

log = logging.getLogger(__name__)

TICK_S = 0.2
REAP_S = 5.0
RETAIN_S = 5.0
TIME_S = 1.0
# how long a round of each loop may take; the index of a million instances is compared in a minute
SETTLE_S = 6.0
_RETAIN_ROUND_S = 120.0
_COMPARE_S = 1800.0
CREW_DRAIN_S = accept.DRAIN_S + 5.0


def receive(plan: Plan, replan: Replan, signals: Signals) -> int:
    """The process "receive": serves the ports, or keeps them for processes that share them."""
    count = plan.config.dimse.process_count
    ports = open_ports(dimse_settings(plan.config), count)
    if count == 1:
        limit_memory("receive", plan.config.memory.role_bytes)
        accept.receive(plan, replan, signals, ports=ports)
        return 0
    names = [f"receive {process + 1}" for process in range(count)]

    def look() -> None:
        if accept.doors_changed(plan, replan):
            crew.stop()

    def one(process: int, signals: Signals) -> None:
        limit_memory(names[process], plan.config.memory.role_bytes)
        accept.receive(plan, replan, signals, ports=ports, process=process)

    crew = Supervisor(
        {name: partial(one, process) for process, name in enumerate(names)},
        check_reload=look,
        drain_s=CREW_DRAIN_S,
        ledger=roles_folder(plan.config.data_dir),
        bury=lambda name: ports.forget(names.index(name)),
    )
    return crew.run(signals)


def route(plan: Plan, replan: Replan, signals: Signals) -> None:
    """The process "route": settles series, takes back lost leases, frees disk, keeps the time.

    First the index is made to agree with the files: before, a series of which an acknowledged file
    has no row would look complete.
    """
    engine = plan.open_engine()
    index = IndexCheck(plan, engine, signals)
    index.verify()
    if signals.stop.is_set():
        engine.dispose()
        return
    in_hand = InHand(plan.config.data_dir / "run" / "route")
    settler = Settler(
        settle_deps(plan, engine), most_s=TICK_WORK_S, slice_s=SLICE_S, in_hand=in_hand
    )
    retention = Retention(plan, engine)
    leases = JobLeases(engine, max_attempts=plan.config.work.attempts)

    watch = _watch(plan, engine, signals)

    def use(fresh: Plan) -> None:
        settler.use(settle_deps(fresh, engine))
        retention.use(fresh)
        watch.use(_health_of(fresh, engine), fresh.config.notify)
        log_set_aside(fresh)

    def tick() -> None:
        beats.beat("settle", SETTLE_S)
        if signals.reload.is_set():
            signals.reload.clear()
            _reload(replan, use)
        _guarded("tick", settle)

    def settle() -> None:
        index.verify()
        if not signals.stop.is_set():  # else the rest was left for the next start
            settler.tick(_now(engine))

    def retain() -> None:
        beats.beat("retain", _RETAIN_ROUND_S)
        with index.at_rest:
            retention.sweep(_now(engine))

    def keep() -> None:
        beats.beat("time", SETTLE_S)
        keep_time(engine)

    def reap() -> None:
        beats.beat("reap", REAP_S + SETTLE_S)
        leases.reap()

    clock = Clock()
    clock.every(TIME_S, lambda: _guarded("time", keep), "time")
    clock.every(TICK_S, tick, "settle")
    clock.every(REAP_S, lambda: _guarded("reap", reap), "reap")
    clock.every(RETAIN_S, lambda: _guarded("retain", retain), "retain")
    clock.start()
    signals.stop.wait()
    clock.stop()
    # a start on a clock that was set back meanwhile goes on from here
    _guarded("time", partial(keep_time, engine, note_every_s=0.0))
    watch.join()
    in_hand.close()
    engine.dispose()


class IndexCheck:
    """Has the index agree with the files: at first, and whenever somebody began to listen since.

    A receiver that was killed leaves files without rows, for the 50 ms that rows are late.

    Attributes:
        at_rest: Who deletes files holds it: a tombstone whose file is still there would revive.
    """

    def __init__(self, plan: Plan, engine: Engine, signals: Signals) -> None:
        self._engine = engine
        self._folders = SpoolFolders.of(plan.config.data_dir)
        self._stop = signals.stop
        self.at_rest = Lock()
        self._losses = Losses(engine)
        self._verified: Mapping[str, float] | None = None

    def verify(self) -> None:
        """Compare them, unless nobody began to listen since the last time."""
        listening = self._losses.listening_since()
        if listening == self._verified:
            return
        beats.beat("settle", _COMPARE_S)
        with self.at_rest:
            rebuilt = rebuild_index(self._engine, self._folders, stop=self._stop)
        beats.beat("settle", SETTLE_S)
        behind = {key: getattr(rebuilt, key) for key in ("instances", "quarantined", "stale_parts")}
        if any(behind.values()):
            log.info("the index was behind the spool", extra=behind)
        self._verified = listening


def _watch(plan: Plan, engine: Engine, signals: Signals) -> Watch:
    """Have the node looked after beside what a process does: more than one may, one at a time does."""
    watch = Watch(engine, _health_of(plan, engine), plan.config.notify)
    watch.start(signals.stop)
    return watch


def _health_of(plan: Plan, engine: Engine) -> NodeHealth:
    return NodeHealth(engine, SpaceGuard.of(spool_settings(plan.config)), plan.config)


def log_set_aside(plan: Plan) -> None:
    """Tell which model folders cannot be used, and why."""
    for name, model in plan.found.unusable.items():
        log.warning("a model is set aside", extra={"model": name, "sentence": str(model)})


def work(plan: Plan, replan: Replan, signals: Signals, *, owner: str, device: str) -> None:
    """The process "work": one worker of one device."""
    engine = plan.open_engine()
    worker = Worker(
        work_deps(plan, engine),
        owner=owner,
        device=device,
        idle_unload_s=plan.config.work.idle_unload_s,
        beat=beats.beat,
    )

    def use(fresh: Plan) -> None:
        worker.use(work_deps(fresh, engine))

    worker.run(signals, lambda: _reload(replan, use))
    engine.dispose()


def deliver(plan: Plan, replan: Replan, signals: Signals, *, owner: str) -> None:
    engine = plan.open_engine()
    deliverer = Deliverer(delivery_deps(plan, engine), owner=owner, beat=beats.beat)

    watch = _watch(plan, engine, signals)

    def use(fresh: Plan) -> None:
        deliverer.use(delivery_deps(fresh, engine))
        watch.use(_health_of(fresh, engine), fresh.config.notify)

    deliverer.run(signals, lambda: _reload(replan, use))
    watch.join()
    engine.dispose()


def _now(engine: Engine) -> float:
    with reading(engine) as connection:
        return epoch_s(connection)


def _reload(replan: Replan, use: Callable[[Plan], None]) -> None:
    """Go on with the configuration as it is on disk now, unless it must not be used."""
    try:
        fresh = replan()
    except ConfigInvalid as invalid:
        log.error("reload refused, the old configuration stays", extra={"why": str(invalid)})
    else:
        use(fresh)


def _guarded(name: str, call: Callable[[], object]) -> None:
    """One round of a loop: what goes wrong is logged, and the next round tries again."""
    try:
        call()
    except OperationalError as error:
        log.error("the database cannot be used", extra={"loop": name, "why": type(error).__name__})
    except Exception:
        log.exception("loop failed", extra={"loop": name})
