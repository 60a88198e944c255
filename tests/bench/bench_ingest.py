"""Ingest against Orthanc and dcmtk in the same run: ``python -m tests.bench.bench_ingest``.

One synchronous client of our own for all of them: PDUs framed before the clock starts, one system
call per instance, TCP_NODELAY, and the next instance only after the response. Peers run with
TCP_NODELAY=1, without which they are some twenty times slower; Orthanc syncs its files as it does
by default, dcmtk never does, the node always does. Every run has a fresh server and a fresh folder;
the order of servers rotates; medians are printed. Nothing is deleted before the end: ext4 searches
past recently deleted inodes for minutes, which would measure the deletion.

The goals: at least 0.7 times the best dcmtk and 1.5 times Orthanc, with 1 and with 4 associations.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.bench.bench_road import RULES
from tests.bench.processes import cpu_s
from tests.bench.report import Goal, Report, spread
from tests.support import raw_dimse as raw
from tests.support.peers import ORTHANC, Node, free_port
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import wait_for

STORESCP = "/usr/bin/storescp"
ROWS = COLUMNS = 512
GOALS = {"dcmtk": 0.7, "orthanc": 1.5}
DISK = "disk alone"
SERVERS = ("node", "dcmtk", "orthanc", DISK)


@dataclass(frozen=True)
class Encoded:
    """One instance: its UID and its data set."""

    sop_instance_uid: str
    data: bytes


@dataclass(frozen=True)
class Run:
    """What one server did in one run."""

    instances_per_s: float
    cpu_ms_per_instance: float


def make_instances(number: int, series: int) -> list[Encoded]:
    """CT instances of one series, 526 kB each, explicit VR little endian."""
    noise = np.random.default_rng(series).integers(0, 4096, (ROWS, COLUMNS), dtype=np.uint16)
    return [make_instance(noise, series, index) for index in range(number)]


def make_instance(pixels: np.ndarray, series: int, index: int) -> Encoded:
    uid = f"1.2.826.0.1.3680043.8.498.{series + 1}.{index + 1}"
    instance = Dataset()
    instance.SOPClassUID = raw.CT_IMAGE_STORAGE
    instance.SOPInstanceUID = uid
    instance.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    instance.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{series + 1}"
    instance.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.2"
    instance.Modality = "CT"
    instance.PatientName = "Bench^Nobody"
    instance.PatientID = "BENCH"
    instance.StudyDate = "20200101"
    instance.StudyTime = "120000"
    instance.AccessionNumber = ""
    instance.StudyID = "1"
    instance.SeriesNumber = series + 1
    instance.InstanceNumber = index + 1
    instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    instance.ImagePositionPatient = [-200.0, -200.0, float(index)]
    instance.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    instance.PixelSpacing = [0.8, 0.8]
    instance.SliceThickness = 1.0
    instance.RescaleIntercept = -1024
    instance.RescaleSlope = 1
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.Rows, instance.Columns = pixels.shape
    instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 12, 11
    instance.PixelRepresentation = 0
    instance.PixelData = (pixels ^ np.uint16(index & 0xFFF)).tobytes()
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, instance)
    return Encoded(uid, buffer.getvalue())


def frame(instance: Encoded, message_id: int, max_pdu_bytes: int) -> bytes:
    """A whole C-STORE request as it goes over the wire."""
    command = raw.store_command(instance.sop_instance_uid, message_id=message_id)
    parts = [raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, command))]
    step = max_pdu_bytes - 6
    data = memoryview(instance.data)
    for start in range(0, len(data), step):
        part = data[start : start + step]
        control = 0x02 if start + step >= len(data) else 0x00
        parts.append(struct.pack(">BxL", raw.P_DATA, len(part) + 6))
        parts.append(struct.pack(">LBB", len(part) + 2, 1, control))
        parts.append(part)
    return b"".join(parts)


def blast(port: int, called: bytes, batches: Sequence[Sequence[Encoded]]) -> float:
    """Send each batch over its own association, all at once; returns the seconds it took."""
    clients = [RawAssociation(port, timeout_s=60) for _ in batches]
    framed = []
    for client, batch in zip(clients, batches, strict=True):
        answer = client.request(
            ((raw.CT_IMAGE_STORAGE, (raw.EXPLICIT_VR_LITTLE_ENDIAN,)),), called=called
        )
        if answer.kind != raw.ASSOCIATE_AC:
            raise SystemExit(f"association refused: {answer}")
        limit = client.max_pdu_bytes
        framed.append([frame(each, number & 0x7FFF, limit) for number, each in enumerate(batch, 1)])
    with ThreadPoolExecutor(len(clients)) as pool:
        started = time.perf_counter()
        list(pool.map(_send_all, clients, framed))
        elapsed_s = time.perf_counter() - started
    for client in clients:
        client.release()
        client.connection.close()
    return elapsed_s


def _send_all(client: RawAssociation, messages: Sequence[bytes]) -> None:
    for message in messages:
        client.send(message)
        status = raw.status(client.response())
        if status != 0:
            raise SystemExit(f"status {status:04X}")


# ---- servers


def start_server(name: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A fresh server on an empty folder, ready to take associations."""
    if name == "dcmtk":
        command = [STORESCP, "-q", "--fork", "+B", "-pdu", "131072", "-od", str(folder), str(port)]
    elif name == "orthanc":
        command = [ORTHANC, str(_orthanc_configuration(folder, port))]
    else:
        node = Node(folder, {"rules": RULES}, dicom_port=port)
        node.write_config()
        command = [sys.executable, "-m", "node", "serve", "--role", "receive"]
        command += ["--config", str(node.config_path)]
    server = subprocess.Popen(
        command,
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(name, lambda: _answers(port))
    return server


def _orthanc_configuration(folder: Path, port: int) -> Path:
    path = folder / "orthanc.json"
    configuration = {
        "DicomAet": "SEGNODE",
        "DicomPort": port,
        "HttpServerEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
    }
    path.write_text(json.dumps(configuration))
    return path


def _answers(port: int) -> bool:
    with RawAssociation(port) as client:
        accepted = client.request(((raw.VERIFICATION, (raw.IMPLICIT_VR_LITTLE_ENDIAN,)),))
        return accepted.kind == raw.ASSOCIATE_AC and client.echo(1) == 0 and bool(client.release())


# ---- measuring


def run_once(name: str, batches: Sequence[Sequence[Encoded]], root: Path) -> Run:
    """One server, from nothing to its end, in a folder that stays."""
    folder = Path(mkdtemp(prefix=f"bench-{name.replace(' ', '-')}-", dir=root))
    if name == DISK:
        return _write_alone(batches, folder)
    port = free_port()
    server = start_server(name, folder, port)
    try:
        cpu_before_s = cpu_s(server.pid)
        elapsed_s = blast(port, b"SEGNODE", batches)
        time.sleep(0.2)  # lets a forked child end, so that its time is counted
        used_s = cpu_s(server.pid) - cpu_before_s
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    number = sum(len(batch) for batch in batches)
    return Run(number / elapsed_s, used_s / number * 1000)


def _write_alone(batches: Sequence[Sequence[Encoded]], folder: Path) -> Run:
    """Write and sync the same bytes as files, one thread per association."""
    directory = os.open(folder, os.O_RDONLY)

    def write(batch: Sequence[Encoded]) -> None:
        for each in batch:
            part = folder / f"{each.sop_instance_uid}.part"
            with part.open("xb", buffering=0) as file:
                file.write(each.data)
                os.fdatasync(file.fileno())
            part.rename(part.with_suffix(".dcm"))
            os.fsync(directory)

    with ThreadPoolExecutor(len(batches)) as pool:
        started, cpu_before_s = time.perf_counter(), time.process_time()
        list(pool.map(write, batches))
        elapsed_s, used_s = time.perf_counter() - started, time.process_time() - cpu_before_s
    os.close(directory)
    number = sum(len(batch) for batch in batches)
    return Run(number / elapsed_s, used_s / number * 1000)


def compare(
    associations: int, instances: int, repetitions: int, root: Path, names: Sequence[str]
) -> Report:
    """Interleave the servers; a table and the goals."""
    batches = [make_instances(instances // associations, series) for series in range(associations)]
    size_mb = len(batches[0][0].data) / 1e6
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for repetition in range(repetitions):
        turn = repetition % len(names)
        for name in (*names[turn:], *names[:turn]):
            runs[name].append(run_once(name, batches, root))
    speed = {name: median(run.instances_per_s for run in runs[name]) for name in names}
    rows = [
        {
            "server": name,
            "inst/s": speed[name],
            "MB/s": speed[name] * size_mb,
            "min-max inst/s": spread([run.instances_per_s for run in runs[name]]),
            "CPU ms/inst": median(run.cpu_ms_per_instance for run in runs[name]),
            "node is x": speed["node"] / speed[name],
        }
        for name in names
    ]
    goals = [
        Goal(
            claim=f"times {name}, {associations} associations",
            figure=speed["node"] / speed[name],
            limit=limit,
            at_least=True,
        )
        for name, limit in GOALS.items()
        if name in names
    ]
    title = (
        f"{associations} association(s), {instances} CT of {size_mb:.3f} MB, "
        f"medians of {repetitions}"
    )
    return Report(part="ingest", title=title, rows=rows, goals=goals)


def measure(
    *,
    instances: int = 400,
    repetitions: int = 5,
    associations: Sequence[int] = (1, 4),
    names: Sequence[str] = SERVERS,
) -> list[Report]:
    """A table for each number of associations."""
    with TemporaryDirectory(prefix="segnode-bench-") as root:
        return [compare(each, instances, repetitions, Path(root), names) for each in associations]
