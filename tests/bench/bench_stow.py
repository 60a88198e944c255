"""STOW-RS against Orthanc in the same run, and what one large request costs: ``python -m tests.bench stow``.

One synchronous client of our own for both: a connection that stays, requests framed before the clock
starts, the next one only after the answer. Both sync what they store. Every run has a fresh server and a
fresh folder; the order rotates; medians are printed. The large request is sent to the node alone, in parts that are
made as they are sent; memory is what the web process has for itself (RssAnon), since pages of files belong to the kernel.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event, Thread
from urllib.request import urlopen

import numpy as np
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from tests.bench.bench_ingest import COLUMNS, ROWS, Encoded, make_instance, make_instances
from tests.bench.bench_road import RULES
from tests.bench.processes import cpu_s, tree
from tests.bench.report import Goal, Report, spread
from tests.support import raw_dimse as raw
from tests.support.http_server import BOUNDARY, MULTIPART
from tests.support.peers import ORTHANC, ORTHANC_PLUGINS, Node, free_port, need
from tests.support.waiting import wait_for

SERVERS = ("node", "orthanc")
PER_REQUEST = (1, 20, 400)
TIMES_ORTHANC = 1.5
LARGE_BYTES = 2_000_000_000
GROWTH_MB = 20.0
_LOOK_S = 0.02
_FIRST = 100_000  # so that all numbers have as many digits


@dataclass(frozen=True)
class Run:
    """What one server did in one run."""

    instances_per_s: float
    cpu_ms_per_instance: float


def part_10(instance: Encoded) -> bytes:
    """An instance as a file."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = raw.CT_IMAGE_STORAGE
    meta.MediaStorageSOPInstanceUID = instance.sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = "1.2.3.4"
    head = io.BytesIO()
    write_file_meta_info(head, meta)
    return bytes(128) + b"DICM" + head.getvalue() + instance.data


def _part(file: bytes) -> bytes:
    return f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file


def _head(size_bytes: int) -> bytes:
    return (
        "POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/dicom+json\r\n"
        f"Content-Type: {MULTIPART}\r\nContent-Length: {size_bytes}\r\n\r\n"
    ).encode()


_END = f"\r\n--{BOUNDARY}--\r\n".encode()


def requests_of(files: Sequence[bytes], per_request: int) -> list[bytes]:
    """Whole requests with so many instances each."""
    bodies = [
        b"".join(map(_part, files[start : start + per_request])) + _END
        for start in range(0, len(files), per_request)
    ]
    return [_head(len(body)) + body for body in bodies]


def post_all(port: int, requests: Sequence[bytes], instances: int) -> float:
    """Send one after the other; returns the seconds it took.

    Raises:
        SystemExit: Not everything is stored.
    """
    stored = 0
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        for request in requests:
            connection.sendall(request)
            stored += _stored_in(connection)
        elapsed_s = time.perf_counter() - started
    if stored != instances:
        raise SystemExit(f"{stored} of {instances} stored")
    return elapsed_s


def _stored_in(connection: socket.socket) -> int:
    """How many instances the answer on this connection calls stored."""
    with HTTPResponse(connection, method="POST") as response:
        response.begin()
        body = response.read()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {body[:200]!r}")
    return len(json.loads(body)["00081199"]["Value"])


# ---- servers


