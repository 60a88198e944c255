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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from sqlalchemy import Engine

from node.batch.report import volumes_by_name
from node.database.pages import every
from node.deliver.dimse import DimseDestination
from node.deliver.send_folder import send_folder
from node.demo.peers import post_instances, receiving, write_copies
from node.demo.phantom import write_phantom
from node.domain.errors import ConfigInvalid, NodeError
from node.domain.instance import SeriesState
from node.domain.job import DeliveryState, JobState
from node.domain.peers import Peer
from node.jobs.catalog import JobCatalog
from node.jobs.outbox import Outbox
from node.pipeline.build import Plan, plan
from node.spool.catalog import SpoolCatalog
from node.words import show_job, show_match, show_series

DEFAULT_FOLDER = Path("segnode-demo")
AE_TITLE, PEER_TITLE = "SEGNODE", "DEMO"

_MARKER = ".segnode-demo"
_START_S = 60.0
_STOP_S = 40.0
_LOOK_EVERY_S = 0.1
_UNFINISHED_JOBS = (JobState.QUEUED, JobState.RUNNING)
_UNFINISHED_DELIVERIES = (DeliveryState.WAITING, DeliveryState.SENDING)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportReport:
    """One series' way through the node.

    Args:
        stages_s: Stage -> seconds, in the order of the road.
        volumes_ml: Segment name -> volume.
        files: Where the result lies: as received by C-STORE, and on the shelf.
    """

    transport: str
    series_instance_uid: str
    instances: int
    state: str
    sentence: str
    stages_s: Mapping[str, float]
    volumes_ml: Mapping[str, float]
    files: Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo showed."""

    folder: Path
    config: Path
    wall_s: float
    transports: Sequence[TransportReport]

    @property
    def is_good(self) -> bool:
        """Whether a result came back for a series of each road."""
        came_back = {each.transport for each in self.transports if len(each.files) > 1}
        return came_back == {"dimse", "stow"}


class _Stage:
    """The folders and ports of one demo."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "node.yaml"
        self.received, self.shelf = folder / "received", folder / "shelf"
        self.dimse_port, self.web_port, self.peer_port = _free_ports(3)
        self.web_url = f"http://127.0.0.1:{self.web_port}"


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
            if not _wait(lambda: _is_finished(engine, sent), limit_s):
                say(f"not everything was finished within {limit_s:.0f} s")
            transports = _report_transports(current, engine, (stage.received, stage.shelf))
        finally:
            engine.dispose()
    wall_s = time.monotonic() - begun
    return DemoReport(
        folder=stage.folder, config=stage.config, wall_s=wall_s, transports=transports
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
    stage = _Stage(folder)
    stage.shelf.mkdir()
    stage.config.write_text(yaml.safe_dump(_configuration(stage), sort_keys=False), "utf-8")
    return stage


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as open_probes:
        probes = [open_probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


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
    # -P: the working directory is no place to import from
    command = [sys.executable, "-P", "-m", "node", "serve", "--config", str(stage.config)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (
        (stage.folder / "node.log").open("wb") as log,
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        ) as child,
    ):
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


def _wait_until_ready(stage: _Stage, child: subprocess.Popen[bytes]) -> None:
    is_over = _wait(lambda: child.poll() is not None or _answers(stage), _START_S)
    if not is_over or child.poll() is not None:
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
    node = DimseDestination(
        name="node",
        peer=Peer(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=stage.dimse_port),
        calling_ae_title=PEER_TITLE,
    )
    stored = [report.path for report in send_folder(node, source) if report.is_stored]
    if not stored:
        raise NodeError(f"no instance of {source} could be sent by C-STORE")
    say(f"sent {len(stored)} instances by C-STORE")
    copies = write_copies(stored, stage.folder / "copies")
    post_instances(f"{stage.web_url}/dicom-web", copies)
    say(f"sent {len(copies)} instances by STOW-RS, as another study")
    return len(stored) + len(copies)


def _wait(is_over: Callable[[], bool], limit_s: float) -> bool:
    """Whether it was over within the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if is_over():
            return True
        time.sleep(_LOOK_EVERY_S)
    return False


def _is_finished(engine: Engine, sent: int) -> bool:
    """Whether everything that was sent was judged, run and delivered."""
    series = list(every(SpoolCatalog(engine).list_series))
    if sum(row["instances"] for row in series) < sent:
        return False
    if any(row["state"] == SeriesState.RECEIVING.value for row in series):
        return False
    jobs, deliveries = JobCatalog(engine).count_jobs, Outbox(engine).counts
    return not (jobs(*_UNFINISHED_JOBS) or deliveries(*_UNFINISHED_DELIVERIES))


def _report_transports(
    current: Plan, engine: Engine, folders: Sequence[Path]
) -> list[TransportReport]:
    """One report per series that came in, the first one first; results are looked for in folders."""
    spool, jobs = SpoolCatalog(engine), JobCatalog(engine)
    associations = list(every(spool.list_associations))
    series = list(every(spool.list_series))
    files = [path for folder in folders for path in sorted(folder.rglob("*.dcm"))]
    reports = []
    for row in reversed(series):
        whole = spool.get_series(row["series_instance_uid"]) or {}
        transport = whole["instance_list"][0]["transport"]
        matches = jobs.matches_of_series(row["series_instance_uid"], row["study_instance_uid"])
        match = show_match(matches[0]) if matches else show_series(row)
        found = jobs.get_job(match["job_id"]) if match.get("job_id") else None
        job = show_job(found) if found else None
        sender = next((each for each in associations if each["transport"] == transport), None)
        made = [one for one in job["results"] if one["sop_class_uid"]] if job else []
        uids = {one["sop_instance_uid"] for one in made}
        reports.append(
            TransportReport(
                transport=transport,
                series_instance_uid=row["series_instance_uid"],
                instances=row["instances"],
                state=match["state"],
                sentence=(job or match)["sentence"],
                stages_s=_stages(row, sender, job) if job else {},
                volumes_ml=volumes_by_name(current.models[job["model"]], made[0]["summary"])
                if job and made
                else {},
                files=[file for file in files if file.stem in uids],
            )
        )
    return reports


def _stages(
    series: Mapping[str, Any], sender: Mapping[str, Any] | None, job: Mapping[str, Any]
) -> dict[str, float]:
    """How long each stretch of the road took, by the database's clock."""
    opened_at = sender["opened_at"] if sender else series["first_received_at"]
    arrived_at = max(series["last_received_at"], (sender or {}).get("closed_at") or 0.0)
    stages = {
        "receive": arrived_at - opened_at,
        "waiting for completion": job["created_at"] - arrived_at,
        "queued": (job["started_at"] or job["created_at"]) - job["created_at"],
    }
    inner = dict(job["stages"])
    if job["started_at"] and job["finished_at"]:
        inner["rest of the job"] = job["finished_at"] - job["started_at"] - sum(inner.values())
    sent = [each["sent_at"] for each in job["deliveries"] if each["sent_at"]]
    if sent and job["finished_at"]:
        inner["deliver"] = max(sent) - job["finished_at"]
    if sent:
        inner["last image to last delivery"] = max(sent) - arrived_at
    return {**stages, **inner}
