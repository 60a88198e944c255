"""The whole road: from the last C-STORE response to the SEG stored in a real Orthanc.

``python -m tests.bench road``. A node on the safe default rules, with one peer for the sender, gets
the 36 slices of a real CT, again and again under new UIDs. The first series after a start is
"cold", the others are "warm". The clock starts when the sender has its last response, before it
releases the association, and stops when Orthanc's change log shows the SEG. Stage times are the
node's own, from its database.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from node.deliver.dimse import send_c_store
from tests.bench.report import Goal, Report, median_of, spread
from tests.support.cases import Cases, roots
from tests.support.peers import Node, Orthanc

CALLING = "STORESCU"
CASE = "ct_abdomen_crlm-ct-1004"
WAITING = "waiting for completion"
STAGES = ("headers", "read", "infer", "keep labels", "encode", "verify")
ROWS = (WAITING, "queue", *STAGES, "rows and files", "delivery", "whole road")
WAITING_LIMIT_S = 1.5
ROAD_LIMIT_S = 60.0
# the rule of a node without a file
RULES = [{"name": "every CT", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["sender"]}]

Seconds = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sent:
    """A series that the node acknowledged whole."""

    series_instance_uid: str
    last_response_at: float
    transfer_s: float


def case_folder() -> Path:
    """The real CT; its place can be named as for the tests.

    Raises:
        FileNotFoundError: It is not there.
    """
    folder = Cases("data", tuple(roots())).find(CASE)
    if folder is None:
        raise FileNotFoundError(f"{CASE} is not here: make test-data")
    return folder


def read_case() -> list[FileDataset]:
    """Its instances, whole."""
    return [dcmread(path) for path in sorted(case_folder().glob("*.dcm"))]


def renewed(instances: Sequence[FileDataset]) -> list[FileDataset]:
    """The same under new UIDs and another pixel value, so that no result can be used again."""
    study, series = generate_uid(), generate_uid()
    for instance in instances:
        instance.StudyInstanceUID, instance.SeriesInstanceUID = study, series
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        pixels = bytearray(instance.PixelData)
        pixels[0] = (pixels[0] + 1) % 256
        instance.PixelData = bytes(pixels)
    return list(instances)


def send(port: int, instances: Sequence[FileDataset]) -> Sent:
    """Send over one association; the time is taken before it is released."""
    entity = AE(ae_title=CALLING)
    first = instances[0]
    entity.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    association = entity.associate(
        "127.0.0.1", port, ae_title="SEGNODE", evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)]
    )
    if not association.is_established:
        raise SystemExit("the node refused the association")
    started = time.time()
    for instance in instances:
        status = send_c_store(association, instance, 1).Status
        if status != 0:
            raise SystemExit(f"the node answered {status:04X}")
    last_response_at = time.time()
    association.release()
    return Sent(str(first.SeriesInstanceUID), last_response_at, last_response_at - started)


def _no_delay(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class ChangeLog:
    """Orthanc's change log from where it was read last."""

    def __init__(self, orthanc: Orthanc) -> None:
        self._orthanc = orthanc
        self._last = 0

    def wait_for_instances(self, number: int) -> float:
        """When so many new instances were seen, in epoch seconds."""
        seen, deadline = 0, time.monotonic() + ROAD_LIMIT_S
        while time.monotonic() < deadline:
            changes = self._orthanc.get(f"/changes?since={self._last}&limit=1000")
            self._last = changes["Last"]
            seen += sum(1 for change in changes["Changes"] if change["ChangeType"] == "NewInstance")
            if seen >= number:
                return time.time()
            time.sleep(0.01)
        raise SystemExit(f"no SEG in Orthanc within {ROAD_LIMIT_S:g} s")


def stages_of(database: Path, sent: Sent, stored_at: float) -> Seconds:
    """Where the time of one series went."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        created, started, finished, stages = connection.execute(
            "SELECT job.created_at, job.started_at, job.finished_at, job.stages FROM job "
            "JOIN match ON match.job_id = job.id WHERE match.series_key = ?",
            (sent.series_instance_uid,),
        ).fetchone()
    told = {name: float(seconds) for name, seconds in json.loads(stages).items()}
    inside = {name: told.get(name, 0.0) for name in STAGES}
    inside["infer"] += told.get("shapes", 0.0) + told.get("compose", 0.0)  # of ct_tissue
    return {
        WAITING: created - sent.last_response_at,
        "queue": started - created,
        **inside,
        "rows and files": finished - started - sum(inside.values()),
        "delivery": stored_at - finished,
        "whole road": stored_at - sent.last_response_at,
    }


def one_life(root: Path, instances: Sequence[FileDataset], series: int) -> list[Seconds]:
    """Start a node and an Orthanc, send so many series; stage times, the cold series first."""
    with Orthanc(root / "orthanc", plugins=()) as orthanc:
        peer = {"ae_title": CALLING, "host": "127.0.0.1", "port": orthanc.dicom_port}
        with Node(root / "node", {"peers": {"BENCH": peer}, "rules": RULES}) as node:
            log, lives = ChangeLog(orthanc), []
            for _ in range(series):
                sent = send(node.dicom_port, renewed(instances))
                stored_at = log.wait_for_instances(1)
                lives.append(_when_recorded(node, sent, stored_at))
    return lives


def _when_recorded(node: Node, sent: Sent, stored_at: float) -> Seconds:
    return stages_of(node.data_dir / "segnode.sqlite", sent, stored_at)


def measure(
    *, lives: int = 2, warm: int = 4, say: Callable[[str], None] = lambda _: None
) -> list[Report]:
    """The table of the road: medians over all warm and all cold series."""
    instances = read_case()
    runs_cold: list[Seconds] = []
    runs_warm: list[Seconds] = []
    for life in range(lives):
        say(f"road: node {life + 1} of {lives}")
        with TemporaryDirectory(prefix="segnode-bench-") as root:
            cold, *later = one_life(Path(root), instances, warm + 1)
        runs_cold.append(cold)
        runs_warm += later
    rows = [
        {
            "stage": name,
            "warm s": median_of(runs_warm, name),
            "warm min-max": spread([run[name] for run in runs_warm]),
            "cold s": median_of(runs_cold, name),
        }
        for name in ROWS
    ]
    goal = Goal(
        claim="waiting for completion, s",
        figure=max(run[WAITING] for run in runs_warm),
        limit=WAITING_LIMIT_S,
    )
    title = (
        f"last C-STORE response to SEG in Orthanc, {len(instances)} slices of {CASE}, "
        f"{len(runs_warm)} warm and {lives} cold"
    )
    return [Report(part="road", title=title, rows=rows, goals=[goal])]