def start_server(name: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A fresh server on an empty folder, ready to answer."""
    if name == "orthanc":
        command = [need(ORTHANC), str(_orthanc_configuration(folder, port))]
        path = "/system"
    else:
        node = Node(folder, {"rules": RULES}, http_port=port)
        node.write_config()
        command = [sys.executable, "-m", "node", "serve", "--role", "web"]
        command += ["--config", str(node.config_path)]
        path = "/healthz"
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def answers() -> bool:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    wait_for(name, answers)
    return server


def _orthanc_configuration(folder: Path, port: int) -> Path:
    path = folder / "orthanc.json"
    configuration = {
        "DicomServerEnabled": False,
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "TcpNoDelay": True,
        "KeepAlive": True,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(ORTHANC_PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path.write_text(json.dumps(configuration))
    return path


@contextmanager
def running(name: str, root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """A server in a folder that stays: its process, port and folder."""
    folder = Path(mkdtemp(prefix=f"bench-{name}-", dir=root))
    port = free_port()
    server = start_server(name, folder, port)
    try:
        yield server, port, folder
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


# ---- measuring


def run_once(name: str, requests: Sequence[bytes], instances: int, root: Path) -> Run:
    """One server, from nothing to its end."""
    with running(name, root) as (server, port, _):
        cpu_before_s = cpu_s(server.pid)
        elapsed_s = post_all(port, requests, instances)
        used_s = cpu_s(server.pid) - cpu_before_s
    return Run(instances / elapsed_s, used_s / instances * 1000)


def compare(per_request: int, instances: int, repetitions: int, root: Path) -> Report:
    """Take turns; a table and the goal."""
    files = [part_10(each) for each in make_instances(instances, 0)]
    requests = requests_of(files, per_request)
    size_mb = len(files[0]) / 1e6
    runs: dict[str, list[Run]] = {name: [] for name in SERVERS}
    for repetition in range(repetitions):
        turn = repetition % len(SERVERS)
        for name in (*SERVERS[turn:], *SERVERS[:turn]):
            runs[name].append(run_once(name, requests, instances, root))
    speed = {name: median(run.instances_per_s for run in runs[name]) for name in SERVERS}
    rows = [
        {
            "server": name,
            "inst/s": speed[name],
            "MB/s": speed[name] * size_mb,
            "min-max inst/s": spread([run.instances_per_s for run in runs[name]]),
            "CPU ms/inst": median(run.cpu_ms_per_instance for run in runs[name]),
            "node is x": speed["node"] / speed[name],
        }
        for name in SERVERS
    ]
    goal = Goal(
        claim=f"times orthanc, {per_request} instances a request",
        figure=speed["node"] / speed["orthanc"],
        limit=TIMES_ORTHANC,
        at_least=True,
    )
    title = (
        f"{per_request} of {instances} CT of {size_mb:.3f} MB a request, medians of {repetitions}"
    )
    return Report(part="stow", title=title, rows=rows, goals=[goal])


# ---- one large request


def anonymous_mb(process_id: int) -> float:
    """Memory that a process has for itself. Source: proc(5), RssAnon"""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process_id}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else 0.0
    return 0.0


def growth_mb(size_bytes: int, root: Path) -> tuple[float, float, float]:
    """Send one request of this size to the node.

    Returns:
        How the process grew that grew most, the peak of the largest, and the seconds it took.
    """
    warm = requests_of([part_10(each) for each in make_instances(20, 1)], 20)
    with running("node", root) as (server, port, _):
        for _ in range(2):  # what every request needs is there then
            post_all(port, warm, 20)
        before = {each: anonymous_mb(each) for each in tree(server.pid)}
        peaks = dict(before)
        is_over = Event()

        def watch() -> None:
            while not is_over.wait(_LOOK_S):
                for each in tree(server.pid):
                    peaks[each] = max(peaks.get(each, 0.0), anonymous_mb(each))

        watching = Thread(target=watch)
        watching.start()
        try:
            elapsed_s = _post_large(port, size_bytes)
        finally:
            is_over.set()
            watching.join()
    grown = max(peak - before.get(each, peak) for each, peak in peaks.items())
    return grown, max(peaks.values()), elapsed_s


def _post_large(port: int, size_bytes: int) -> float:
    """One request of many instances, made one after the other; its seconds."""
    noise = np.random.default_rng(2).integers(0, 4096, (ROWS, COLUMNS), dtype=np.uint16)
    template = make_instance(noise, 2, _FIRST)
    part, uid = _part(part_10(template)), template.sop_instance_uid.encode()
    stem, number = uid[: -len(str(_FIRST))], -(-size_bytes // len(part))
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        started = time.perf_counter()
        connection.sendall(_head(len(part) * number + len(_END)))
        for index in range(number):
            connection.sendall(part.replace(uid, stem + b"%d" % (_FIRST + 1 + index)))
        connection.sendall(_END)
        stored = _stored_in(connection)
        elapsed_s = time.perf_counter() - started
    if stored != number:
        raise SystemExit(f"{stored} of {number} stored")
    return elapsed_s


def large(size_bytes: int, root: Path) -> Report:
    """One request of this size, and the goal for memory."""
    grown, peak, elapsed_s = growth_mb(size_bytes, root)
    rows = [{"growth, MB": grown, "peak, MB": peak, "MB/s": size_bytes / 1e6 / elapsed_s}]
    goal = Goal(claim="growth of a process, MB", figure=grown, limit=GROWTH_MB)
    title = f"one request of {size_bytes / 1e9:.2g} GB"
    return Report(part="stow", title=title, rows=rows, goals=[goal])


def measure(
    *, instances: int = 400, repetitions: int = 5, large_bytes: int = LARGE_BYTES
) -> list[Report]:
    """A table for each number of instances in a request, and the large request."""
    with TemporaryDirectory(prefix="segnode-bench-") as name:
        root = Path(name)
        tables = [compare(each, instances, repetitions, root) for each in PER_REQUEST]
        return [*tables, large(large_bytes, root)]
