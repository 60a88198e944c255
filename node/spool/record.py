"""The first 2048 bytes of every file in the spool: preamble, group 0002, and the node's own record.

The data set always starts at the same place, so it can be written before anything is known of it;
preamble and group 0002 are put in front at the end. Until then the file is no DICOM file. The
record (origin, digests, time) stands in Private Information (0002,0102), which also fills the rest:
index rows can be rebuilt from the files alone, and any DICOM tool still reads them.

Source: PS3.10 7.1
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import pack, unpack_from
from typing import TypeAlias

from node.domain.instance import Instance, Origin, Transport
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, uid_from

HEAD_BYTES = 2048

Json: TypeAlias = Mapping[str, object]

_RECORD_CREATOR_UID = uid_from("segnode", "spool record", "1")
_PREAMBLE = bytes(128) + b"DICM"
_RECORD_TAG = 0x0102
_SOURCE_CHARACTERS = 80  # the end of a path, which may be of four bytes each
_LIMITS = {
    "peer": 64,
    "calling_ae_title": 16,
    "called_ae_title": 16,
    "address": 64,
    "http_user": 64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """What a file of the spool says of itself.

    Args:
        version: 0 in quarantine.
        dimse_status: With ``reason`` and ``source``, the file that it came from: of a file in
            quarantine.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    origin: Origin
    received_at: float
    received_sha256: str
    size_bytes: int
    version: int
    pixel_identity: str = ""
    is_input: bool = False
    patient_key: str = ""
    dimse_status: int = 0
    reason: str = ""
    source: str = ""

    def instance(self, file_name: str) -> Instance:
        """The index row of a kept file."""
        return Instance(
            sop_instance_uid=self.sop_instance_uid,
            sop_class_uid=self.sop_class_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            study_instance_uid=self.study_instance_uid,
            series_instance_uid=self.series_instance_uid,
            version=self.version,
            file_name=file_name,
            data_offset=HEAD_BYTES,
            size_bytes=self.size_bytes,
            received_sha256=self.received_sha256,
            pixel_identity=self.pixel_identity,
            is_input=self.is_input,
            received_at=self.received_at,
            origin=self.origin,
        )


def encode_record(head: InstanceRecord) -> bytes:
    """Preamble and group 0002, exactly ``HEAD_BYTES`` long."""
    origin = head.origin
    body = b"".join(
        (
            pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _text(0x0002, b"UI", head.sop_class_uid),
            _text(0x0003, b"UI", head.sop_instance_uid),
            _text(0x0010, b"UI", head.transfer_syntax_uid),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _text(0x0016, b"AE", origin.calling_ae_title) if origin.calling_ae_title else b"",
            # PS3.10 7.1: who sent it to us, and to which title of ours
            _text(0x0017, b"AE", origin.calling_ae_title) if origin.calling_ae_title else b"",
            _text(0x0018, b"AE", origin.called_ae_title) if origin.called_ae_title else b"",
            _text(0x0100, b"UI", _RECORD_CREATOR_UID),
        )
    )
    room = HEAD_BYTES - len(_PREAMBLE) - 12 - len(body) - 12
    record = json.dumps(_record(head), ensure_ascii=False, separators=(",", ":")).encode()
    if len(record) > room:
        raise ValueError(f"a record of {len(record)} bytes does not fit in {room}")
    body += pack("<HH2sHI", 0x0002, _RECORD_TAG, b"OB", 0, room) + record.ljust(room)
    return _PREAMBLE + pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(body)) + body


def decode_record(data: bytes) -> InstanceRecord:
    """The record of a spool file.

    Raises:
        ValueError: These are not the first bytes of a file that the spool wrote.
    """
    texts: dict[int, str] = {}
    position = len(_PREAMBLE)
    if len(data) < HEAD_BYTES or data[:position] != _PREAMBLE:
        raise ValueError("no file of the spool")
    while position < HEAD_BYTES:
        group, element, vr, length = unpack_from("<HH2sH", data, position)
        position += 8
        if vr == b"OB":
            (length,) = unpack_from("<I", data, position)
            position += 4
        if group != 0x0002 or position + length > HEAD_BYTES:
            raise ValueError("no file of the spool")
        if element == _RECORD_TAG:
            return _head(json.loads(data[position : position + length]), texts)
        texts[element] = data[position : position + length].rstrip(b" \0").decode("latin-1")
        position += length
    raise ValueError("no record in the file")


def read_record(path: Path) -> InstanceRecord:
    """The record of a spool file, read from its first bytes."""
    with path.open("rb", buffering=0) as file:
        return decode_record(file.read(HEAD_BYTES) or b"")


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _record(head: InstanceRecord) -> Json:
    origin = head.origin
    named = {name: getattr(origin, name)[:limit] for name, limit in _LIMITS.items()}
    return {
        "study": head.study_instance_uid,
        "series": head.series_instance_uid,
        "road": origin.transport.value,  # the key that files of before have, too
        "association": origin.association_id,
        **{name: value for name, value in named.items() if value},
        "received_at": head.received_at,
        "sha256": head.received_sha256,
        "size": head.size_bytes,
        "version": head.version,
        "pixels": head.pixel_identity if head.pixel_identity != head.received_sha256 else "",
        "input": head.is_input,
        "patient": head.patient_key,
        **({"status": head.dimse_status, "reason": head.reason[:120]} if head.dimse_status else {}),
        **({"source": head.source[-_SOURCE_CHARACTERS:]} if head.source else {}),
    }


def _head(record: Mapping[str, str], texts: Mapping[int, str]) -> InstanceRecord:
    sha256 = str(record["sha256"])
    return InstanceRecord(
        sop_class_uid=texts.get(0x0002, ""),
        sop_instance_uid=texts.get(0x0003, ""),
        transfer_syntax_uid=texts.get(0x0010, ""),
        study_instance_uid=str(record["study"]),
        series_instance_uid=str(record["series"]),
        origin=Origin(
            transport=Transport(record["road"]),
            association_id=str(record["association"]),
            **{name: str(record.get(name, "")) for name in _LIMITS},
        ),
        received_at=float(record["received_at"]),
        received_sha256=sha256,
        size_bytes=int(record["size"]),
        version=int(record["version"]),
        pixel_identity=str(record["pixels"]) or sha256,
        is_input=bool(record["input"]),
        patient_key=str(record["patient"]),
        dimse_status=int(record.get("status", 0)),
        reason=str(record.get("reason", "")),
        source=str(record.get("source", "")),
    )
