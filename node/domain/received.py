"""What the ingest has learnt of a data set before it is kept.

Source: PS3.3 C.12.1 (SOP common), C.7.1.1 (patient), C.7.3.1 (series).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from node.domain.notes import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A data set that passed every check, or as much as is known of one that did not.

    Args:
        received_sha256: Of the data-set bytes as received.
        size_bytes: Of the data set as received, without preamble and group 0002.
        patient_key: Digest of PatientID and StudyInstanceUID: equal in all instances of a series.
        is_input: An image with pixels, which a model could take.
        notes: What the Standard does not allow and was taken all the same.
    """

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    received_sha256: str = ""
    size_bytes: int = 0
    patient_key: str = ""
    is_input: bool = False
    notes: tuple[Note, ...] = ()


def patient_key(patient_id: bytes, study_instance_uid: str) -> str:
    """A digest that differs when two instances are of different patients or studies.

    Args:
        patient_id: The encoded value of Patient ID (0010,0020), padding included or not.
    """
    text = patient_id.strip(b" \0") + b"\x1f" + study_instance_uid.encode()
    return hashlib.sha256(text).hexdigest()
