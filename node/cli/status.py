"""``segnode status``: one look at the whole node, and what frees what is stuck."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from node.cli.opening import SeenNode, look_at_node
from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, aligned, print_json, when
from node.domain.health import COUNTED
from node.infer.devices import choose_devices
from node.jobs.catalog import JobCatalog
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.observe.counts import Key, counted_in
from node.pipeline.accept import counts_folder, spool_settings
from node.process.health import NodeHealth
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard
from node.words import show_count, show_degraded, show_finding


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Counts, what needs a person and the command that frees it, senders, disk, breakers."""
    with look_at_node(config) as node:
        body = _look(node)
    if as_json:
        print_json(body)
    else:
        _print(body)


def _look(node: SeenNode) -> dict[str, Any]:
    settings = node.config
    space = SpaceGuard.of(spool_settings(settings))
    health = NodeHealth(node.engine, space, settings).health()
    spool, outbox = SpoolCatalog(node.engine), Outbox(node.engine)
    disk = shutil.disk_usage(settings.data_dir)
    devices = choose_devices(settings.work.devices, settings.work.workers)
    return {
        "is_running": _is_locked(settings.data_dir / "lock"),
        "takes_instances": health.is_ready,
        "degraded": show_degraded(health),
        "findings": [show_finding(finding) for finding in health.findings],
        "data_dir": str(settings.data_dir),
        "config_digest": settings.digest,
        "devices": {
            "workers": list(devices.workers),
            "sentence": devices.missing or devices.sentence,
        },
        "counted_up_to": COUNTED,
        "series": dict(spool.count_series()),
        "matches": dict(MatchStore(node.engine).counts()),
        "jobs": dict(JobCatalog(node.engine).count_jobs()),
        "deliveries": dict(outbox.counts()),
        "quarantine": spool.count_quarantine(),
        "open_associations": spool.list_associations(only_open=True).rows,
        "open_breakers": dict(outbox.open_breakers()),
        "refused": _refused(counted_in(counts_folder(settings))),
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
    }


def _refused(numbers: Mapping[Key, int]) -> dict[str, dict[str, int]]:
    """Counts by kind, and by the values of its labels."""
    found: dict[str, dict[str, int]] = {}
    for (kind, *labels), number in sorted(numbers.items()):
        found.setdefault(kind, {})["/".join(labels)] = number
    return found


def _is_locked(lock: Path) -> bool:
    """Whether a supervisor holds the data folder."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return isinstance(error, BlockingIOError)


def _print(body: Mapping[str, Any]) -> None:
    running = "running" if body["is_running"] else "not running: segnode serve starts it"
    disk = body["disk"]
    rows = [
        ["node", running],
        ["data", body["data_dir"]],
        ["models run on", body["devices"]["sentence"]],
        ["disk", f"{disk['free_bytes'] / 1e9:.1f} of {disk['total_bytes'] / 1e9:.1f} GB free"],
        *([key, _counts(body[key])] for key in ("series", "matches", "jobs", "deliveries")),
        ["quarantine", show_count(body["quarantine"])],
        ["senders now", ", ".join(_sender(one) for one in body["open_associations"]) or "none"],
        *(
            [
                f"breaker {name}",
                f"open until {when(until)}: segnode deliveries retry --destination {name}",
            ]
            for name, until in body["open_breakers"].items()
        ),
        *([_in_words(kind), _numbers(of_kind)] for kind, of_kind in body["refused"].items()),
    ]
    for line in aligned(rows):
        typer.echo(line)
    for finding in body["findings"]:
        typer.echo(f"degraded ({finding['code']}): {finding['sentence']}: {finding['do']}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{show_count(number)} {state}" for state, number in counts.items()) or "none"


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{labels}: {number}" if labels else f"{number}" for labels, number in counts.items()
    )


def _in_words(kind: str) -> str:
    return kind.removeprefix("segnode_").removesuffix("_total").replace("_", " ")


def _sender(association: Mapping[str, Any]) -> str:
    name = association["peer"] or association["calling_ae_title"] or association["http_user"]
    return f"{name or association['address']} ({association['transport']})"
