"""Real peers for tests: Orthanc, the node itself, dcmtk, each on free loopback ports."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.support.raw_dimse import RawAssociation, accepted, status
from tests.support.waiting import PATIENCE_S, wait_for

ORTHANC = "/usr/sbin/Orthanc"
ORTHANC_PLUGINS = Path("/usr/share/orthanc/plugins")
STORESCU = "/usr/bin/storescu"
DCMSEND = "/usr/bin/dcmsend"
ECHOSCU = "/usr/bin/echoscu"


def need(program: str) -> str:
    """The program's path; a missing peer skips the test, in CI it fails it."""
    if shutil.which(program):
        return program
    message = f"{program} is not installed: make peers"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Orthanc:
    """A real Orthanc with its own storage, DICOMweb included."""

    folder: Path
    ae_title: str = "ORTHANC"
    modalities: dict[str, list[Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ("libOrthancDicomWeb.so",)
    text: str = ""  # a whole configuration, in place of one made of the fields above
    dicom_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Orthanc:
        need(ORTHANC)
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "test",
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomModalities": self.modalities,
            "Plugins": [str(ORTHANC_PLUGINS / name) for name in self.plugins],
            "ConcurrentJobs": 4,
            **self.options,
        }
        path = self.folder / "orthanc.json"
        path.write_text(self.text or json.dumps(configuration))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [ORTHANC, str(path)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_for("Orthanc", lambda: self.get("/system"))
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
            self.process = None

    def __enter__(self) -> Orthanc:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            body = answer.read()
        return json.loads(body) if body[:1] in (b"{", b"[") else body

    def post(self, path: str, body: object) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or b"null")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def instances(self, **tags: str) -> list[dict[str, Any]]:
        """All instances whose tags equal the given ones, expanded."""
        found = self.post("/tools/find", {"Level": "Instance", "Query": tags, "Expand": True})
        return list(found)

    def segmentations(self) -> list[bytes]:
        """Every SEG object it holds, as Part 10 bytes."""
        series = self.post(
            "/tools/find", {"Level": "Series", "Query": {"Modality": "SEG"}, "Expand": True}
        )
        return [self.get(f"/instances/{i}/file") for one in series for i in one["Instances"]]


@dataclass
class Node:
    """``segnode serve`` as a process of its own."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    dicom_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    credentials: str = ""  # "user:password" for the API
    process: subprocess.Popen[bytes] | None = None

    @property
    def config_path(self) -> Path:
        return self.folder / "node.yaml"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {
            "dimse": {"host": "127.0.0.1", "port": self.dicom_port, **self.config.get("dimse", {})},
            "web": {"host": "127.0.0.1", "port": self.http_port, **self.config.get("web", {})},
            "data_dir": str(self.data_dir),
            # a full disk under the tests is not what they are about
            "storage": {"reserve_gb": 0, "max_used_percent": 100},
            **{k: v for k, v in self.config.items() if k not in ("dimse", "web")},
        }
        # JSON is YAML
        self.config_path.write_text(json.dumps(whole, indent=1))

    def start(self, *, wait: bool = True, roles: tuple[str, ...] = ()) -> Node:
        self.write_config()
        command = [sys.executable, "-m", "node", "serve", "--config", str(self.config_path)]
        for role in roles:
            command += ["--role", role]
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        if wait:
            self.wait_ready(roles)
        return self

    def wait_ready(self, roles: tuple[str, ...] = ()) -> None:
        def listening() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            if not roles or "receive" in roles:
                socket.create_connection(("127.0.0.1", self.dicom_port), 1).close()
            if not roles or "web" in roles:
                urllib.request.urlopen(self.url + "/healthz", timeout=2).close()
            return True

        wait_for("the node", listening)

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop()

    def kill(self) -> None:
        """kill -9 of the whole tree."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.process = None

    def log(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")

    def api(self, path: str, *, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}/api/v1{path}", method=method)
        if self.credentials:
            encoded = base64.b64encode(self.credentials.encode()).decode()
            request.add_header("Authorization", f"Basic {encoded}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or b"null")

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a segnode command against this node's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "node", *arguments, "--config", str(self.config_path)],
            capture_output=True,
            text=True,
            check=check,
            env={**os.environ, **self.environment},
            timeout=PATIENCE_S,
        )


def storescu(port: int, called: str, *paths: Path, options: tuple[str, ...] = ()) -> int:
    """dcmtk's storescu, without its 40 ms stalls; the exit code."""
    command = [need(STORESCU), "-aet", "STORESCU", "-aec", called, *options, "127.0.0.1", str(port)]
    return subprocess.run(
        [*command, *map(str, paths)],
        check=False,
        capture_output=True,
        env={**os.environ, "TCP_NODELAY": "1"},
    ).returncode


def echo(port: int, called: str = "SEGNODE") -> int:
    """dcmtk's echoscu: 0 when the peer answers."""
    return subprocess.run(
        [need(ECHOSCU), "-aec", called, "127.0.0.1", str(port)], check=False, capture_output=True
    ).returncode


def store(
    port: int,
    files: Sequence[bytes],
    *,
    called: str = "SEGNODE",
    calling: str = "STORESCU",
    instead_of_release: Callable[[], None] | None = None,
) -> list[int]:
    """Send Part 10 files of one SOP class and syntax in one association; the status of each.

    The bytes travel as they are, in any transfer syntax.

    Args:
        instead_of_release: Called with the association open; then the line is cut.
    """
    meta = dcmread(BytesIO(files[0]), stop_before_pixels=True).file_meta
    offer = (str(meta.MediaStorageSOPClassUID), [str(meta.TransferSyntaxUID)])
    with RawAssociation(port, timeout_s=PATIENCE_S) as association:
        answer = association.request([offer], called=called.encode(), calling=calling.encode())
        assert accepted(answer)[1][0] == 0, "the presentation context was refused"
        statuses = []
        for file in files:
            meta = dcmread(BytesIO(file), stop_before_pixels=True).file_meta
            data_set = file[144 + meta.FileMetaInformationGroupLength :]
            uid = str(meta.MediaStorageSOPInstanceUID)
            statuses.append(status(association.store(data_set, uid, sop_class_uid=offer[0])))
        if instead_of_release is None:
            association.release()
        else:
            instead_of_release()
    return statuses
