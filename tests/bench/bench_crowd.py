"""An honest sender in a crowd of those that are silent, drip, ask half or flood.

``python -m tests.bench crowd``. One node on a port without TLS and one with it, HTTP, and one more node on
HTTPS. Each crowd stands at one of these ports while an honest ``storescu`` or STOW client, and a probe of the
node's health, do what they do in quiet. Goal: twice the quiet time and 0.2 s; a probe in 1 s.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import requests

from node.domain.tls import ClientTls
from node.tls import client_context
from tests.bench.processes import pss_mb, tree
from tests.bench.report import Goal, Report, Row
from tests.faults.framing import BIG_BYTES, big_request
from tests.support import raw_dimse as raw
from tests.support.certificates import Authority, Signed
from tests.support.http_server import BOUNDARY, MULTIPART, body_of
from tests.support.peers import STORESCU, Node, free_port, need
from tests.support.phantoms import Phantom

SLICES = 20
REPEATS = 5
PROBE_S = 1.0
FACTOR, SLACK_S = 2.0, 0.2
MOST_MB = 400.0
ROGUE, HONEST = "ROGUE", "STORESCU"

Line = Callable[[], socket.socket]
Dripper = Callable[[socket.socket], None]


@dataclass(frozen=True, kw_only=True)
class Port:
    """Where a crowd stands.

    Args:
        begin: What its members send first, when they are to be taken for honest.
        half: The beginning of a request.
        big: A request as large as is taken, or larger.
        honest: The same work for an honest client; its seconds.
    """

    name: str
    connect: Line
    begin: Dripper
    half: bytes
    big: bytes
    honest: Callable[[], float]


# --- crowds ----------------------------------------------------------------------------------------


@contextmanager
def standing(
    port: Port, number: int, first: Dripper | None = None
) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        lines = []
        for _ in range(number):
            with suppress(OSError):
                line = stack.enter_context(port.connect())
                if first is not None:
                    first(line)
                lines.append(line)
        yield lines


@contextmanager
def silent(port: Port) -> Iterator[None]:
    with standing(port, 60):
        yield


@contextmanager
def bare(port: Port) -> Iterator[None]:
    with standing(port, 1000):
        yield


@contextmanager
def half_open(port: Port) -> Iterator[None]:
    with standing(port, 50, lambda line: line.sendall(port.half)):
        yield


@contextmanager
def dripping(port: Port) -> Iterator[None]:
    """A byte a second of what began like an honest transfer."""
    is_over = threading.Event()
    with standing(port, 60, port.begin) as lines:

        def drip() -> None:
            while not is_over.wait(1.0):
                for line in lines:
                    with suppress(OSError):
                        line.send(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


@contextmanager
def flooding(port: Port) -> Iterator[None]:
    """Eight that send one big request after the other."""
    is_over = threading.Event()

    def flood() -> None:
        while not is_over.is_set():
            with suppress(OSError), port.connect() as line:
                line.settimeout(5)
                line.sendall(port.big)
                line.recv(1000)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


CROWDS: Mapping[str, Callable[[Port], object]] = {
    "60 silent": silent,
    "60 dripping": dripping,
    "50 half asked": half_open,
    "1000 bare": bare,
    "8 flooding": flooding,
}


# --- ports -----------------------------------------------------------------------------------------


def _plain(port: int) -> Line:
    return lambda: socket.create_connection(("127.0.0.1", port), 10)


def _secure(port: int, context: ssl.SSLContext) -> Line:
    """Silent and bare ones do not shake hands: that is theirs to leave out."""

    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    return connect


def _request(called: bytes = b"SEGNODE") -> bytes:
    """An A-ASSOCIATE-RQ of a peer that is known, for CT."""
    return raw.associate_request(calling=ROGUE.encode(), called=called)


def _begin_dimse(line: socket.socket) -> None:
    """An association, and a C-STORE whose data set does not come."""
    line.sendall(_request())
    header = (
        line.recv(6, socket.MSG_WAITALL) if not isinstance(line, ssl.SSLSocket) else line.recv(6)
    )
    if header[:1] != b"\x02":
        return
    (length,) = struct.unpack(">xxL", header)
    while length > 0:
        length -= len(line.recv(length))
    line.sendall(raw.pdu(raw.P_DATA, raw.pdv(1, 0x03, raw.store_command("1.2.3"))))
    line.sendall(raw.pdu(raw.P_DATA, raw.pdv(1, 0x00, bytes(10_000)))[:100])


_POST = (
    f"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {MULTIPART}\r\n"
    "Content-Length: 50000000\r\n\r\n"
).encode()


def _begin_http(line: socket.socket) -> None:
    line.sendall(_POST + f"--{BOUNDARY}\r\n".encode())


def _dimse(name: str, connect: Line, honest: Callable[[], float]) -> Port:
    return Port(
        name=name,
        connect=connect,
        begin=_begin_dimse,
        half=_request()[:90],
        big=big_request(BIG_BYTES, calling=ROGUE.encode(), called=b"NOBODY"),
        honest=honest,
    )


def _http(name: str, connect: Line, honest: Callable[[], float]) -> Port:
    big = _POST.replace(b"50000000", b"470000") + bytes(BIG_BYTES)
    return Port(
        name=name,
        connect=connect,
        begin=_begin_http,
        half=_POST[:60],
        big=big,
        honest=honest,
    )


# --- honest clients --------------------------------------------------------------------------------


@dataclass
class Honest:
    """Sends a series that nobody has seen, each time another one."""

    folder: Path
    number: int = 0

    def _files(self) -> list[Path]:
        self.number += 1
        folder = self.folder / str(self.number)
        name = f"crowd {self.number}"
        Phantom(shape=(SLICES, 64, 64), study=name, series=name).write(folder)
        return sorted(folder.iterdir())

    def storescu(self, port: int, *tls: str) -> float:
        files = [str(path) for path in self._files()]
        command = [need(STORESCU), "-aet", HONEST, "-aec", "SEGNODE", *tls, "127.0.0.1", str(port)]
        began = time.perf_counter()
        subprocess.run(
            [*command, *files],
            check=True,
            capture_output=True,
            env={**os.environ, "TCP_NODELAY": "1"},
            timeout=120,
        )
        return time.perf_counter() - began

    def stow(self, url: str, ca: Path | None = None) -> float:
        body = body_of(*[path.read_bytes() for path in self._files()])
        began = time.perf_counter()
        answer = requests.post(
            f"{url}/dicom-web/studies",
            data=body,
            headers={"Content-Type": MULTIPART},
            verify=str(ca) if ca else True,
            timeout=120,
        )
        answer.raise_for_status()
        return time.perf_counter() - began


def _probe(url: str, ca: Path | None = None) -> float:
    began = time.perf_counter()
    requests.get(f"{url}/healthz", verify=str(ca) if ca else True, timeout=60).raise_for_status()
    return time.perf_counter() - began


# --- the table -------------------------------------------------------------------------------------


@contextmanager
def nodes(root: Path) -> Iterator[tuple[Node, Node, int, Authority, Signed]]:
    """A node of DIMSE with and without TLS and of HTTP, and one of HTTPS."""
    authority = Authority(root)
    own = authority.sign("127.0.0.1")
    files = {"certificate": str(own.certificate), "key": str(own.key)}
    tls_port = free_port()
    rules = [
        {"name": "none", "when": {"SeriesDescription": "none"}, "run": "ct_tissue", "send": []}
    ]
    peers = {
        name.lower(): {"ae_title": name, "host": "127.0.0.1", "port": 11113 + number}
        for number, name in enumerate((HONEST, ROGUE))
    }
    first = Node(
        root / "first",
        {"dimse": {"tls": {**files, "port": tls_port}}, "peers": peers, "rules": rules},
    )
    second = Node(root / "second", {"web": {"tls": files}, "rules": rules})
    with first:
        second.start(wait=False, roles=("web", "route"))
        try:
            while True:
                with suppress(requests.RequestException):
                    _probe(f"https://127.0.0.1:{second.http_port}", authority.file)
                    break
                time.sleep(0.2)
            yield first, second, tls_port, authority, own
        finally:
            second.stop()


def measure(repeats: int = REPEATS) -> list[Report]:
    """The table."""
    rows: list[Row] = []
    goals: list[Goal] = []
    with TemporaryDirectory(prefix="segnode-bench-") as name, nodes(Path(name)) as found:
        first, second, tls_port, authority, own = found
        honest = Honest(Path(name) / "honest")
        context = client_context(ClientTls(ca=str(authority.file)))
        tls = ("+tls", str(own.key), str(own.certificate), "+cf", str(authority.file))
        https = f"https://127.0.0.1:{second.http_port}"
        ports = [
            _dimse("DIMSE", _plain(first.dicom_port), lambda: honest.storescu(first.dicom_port)),
            _dimse(
                "DIMSE, TLS", _secure(tls_port, context), lambda: honest.storescu(tls_port, *tls)
            ),
            _http("HTTP", _plain(first.http_port), lambda: honest.stow(first.url)),
            _http(
                "HTTPS",
                _secure(second.http_port, context),
                lambda: honest.stow(https, authority.file),
            ),
        ]
        without_hands = {"DIMSE, TLS": _plain(tls_port), "HTTPS": _plain(second.http_port)}
        for port in ports:
            probes = {"HTTPS": (https, authority.file)}.get(port.name, (first.url, None))
            quiet_s = median(port.honest() for _ in range(repeats))
            for crowd, standing_at in CROWDS.items():
                connect = port.connect
                if crowd in ("60 silent", "1000 bare"):
                    connect = without_hands.get(port.name, connect)
                where = Port(**{**vars(port), "connect": connect})
                with standing_at(where):  # type: ignore[attr-defined]
                    time.sleep(1.0)
                    took = [port.honest() for _ in range(repeats)]
                    probe_s = max(_probe(*probes) for _ in range(repeats))
                    node = second if port.name == "HTTPS" else first
                    assert node.process is not None
                    most_mb = max(pss_mb(pid) for pid in tree(node.process.pid))
                limit_s = FACTOR * quiet_s + SLACK_S
                rows.append(
                    {
                        "port": port.name,
                        "crowd": crowd,
                        "quiet, s": quiet_s,
                        "median, s": median(took),
                        "longest, s": max(took),
                        "probe, s": probe_s,
                        "largest process, MB": most_mb,
                    }
                )
                at = f"{port.name} among {crowd}"
                goals += [
                    Goal(claim=f"{at}: honest sender, s", figure=median(took), limit=limit_s),
                    Goal(claim=f"{at}: probe, s", figure=probe_s, limit=PROBE_S),
                    Goal(claim=f"{at}: largest process, MB", figure=most_mb, limit=MOST_MB),
                ]
    title = f"an honest sender of {SLICES} images in a crowd"
    return [Report(part="crowd", title=title, rows=rows, goals=goals)]
