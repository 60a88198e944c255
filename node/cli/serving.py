"""``segnode serve`` and ``segnode check-config``: what would be loaded, and running it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, print_json, say, tell_set_aside
from node.database.engine import clock_of, writing
from node.database.migrate import migrate_apart
from node.domain.errors import ConfigInvalid
from node.infer.devices import choose_devices
from node.jobs.leases import JobLeases
from node.jobs.outbox import Outbox
from node.modelstore.catalog import shortcomings
from node.observe import beats
from node.observe.log import configure_logging
from node.pipeline.build import Plan, plan
from node.pipeline.data_folder import lock_data_folder, roles_folder, unwritable
from node.pipeline.signals import Signals
from node.process import roles
from node.process.memory import end_for_memory, limit_memory
from node.process.supervise import RoleMain, Supervisor
from node.receive.syntaxes import decodable_syntaxes
from node.spool.files import SpoolFolders
from node.web.process import web

log = logging.getLogger(__name__)

DRAIN_S = 25.0
_LOOK_S = 0.5
_ROUND_S = 5.0


class Role(StrEnum):
    """The processes of a node; ``all`` is each of them."""

    ALL = "all"
    RECEIVE = "receive"
    WEB = "web"
    ROUTE = "route"
    WORK = "work"
    DELIVER = "deliver"


def serve(
    config: ConfigOption = None,
    role: Annotated[list[Role] | None, typer.Option(help="Run only these roles.")] = None,
    log_json: Annotated[bool, typer.Option(help="Log lines as JSON.")] = False,
) -> None:
    """Run the node until SIGTERM; SIGHUP loads the configuration again."""
    configure_logging(as_json=log_json)
    is_whole = not role or Role.ALL in role
    wanted = set(Role) if is_whole else set(role or ())
    current = plan(config)

    def check_reload() -> None:
        plan(config)

    with lock_data_folder(current.config.data_dir, shared=not is_whole):
        prepare(current, wanted)
        workers = _workers(current) if Role.WORK in wanted else {}
        if is_whole and current.config.database_url.startswith("sqlite"):
            forget_the_dead(current)
        code = Supervisor(
            role_mains(config, current, wanted, workers),
            check_reload=check_reload,
            drain_s=DRAIN_S,
            ledger=roles_folder(current.config.data_dir),
        ).run()
    raise typer.Exit(code)


def check_config(
    path: Annotated[Path | None, typer.Argument(help="Configuration file.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a configuration exactly as serve does, and list every mistake with its path."""
    try:
        checked = plan(path or config)
    except ConfigInvalid as invalid:
        if not as_json:
            raise
        mistakes = [{"path": where, "mistake": text} for where, text in invalid.mistakes]
        print_json({"good": False, "mistakes": mistakes})
        raise typer.Exit(2) from None
    warnings = [f"{name}: {sentence}" for name, sentence in _not_ready(checked)]
    bad = checked.found.unusable
    if as_json:
        warnings += [f"{name}: {model}" for name, model in bad.items()]
        digest = checked.config.digest
        print_json({"good": True, "mistakes": [], "warnings": warnings, "digest": digest})
        return
    typer.echo(
        f"good: {len(checked.rules)} rules, {len(checked.models)} models, "
        f"{len(checked.destinations)} destinations, digest {checked.config.digest[:12]}"
    )
    for warning in warnings:
        say(f"its jobs would fail: {warning}")
    tell_set_aside(bad)


def _not_ready(current: Plan) -> Iterator[tuple[str, str]]:
    """What models that rules name lack on this machine."""
    config = current.config
    for model in {rule.model.name: rule.model for rule in current.rules}.values():
        for sentence in shortcomings(model, config.weights_dir, config.accept_licences):
            yield model.name, sentence


