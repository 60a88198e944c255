"""Destinations that misbehave on purpose, and ones that count what they get. All on loopback."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, evt

BOTH_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass
class StoreScp:
    """A Storage SCP that answers as told, and records every C-STORE it gets.

    Args:
        answer: Status for each store, or a function of the number of stores so far.
        misdeed: ``abort`` or ``drop`` instead of an answer; ``abort at once`` after negotiation.
        delay_s: Wait before each answer.
    """

    answer: int | Callable[[int], int] = 0x0000
    misdeed: str = ""
    delay_s: float = 0.0
    ae_title: str = "EVIL"
    sop_classes: tuple[str, ...] = (SegmentationStorage,)
    syntaxes: tuple[str, ...] = BOTH_SYNTAXES
    port: int = 0
    stored: list[tuple[str, bytes]] = field(default_factory=list)
    associations: int = 0
    no_delay: list[int] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[StoreScp]:
        entity = AE(ae_title=self.ae_title)
        for sop_class in self.sop_classes:
            entity.add_supported_context(sop_class, list(self.syntaxes))
        server: Any = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_ESTABLISHED, self._established),
            ],
        )
        self.port = server.socket.getsockname()[1]
        try:
            yield self
        finally:
            server.shutdown()

    @property
    def objects(self) -> set[str]:
        """SOP Instance UIDs that a store would hold now."""
        return {uid for uid, _ in self.stored}

    def _accepted(self, event: evt.Event) -> None:
        self.associations += 1

    def _established(self, event: evt.Event) -> None:
        if self.misdeed == "abort at once":
            event.assoc.acse.send_abort(0x00)

    def _store(self, event: Any) -> int:
        if self.delay_s:
            time.sleep(self.delay_s)
        status = self.answer(len(self.stored)) if callable(self.answer) else self.answer
        uid = str(event.request.AffectedSOPInstanceUID)
        self.stored.append((uid, event.request.DataSet.getvalue()))
        if self.misdeed == "abort":
            event.assoc.acse.send_abort(0x00)  # assoc.abort() would wait for this handler
        if self.misdeed == "drop":
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return status


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does what ``talk`` does with each connection; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stopping.set()
        thread.join()
        listener.close()


def rejecting(result: int, source: int = 1, reason: int = 1) -> Callable[[socket.socket], None]:
    """Answers A-ASSOCIATE-RJ (PS3.8 9.3.4): result 1 is permanent, 2 transient."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(bytes([3, 0, 0, 0, 0, 4, 0, result, source, reason]))
        connection.recv(1)

    return talk


def hanging_up(connection: socket.socket) -> None:
    """Takes the association request and closes the line."""
    connection.recv(65536)


def silent(seconds: float) -> Callable[[socket.socket], None]:
    """Takes what comes and answers nothing."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        time.sleep(seconds)

    return talk


@dataclass
class StowServer:
    """A STOW-RS server that gives one answer, and records every request.

    Args:
        body: The answer's body, or a function of the SOP Instance UID that was sent.
        reads: False answers without reading the request.
        certificate: PEM with key and certificate; then it speaks TLS.
    """

    status: int = 200
    body: bytes | Callable[[str], bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/dicom+json"
    reads: bool = True
    delay_s: float = 0.0
    certificate: Path | None = None
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[StowServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        scheme = "https" if self.certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def stored_answer(sop_instance_uid: str, warning: int | None = None) -> bytes:
    """A response that lists the instance as stored."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [sop_instance_uid]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode()


def failed_answer(sop_instance_uid: str, reason: int | None) -> bytes:
    """A response that lists the instance as failed."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [sop_instance_uid]}}
    if reason is not None:
        item["00081197"] = {"vr": "US", "Value": [reason]}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


def _handler(server: StowServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b""
            if server.reads:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            if server.delay_s:
                time.sleep(server.delay_s)
            answer = server.body(_sop_instance_uid(body)) if callable(server.body) else server.body
            self.send_response_only(server.status)
            self.send_header("Date", server.headers.get("Date", self.date_time_string()))
            for name, value in server.headers.items():
                if name != "Date":
                    self.send_header(name, value)
            self.send_header("Content-Type", server.content_type)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            server.requests.append({"path": self.path, "headers": dict(self.headers), "body": b""})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _sop_instance_uid(body: bytes) -> str:
    """(0008,0018) of the explicit little endian part, found without a parser."""
    found = re.search(rb"\x08\x00\x18\x00UI..([0-9.]+)", body, re.DOTALL)
    return found.group(1).decode() if found else ""


def segmentation(sop_instance_uid: str, size_bytes: int = 4096) -> Dataset:
    """A small object of the Segmentation SOP class; the size is a multiple of 64."""
    data = Dataset()
    data.SOPClassUID = SegmentationStorage
    data.SOPInstanceUID = sop_instance_uid
    data.StudyInstanceUID = "1.2.826.0.1.3680043.10.1"
    data.SeriesInstanceUID = f"{sop_instance_uid}.1"
    data.PatientID = "PHANTOM"
    data.PatientName = "PHANTOM"
    data.Modality = "SEG"
    data.SeriesNumber = 1001
    data.InstanceNumber = 1
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.NumberOfFrames = 1
    data.Rows, data.Columns = 512, size_bytes // 64
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = data.PixelRepresentation = 0
    data.PixelData = bytes(i % 251 for i in range(size_bytes))
    return data
