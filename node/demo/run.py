"""The demo: a real node in a folder, real DICOM over the wire both ways, then an account of it.

``python -m node serve`` runs as a child on free loopback ports. One series goes in by C-STORE, a copy
of it as another study by STOW-RS; results come back by C-STORE to an SCP of the demo and into a folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from sqlalchemy import Engine

from node.deliver.send_folder import FolderSender
from node.demo.peers import post_instances, receiving, write_copies
from node.demo.phantom import write_phantom
from node.demo.report import TransportReport, report_transports
from node.domain.errors import ConfigInvalid, NodeError
from node.domain.job import DeliveryState, JobState
from node.domain.series import SeriesState
from node.jobs.catalog import JobCatalog
from node.pipeline.build import plan
from node.spool.catalog import SpoolCatalog

DEFAULT_FOLDER = Path("segnode-demo")
AE_TITLE, PEER_TITLE = "SEGNODE", "DEMO"

_MARKER = ".segnode-demo"
_START_S = 60.0
_STOP_S = 40.0
_LOOK_EVERY_S = 0.1
_EVERYTHING = 100_000
_UNFINISHED_JOBS = (JobState.QUEUED.value, JobState.RUNNING.value)
_UNFINISHED_DELIVERIES = (DeliveryState.WAITING.value, DeliveryState.SENDING.value)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo showed."""

    transports: Sequence[TransportReport]
    folder: Path
    config: Path
    wall_s: float

    @property
    def is_good(self) -> bool:
        """Whether a result came back for a series of each road."""
        return {
            transport.transport for transport in self.transports if len(transport.files) > 1
        } == {"dimse", "stow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """The folders and ports of one demo."""

    folder: Path
    dimse_port: int
    web_port: int
    peer_port: int

    @property
    def config(self) -> Path:
        return self.folder / "node.yaml"

    @property
    def received(self) -> Path:
        return self.folder / "received"

    @property
    def shelf(self) -> Path:
        return self.folder / "shelf"

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"


def run_demo(source: Path | None, folder: Path, *, limit_s: float, say: Say) -> DemoReport:
    """Show a node at work; everything it made stays in the folder.

    Args:
        source: A folder of DICOM files to send; None sends the phantom.
        folder: Made, or emptied if an earlier demo made it.
        limit_s: Longest wait for the results.
    Raises:
        ConfigInvalid: A folder cannot be used.
        NodeError: The node did not start, or did not take what was sent.
    """
    if source is not None and not source.is_dir():
        raise ConfigInvalid([("--input", f"{source} is not a folder")])
    begun = time.monotonic()
    stage = _prepare(folder)
    if source is None:
        source = stage.folder / "phantom"
        write_phantom(source)
    with (
        receiving(stage.received, PEER_TITLE, stage.peer_port),
        _node(stage, say),
    ):
        sent = _send(stage, source, say)
        current = plan(stage.config)
        engine = current.open_engine()
        try:
            _wait(engine, sent, limit_s, say)
            transports = report_transports(current, engine, (stage.received, stage.shelf))
        finally:
            engine.dispose()
    return DemoReport(
        transports=transports,
        folder=stage.folder,
        config=stage.config,
        wall_s=time.monotonic() - begun,
    )


def _prepare(folder: Path) -> _Stage:
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ConfigInvalid(
            [("--keep", f"{folder} is not empty and no demo made it: choose another")]
        )
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
    dimse_port, web_port, peer_port = _free_ports(3)
    stage = _Stage(folder=folder, dimse_port=dimse_port, web_port=web_port, peer_port=peer_port)
    stage.shelf.mkdir()
    stage.config.write_text(yaml.safe_dump(_configuration(stage), sort_keys=False), "utf-8")
    return stage


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _configuration(stage: _Stage) -> dict[str, Any]:
    return {
        "ae_title": AE_TITLE,
        "dimse": {"host": "127.0.0.1", "port": stage.dimse_port},
        "web": {"host": "127.0.0.1", "port": stage.web_port},
        "data_dir": "data",
        # a full laptop should be able to show this
        "storage": {"reserve_gb": 1, "max_used_percent": 100},
        "peers": {
            PEER_TITLE: {"ae_title": PEER_TITLE, "host": "127.0.0.1", "port": stage.peer_port}
        },
        "destinations": {
            "receiver": {"kind": "dimse", "peer": PEER_TITLE},
            "shelf": {"kind": "folder", "path": "shelf"},
        },
        "rules": [
            {
                "name": "ct",
                "when": {"Modality": "CT", "not": {"ImageType": {"contains": "LOCALIZER"}}},
                "run": "ct_tissue",
                "send": ["receiver", "shelf"],
            }
        ],
    }


@contextmanager
def _node(stage: _Stage, say: Say) -> Iterator[None]:
    """``segnode serve`` as a child, ready when the block begins, gone when it ends."""
    log = (stage.folder / "node.log").open("wb")
    # -P: the working directory is no place to import from
    command = [sys.executable, "-P", "-m", "node", "serve", "--config", str(stage.config)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    )
    try:
        _wait_until_ready(stage, child)
        say(f"node ready: C-STORE on {stage.dimse_port}, HTTP on {stage.web_port}")
        yield
    finally:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()


def _wait_until_ready(stage: _Stage, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        if _answers(stage):
            return
        time.sleep(_LOOK_EVERY_S)
    raise NodeError(f"the node did not start: read {stage.folder / 'node.log'}")


def _answers(stage: _Stage) -> bool:
    with suppress(OSError):
        with requests.Session() as session:
            session.trust_env = False
            is_ready = session.get(f"{stage.web_url}/readyz", timeout=2).ok
        with socket.create_connection(("127.0.0.1", stage.dimse_port), timeout=2):
            return bool(is_ready)
    return False


def _send(stage: _Stage, source: Path, say: Say) -> int:
    """Send a folder by C-STORE and copies of it by STOW-RS; how many instances were stored."""
    sender = FolderSender(
        host="127.0.0.1",
        port=stage.dimse_port,
        called_ae_title=AE_TITLE,
        calling_ae_title=PEER_TITLE,
    )
    stored = [report.path for report in sender.send(source) if report.is_stored]
    if not stored:
        raise NodeError(f"no instance of {source} could be sent by C-STORE")
    say(f"sent {len(stored)} instances by C-STORE")
    copies = write_copies(stored, stage.folder / "copies")
    post_instances(f"{stage.web_url}/dicom-web", copies)
    say(f"sent {len(copies)} instances by STOW-RS, as another study")
    return len(stored) + len(copies)


def _wait(engine: Engine, sent: int, limit_s: float, say: Say) -> None:
    """Return when everything that was sent was judged, run and delivered, or at the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if _is_finished(engine, sent):
            return
        time.sleep(_LOOK_EVERY_S)
    say(f"not everything was finished within {limit_s:.0f} s")


def _is_finished(engine: Engine, sent: int) -> bool:
    series, _ = SpoolCatalog(engine).list_series(limit=_EVERYTHING)
    if sum(row["instances"] for row in series) < sent:
        return False
    if any(row["state"] == SeriesState.RECEIVING.value for row in series):
        return False
    jobs = JobCatalog(engine)
    return not any(
        jobs.list_jobs(state=state, limit=1)[1] for state in _UNFINISHED_JOBS
    ) and not any(jobs.list_deliveries(state=state, limit=1)[1] for state in _UNFINISHED_DELIVERIES)
