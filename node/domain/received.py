"""What the ingest has learnt of a data set before it is kept.

Source: PS3.3 C.12.1 (SOP common), C.7.1.1 (patient), C.7.3.1 (series).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from node.domain.notes import Note

# images of a patient in a plane: what a model may be given (PS3.6 Annex A); not Secondary Capture,
# which shows whatever a screen showed
_IMAGE_SUFFIXES = (
    "1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 2.1 2.2 3.1 4 4.1 4.3 4.4 6.1 6.2 6.3 "
    "12.1 12.1.1 12.2 12.2.1 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 14.1 14.2 20 "
    "77.1.1 77.1.2 77.1.3 77.1.4 77.1.5.1 77.1.5.2 77.1.5.4 77.1.5.7 77.1.6 77.1.7 77.1.8 77.1.9 "
    "128 128.1 130 481.1 481.23 481.24"
)
IMAGE_SOP_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in _IMAGE_SUFFIXES.split()
)

# PS3.3 C.7.6.3.1.2: a picture in colours has no values that a model of today could read
_GRAY = frozenset(("MONOCHROME1", "MONOCHROME2"))


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


def can_be_input(sop_class_uid: str, photometric_interpretation: str) -> bool:
    """Whether an instance that has pixels may be given to a model."""
    return sop_class_uid in IMAGE_SOP_CLASSES and photometric_interpretation in _GRAY