def prepare(current: Plan, wanted: set[Role]) -> None:
    """Everything that must stand before the first process starts.

    Raises:
        ConfigInvalid: A port is in use, or the database cannot be used.
    """
    settings = current.config
    roles.log_set_aside(current)
    for name, sentence in _not_ready(current):
        log.warning("jobs of a model would fail", extra={"model": name, "sentence": sentence})
    if Role.RECEIVE in wanted:
        _require_free("dimse.port", settings.dimse.host, settings.dimse.port)
    if Role.WEB in wanted:
        _require_free("web.port", settings.web.host, settings.web.port)
    try:
        current.results_folder.mkdir(parents=True, exist_ok=True)
        SpoolFolders.of(settings.data_dir).made()
    except OSError as error:
        raise ConfigInvalid([("data_dir", unwritable(settings.data_dir, error))]) from None
    migrate_apart(settings.database_url)
    decodable_syntaxes()  # asked once here, inherited by every process


def forget_the_dead(current: Plan) -> None:
    """The whole node is about to start on this folder alone: whoever held a lease is dead.

    Nobody waits for anything that could end too early: its time may go forward to the clock's.
    """
    engine = current.open_engine()
    JobLeases(engine).take_back(None)
    Outbox(engine).take_back(None)
    with writing(engine) as connection:
        clock_of(engine).write_down(connection, may_go_forward=True)
    engine.dispose()


def _workers(current: Plan) -> Mapping[str, str]:
    """The device of each worker, by a name of its own.

    Raises:
        ConfigInvalid: A GPU that the configuration names is not here.
    """
    devices = choose_devices(current.config.work.devices, current.config.work.workers)
    if devices.missing:
        raise ConfigInvalid([("work.devices", devices.missing)])
    log.info("models run on", extra={"devices": devices.sentence})
    return devices.by_name


def role_mains(
    path: Path | None, current: Plan, wanted: set[Role], workers: Mapping[str, str]
) -> Mapping[str, RoleMain]:
    """The function of each process; each starts from the file as it is when the process starts.

    Args:
        workers: Name -> device.
    """
    replan = partial(plan, path)
    state = {"plan": current}

    def starting(role: str, main: Callable[..., int | None], **options: Any) -> RoleMain:
        def run(signals: Signals) -> int | None:
            try:
                state["plan"] = replan()
            except ConfigInvalid as invalid:
                log.error("the old configuration stays", extra={"why": str(invalid)})
            await_spool(SpoolFolders.of(state["plan"].config.data_dir), signals)
            if signals.stop.is_set():
                return 0
            if main is not roles.receive:  # which may be several processes: each has its own bound
                limit_memory(role, state["plan"].config.memory.role_bytes)
            try:
                return main(state["plan"], replan, signals, **options)
            except MemoryError:
                end_for_memory(role)

        return run

    single = ((Role.RECEIVE, roles.receive), (Role.WEB, web), (Role.ROUTE, roles.route))
    mains = {role.value: starting(role.value, main) for role, main in single if role in wanted}
    node_id = uuid4().hex[:12]
    if Role.DELIVER in wanted:
        mains["deliver"] = starting("deliver", roles.deliver, owner=f"{node_id}.deliver")
    for name, device in workers.items():
        owner = f"{node_id}.work.{name}"
        role = f"work {name}"
        mains[role] = starting(role, roles.work, owner=owner, device=device)
    return mains


def await_spool(folders: SpoolFolders, signals: Signals) -> None:
    """A role that starts while the spool is away waits: one made anew would hide the true one."""
    if not folders.root.is_dir():
        log.error(
            "waits: the folder for instances is not there", extra={"folder": str(folders.root)}
        )
    while not folders.root.is_dir() and not signals.stop.wait(_LOOK_S):
        beats.beat("spool", _ROUND_S)
    beats.OF_PROCESS.end("spool")


def _require_free(path: str, host: str, port: int) -> None:
    """Refuse to start where another program listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
            what = f"cannot listen on {host}:{port} ({why})"
            sentence = f"{what}: stop the other program or choose another port"
            raise ConfigInvalid([(path, sentence)]) from None
