"""The demo's other side of the wire: a little Storage SCP, a STOW-RS client, and copies to send."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

from node.domain.errors import NodeError
from node.domain.uids import uid_from

_STORED = 0x0000  # PS3.4 Table B.2-1
_CHUNK_BYTES = 1 << 16
_ANSWER_S = 120.0


@contextmanager
def receiving(folder: Path, ae_title: str, port: int) -> Iterator[None]:
    """A Storage SCP for segmentations on the loopback address: each becomes a file."""
    folder.mkdir(parents=True, exist_ok=True)
    write = threading.Lock()

    def keep(event: evt.Event) -> int:
        with write:
            uid = str(event.dataset.SOPInstanceUID)
            (folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
        return _STORED

    entity = AE(ae_title=ae_title)
    entity.add_supported_context(
        SegmentationStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    )
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def write_copies(source: Sequence[Path], folder: Path) -> list[Path]:
    """The same instances as another study: new UIDs, everything else as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for number, path in enumerate(source, start=1):
        try:
            instance = dcmread(path)
        except InvalidDicomError:
            continue
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if keyword in instance:
                instance[keyword].value = uid_from(
                    "segnode demo copy", str(instance[keyword].value)
                )
        copy = folder / f"copy{number:05d}.dcm"
        instance.save_as(copy, enforce_file_format=True)
        copies.append(copy)
    return copies


def post_instances(url: str, files: Sequence[Path]) -> None:
    """Store files with one STOW-RS request.

    Raises:
        NodeError: The server did not store all of them.
    Source: PS3.18 10.5
    """
    boundary = uuid.uuid4().hex
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{url}/studies",
            data=_parts(boundary, files),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
            timeout=_ANSWER_S,
        )
    if answer.status_code != requests.codes.ok:
        raise NodeError(f"the node did not store all instances: HTTP {answer.status_code}")


def _parts(boundary: str, files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
