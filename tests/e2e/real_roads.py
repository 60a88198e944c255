"""The roads into a node, each as a function: files in, one answer per file out.

An answer is the DIMSE status that the sender saw, as four hexadecimal digits: of a C-STORE, of a
STOW-RS failure reason ("other": in Other Failures Sequence), of the folder's report; or ``NOT_SENT`` where the road's program did not send.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from tests.support import raw_dimse as raw
from tests.support.http_server import MULTIPART, Site, body_of
from tests.support.node_in_process import STOW_PATH, NodeInProcess
from tests.support.peers import DCMSEND, STORESCU, need

Files: TypeAlias = Mapping[str, Path]
"""What a file is called in a case -> where it lies."""

Answers: TypeAlias = Mapping[str, str]
"""What a file is called in a case -> answer."""

SUCCESS = "0000"
NOT_SENT = "not sent"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_REPORTED = re.compile(
    r"^Filename +: (.+)$(?:\n.+)*?\nDIMSE Status +: (?:0x(\w+)|<not sent>)", re.M
)
_STORE_RESPONSE = re.compile(r"Received Store Response \((.*)\)")


def by_dcmsend(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """DCMTK's dcmsend; its exit code says nothing, its report tells of each file."""
    report = folder / "report.txt"
    report.unlink(missing_ok=True)
    subprocess.run(
        [
            need(DCMSEND), "--decompress-never", "--no-halt", "--create-report-file", report,
            "-aec", "SEGNODE", "127.0.0.1", str(node.dicom_port), *files.values(),
        ],
        capture_output=True,
        check=False,
        timeout=120,
        env={"TCP_NODELAY": "1"},
    )  # fmt: skip
    told = report.read_text() if report.exists() else ""
    told_of = dict(_REPORTED.findall(told))
    return {name: told_of.get(str(path), "").upper() or NOT_SENT for name, path in files.items()}


def by_big_endian_storescu(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """DCMTK's storescu, which proposes big endian and nothing else; one file each."""
    answers = {}
    for name, path in files.items():
        sent = subprocess.run(
            [
                need(STORESCU), "-v", "-xb", "-aec", "SEGNODE",
                "127.0.0.1", str(node.dicom_port), path,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"TCP_NODELAY": "1"},
        )  # fmt: skip
        told = _STORE_RESPONSE.findall(sent.stdout + sent.stderr)
        answers[name] = SUCCESS if told == ["Success"] else str(told or NOT_SENT)
    return answers


def by_raw_dimse(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """The bytes of each data set as they stand in the file, on an association each."""
    return {name: _store(node.dicom_port, path.read_bytes()) for name, path in files.items()}


def by_stow(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """The bytes of each file as one part, a request each."""
    return {name: _post(node.site, path.read_bytes()) for name, path in files.items()}


def by_folder(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """A folder with copies of the files, scanned once."""
    inbox = folder / "inbox"
    for name, path in files.items():
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, inbox / name)
    report = node.scan(inbox)
    answers = dict.fromkeys(report.taken, SUCCESS)
    answers |= {one.path: f"{one.dimse_status:04X}" for one in report.refused}
    return {str(path.relative_to(inbox)): answer for path, answer in answers.items()}


def by_dimse(node: NodeInProcess, files: Files, folder: Path) -> Answers:
    """The DICOM port whole: dcmsend, storescu for big endian, bytes for what dcmsend does not send."""
    big = {name: path for name, path in files.items() if transfer_syntax(path) == BIG_ENDIAN}
    rest = {name: path for name, path in files.items() if name not in big}
    answers = dict(by_dcmsend(node, rest, folder)) if rest else {}
    left = {name: path for name, path in rest.items() if answers[name] == NOT_SENT}
    return answers | by_big_endian_storescu(node, big, folder) | by_raw_dimse(node, left, folder)


ROADS: Mapping[str, Callable[[NodeInProcess, Files, Path], Answers]] = {
    "dimse": by_dimse,
    "stow": by_stow,
    "folder": by_folder,
}


def header_of(file: Path) -> Dataset | None:
    """What pydicom makes of a file, without pixels; None where it makes nothing of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, EOFError, struct.error, ValueError, NotImplementedError):
            return None


def transfer_syntax(file: Path) -> str:
    """As the file says of itself, empty where it does not."""
    header = header_of(file)
    return "" if header is None else str(header.file_meta.get("TransferSyntaxUID", ""))


def _store(port: int, content: bytes) -> str:
    """One C-STORE, told to be what the file says; what says nothing is told to be a CT."""
    syntax, data = _split(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
            sop_class_uid = str(header.get("SOPClassUID", "")) or raw.CT_IMAGE_STORAGE
            sop_instance_uid = str(header.get("SOPInstanceUID", "")) or "1.2.3.4.5"
        except (InvalidDicomError, EOFError, struct.error, ValueError, NotImplementedError):
            sop_class_uid, sop_instance_uid = raw.CT_IMAGE_STORAGE, "1.2.3.4.5"
    with raw.RawAssociation(port) as client:
        answer = client.request([(sop_class_uid, (syntax,))])
        if answer.kind != raw.ASSOCIATE_AC or raw.accepted(answer)[1][0]:
            return "context refused"
        response = client.store(data, sop_instance_uid, sop_class_uid=sop_class_uid)
        client.release()
    return f"{raw.status(response):04X}"


def _split(content: bytes) -> tuple[str, bytes]:
    """Transfer syntax and data set of a file, by hand; a syntax that is not named is guessed."""
    start, named = (132 if content[128:132] == b"DICM" else 0), ""
    if content[start : start + 4] == b"\x02\x00\x00\x00":
        end = start + 12 + int.from_bytes(content[start + 8 : start + 12], "little")
        found = re.search(rb"\x02\x00\x10\x00UI..([0-9.]+)", content[start:end], re.S)
        start, named = end, found.group(1).decode() if found else ""
    return named or _guessed(content[start:]), content[start:]


def _guessed(data: bytes) -> str:
    if not (data[4:6].isalpha() and data[4:6].isupper()):
        return raw.IMPLICIT_VR_LITTLE_ENDIAN
    return BIG_ENDIAN if data[:1] == b"\0" else raw.EXPLICIT_VR_LITTLE_ENDIAN


def _post(site: Site, content: bytes) -> str:
    answer = site.request("POST", STOW_PATH, body_of(content), {"Content-Type": MULTIPART})
    module = Dataset.from_json(json.loads(answer.body))
    failed = [*module.get("FailedSOPSequence", []), *module.get("OtherFailuresSequence", [])]
    assert (answer.status == 200) == (not failed), answer
    other = " other" if "OtherFailuresSequence" in module else ""
    return f"{failed[0].FailureReason:04X}{other}" if failed else SUCCESS
