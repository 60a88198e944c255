"""HTTP for tests: a real server on a real socket, raw requests, and an ingest that keeps in memory.

``MemoryIngest`` says the same as the real ingest about the few faults that these tests need; the
answers of the real one are tested with the real one.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, cast

import pydicom
from pydicom.errors import InvalidDicomError
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from node.domain.errors import InstanceRejected, TryLater
from node.domain.instance import InstanceState, Origin
from node.domain.limits import WebLimits
from node.domain.uids import is_uid
from node.receive.ingest import Ingest, Receipt
from node.receive.stow import StowService
from node.receive.stow_parts import PartReceiver
from node.web.server import make_server
from tests.support.waiting import PATIENCE_S

BOUNDARY = "3f7c-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
REFUSED_SYNTAX = "1.2.840.10008.1.2.8.1"  # Deflated Image Frame Compression


@dataclass
class MemoryIngest:
    """Keeps instances in a dictionary by SOP Instance UID."""

    instances: dict[str, bytes] = field(default_factory=dict)
    origins: list[Origin] = field(default_factory=list)
    room_bytes: int = 1 << 40
    abandoned: int = 0
    losses: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def begin_file(
        self,
        origin: Origin,
        *,
        study_instance_uid: str | None = None,
        source: str = "",
        is_kept_aside: bool = True,
    ) -> MemoryArrival:
        self.origins.append(origin)
        return MemoryArrival(self, study_instance_uid)

    def record_loss(self, rejection: InstanceRejected, origin: Origin, *, source: str = "") -> None:
        self.losses.append(source)


class MemoryArrival:
    """One file on its way into a ``MemoryIngest``."""

    def __init__(self, ingest: MemoryIngest, study_instance_uid: str | None) -> None:
        self._ingest = ingest
        self._study = study_instance_uid
        self._data = io.BytesIO()
        self._done = False

    def write(self, data: bytes | memoryview) -> None:
        self._data.write(data)

    def finish(self) -> Receipt:
        self._done = True
        data = self._data.getvalue()
        if len(data) > self._ingest.room_bytes:
            raise InstanceRejected("no room", dimse_status=0xA700)
        try:
            # the client sends files without preamble
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        except (InvalidDicomError, EOFError) as error:
            raise InstanceRejected("no DICOM file", dimse_status=0xC000) from error
        if "SOPClassUID" not in header:
            raise InstanceRejected("no DICOM file", dimse_status=0xC000)
        uid, study = str(header.get("SOPInstanceUID", "")), str(header.StudyInstanceUID)
        identity: dict[str, Any] = {
            "sop_class_uid": str(header.SOPClassUID),
            "sop_instance_uid": uid,
        }
        if not is_uid(uid):
            raise InstanceRejected("no legal SOP Instance UID", dimse_status=0xC000)
        if header.file_meta.TransferSyntaxUID == REFUSED_SYNTAX:
            raise InstanceRejected("syntax", dimse_status=0xC122, **identity)
        if self._study not in (None, study):
            raise InstanceRejected("other study", dimse_status=0xA900, **identity)
        known = uid in self._ingest.instances
        self._ingest.instances.setdefault(uid, data)
        return Receipt(
            state=InstanceState.DUPLICATE if known else InstanceState.STORED,
            study_instance_uid=study,
            series_instance_uid=str(header.SeriesInstanceUID),
            **identity,
        )

    def abandon(self) -> None:
        if not self._done:
            self._ingest.abandoned += 1
        self._done = True


@dataclass
class MemoryAssociations:
    """Remembers rows as (origin, end); an open one has no end."""

    rows: list[tuple[Origin, str]] = field(default_factory=list)
    heartbeats: int = 0
    is_down: bool = False
    closed_one: threading.Event = field(default_factory=threading.Event)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def opened(self, origin: Origin) -> str:
        if self.is_down:
            raise TryLater("the index is locked")
        self.rows.append((origin, ""))
        return f"row-{len(self.rows) - 1}"

    def heartbeat(self, association_id: str) -> None:
        self.heartbeats += 1

    def closed(
        self,
        association_id: str,
        end: str,
        *,
        brought: Mapping[str, Collection[str]] | None = None,
        losses: int = 0,
    ) -> None:
        number = int(association_id.removeprefix("row-"))
        self.rows[number] = (self.rows[number][0], end)
        self.closed_one.set()

    def wait(self) -> tuple[Origin, str]:
        """The first row, closed: that is after the answer."""
        assert self.closed_one.wait(5)
        return self.rows[0]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Site:
    """A running server."""

    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE_S)

    def send(self, data: bytes, *, hang_up: bool = False) -> Answer:
        """Send these bytes and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request with a Content-Length where it has a body."""
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
        if "Host" not in (headers or {}):
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None and "Content-Length" not in (headers or {}):
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        with self.connect() as connection:
            connection.sendall(head + (body or b""))
            return read_answer(connection, method)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    response = HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def body_of(
    *contents: bytes, part_headers: str = "Content-Type: application/dicom", close: bool = True
) -> bytes:
    """A multipart body with ``BOUNDARY``."""
    head = f"\r\n--{BOUNDARY}\r\n{part_headers}\r\n\r\n".encode()
    end = f"\r\n--{BOUNDARY}--\r\n".encode() if close else b""
    return b"".join(head + content for content in contents) + end


@contextmanager
def serving(
    application: ASGIApp, *, listener: socket.socket | None = None, **settings: Any
) -> Iterator[Site]:
    """The application on a free port of the loopback interface, until the block ends.

    Args:
        listener: Where somebody may wait already.
    """
    server = make_server(application, host="127.0.0.1", port=0, drain_s=2, **settings)
    listener = listener or socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield Site(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
    assert not thread.is_alive()


@contextmanager
def stow_site(
    ingest: MemoryIngest | Ingest,
    associations: MemoryAssociations | None = None,
    *,
    limits: WebLimits = WebLimits(),
    strict_accept: bool = False,
) -> Iterator[Site]:
    """A STOW-RS service below ``/dicom-web``."""
    receiver = PartReceiver(
        ingest=cast(Ingest, ingest),
        associations=associations or MemoryAssociations(),
        limits=limits,
    )
    service = StowService(receiver, limits=limits, strict_accept=strict_accept)
    application = Starlette(routes=[Mount("/dicom-web", service.application)])
    with serving(application, limits=limits) as site:
        yield site
    service.close()
