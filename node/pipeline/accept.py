"""The doors of the node: one ingest per process, and behind it the DIMSE server and the folders.

The web process opens the same ingest for STOW-RS.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from threading import Event, Thread
from typing import Any

from node.config import NodeConfig
from node.database.engine import Now
from node.domain.errors import ConfigInvalid, TryLater
from node.domain.instance import Origin, Transport
from node.observe import beats, counts
from node.pipeline.build import Plan
from node.pipeline.signals import Signals
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.dry import DryRun
from node.receive.folder import FolderWatch
from node.receive.ingest import Ingest
from node.receive.scp.door import SharedPorts
from node.receive.syntaxes import Decodable, storage_contexts
from node.spool.files import Spool, SpoolFolders, SpoolSettings, Watermark
from node.spool.index import Index
from node.spool.quarantine_review import QuarantineReview, obstacle_to

log = logging.getLogger(__name__)

Replan = Callable[[], Plan]

# less than the supervisor gives a role that stops
DRAIN_S = 15
# to look at a changed configuration means to read its models
_ROUND_S = 15.0
# a scan takes in all that lies there
_SCAN_S = 3600.0
# of a thread: hundreds of 8 MB would count as memory that is used
_STACK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_listening_settings = attrgetter(
    *(
        "ae_titles",
        "dimse",
        "web",
        "ingest",
        "peers",
        "folders",
        "storage",
        "memory",
        "data_dir",
        "database_url",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestService:
    """What every transport into the node shares in one process."""

    ingest: Ingest
    index: Index
    spool: Spool

    @property
    def quarantine(self) -> QuarantineReview:
        """Decisions about what was refused."""
        check = DryRun(self.ingest.transfer_syntaxes).check
        return QuarantineReview(self.spool, self.index, self._ingest_file, check)

    def _ingest_file(self, path: Path, origin: Origin) -> object:
        arrival = self.ingest.begin_file(origin)
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                arrival.write(piece)
        return arrival.finish()


def quarantine_obstacle(config: NodeConfig) -> Callable[[Mapping[str, Any]], str]:
    """Of a row of the quarantine: why it cannot be accepted; empty where it can."""
    dry = DryRun(Decodable())
    return lambda row: obstacle_to(row, SpoolFolders.of(config.data_dir).quarantine, dry.check)


def counts_folder(config: NodeConfig) -> Path:
    """Where the processes of the node keep their counts."""
    return config.data_dir / "run" / "counts"


def spool_settings(config: NodeConfig) -> SpoolSettings:
    return SpoolSettings(
        folders=SpoolFolders.of(config.data_dir),
        watermark=Watermark(
            reserve_gb=config.storage.reserve_gb, max_used_percent=config.storage.max_used_percent
        ),
        quarantine_max_gb=config.storage.quarantine_max_gb,
        max_instances_per_series=config.ingest.limits.max_instances_per_series,
    )


@contextmanager
def open_ingest(plan: Plan, now: Now | None = None) -> Iterator[IngestService]:
    """The ingest of one process; rows in hand are written when it closes.

    Args:
        now: As in ``Index``.
    """
    engine = plan.open_engine()
    index = Index(engine, now=now, beat=beats.beat)
    spool = Spool(spool_settings(plan.config), index)
    try:
        yield IngestService(
            ingest=Ingest(spool, transfer_syntaxes=Decodable(), limits=plan.config.ingest.limits),
            index=index,
            spool=spool,
        )
    finally:
        spool.close()
        index.close()
        engine.dispose()


def receive(
    plan: Plan, replan: Replan, signals: Signals, *, ports: SharedPorts, process: int = 0
) -> None:
    """DIMSE, and in the first process watched folders, until told to stop.

    It also ends, to be started again, when a reloaded configuration changes the doors.

    Args:
        process: Which of those that share the ports.
    """
    threading.stack_size(_STACK_BYTES)
    ports.begin(process)
    counts.OF_PROCESS.keep_in(counts_folder(plan.config), "receive")
    with open_ingest(plan) as door:
        server = DimseServer(
            dimse_settings(plan.config),
            door.ingest,
            door.index,
            storage_contexts(),
            ports,
            beats.beat,
        )
        server.start()
        is_first = process == 0
        for transport in (Transport.DIMSE, *([Transport.FOLDER] if is_first else [])):
            door.index.listening(transport)
        folders = _watch_folders(plan.config, door, signals.stop) if is_first else []
        log.info("listening", extra={"transport": "dimse", "port": server.port})
        wait_while_settings_stay(plan, replan, signals)
        ends_at = time.monotonic() + DRAIN_S
        server.drain(DRAIN_S)
        for folder in folders:
            folder.join(max(0.0, ends_at - time.monotonic()))


def wait_while_settings_stay(plan: Plan, replan: Replan, signals: Signals) -> None:
    """Return at ``stop``, or when a reload changes who may come in, where, or what there is room for.

    Ports and peers belong to open sockets: the process drains, ends, and the supervisor starts it
    with the new configuration.
    """
    while not signals.stop.wait(0.2):
        beats.beat("settings", _ROUND_S)
        if signals.reload.is_set():
            signals.reload.clear()
            try:
                has_changed = doors_changed(plan, replan)
            except ConfigInvalid as invalid:
                log.error("reload refused", extra={"why": str(invalid)})
                continue
            if has_changed:
                log.info("the doors changed: starting again")
                signals.stop.set()


def doors_changed(plan: Plan, replan: Replan) -> bool:
    """Whether the file on disk says other doors than a plan.

    Raises:
        ConfigInvalid: It cannot be used.
    """
    return bool(_listening_settings(replan().config) != _listening_settings(plan.config))


def dimse_settings(config: NodeConfig) -> DimseSettings:
    return DimseSettings(
        host=config.dimse.host,
        port=config.dimse.port,
        ae_titles=config.ae_titles,
        peers=tuple(config.peers.values()),
        max_associations=config.dimse.max_associations,
        max_associations_per_peer=config.dimse.max_associations_per_peer,
        limits=config.dimse.limits,
        tls=config.dimse.tls,
        tls_port=config.dimse.tls.port if config.dimse.tls else None,
    )


def _watch_folders(config: NodeConfig, door: IngestService, stop: Event) -> list[Thread]:
    threads = []
    for folder in config.folders:
        watch = FolderWatch(folder.path, door.ingest, door.index, folder.peer)
        thread = Thread(target=_scan, args=(watch, folder.scan_s, stop), name="folder", daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def _scan(watch: FolderWatch, every_s: float, stop: Event) -> None:
    while not stop.wait(every_s):
        beats.beat(f"folder {watch.folder.name}", _SCAN_S + every_s)
        try:
            watch.scan()
        except (OSError, TryLater) as error:
            log.error("folder not scanned", extra={"why": str(error)})
