"""What the ingest has learnt of what was sent: the data set, what is unusual in it, what was lost.

What the node refused it knows to be missing: a series of which images were refused is not complete,
however regular the rest of it looks.

Source: PS3.3 C.12.1 (SOP common), C.7.1.1 (patient), C.7.3.1 (series).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from node.domain.reasons import Reason, ReasonCode

_MOST_REASONS = 3


class Note(StrEnum):
    """What was unusual about a data set; the values are the kinds of event rows.

    The Standard does not allow it, and dcmtk, GDCM and pydicom read it alike, so that taking it cannot
    mean another image than the sender's (docs/receiving.md holds the table, a test runs those readers).
    """

    BYTES_BEHIND = "bytes_behind_data_set"
    FILE_META_REPEATED = "file_meta_repeated"
    LOW_GROUP = "group_below_0008"
    OUT_OF_ORDER = "tags_out_of_order"
    REPEATED = "tag_repeated"
    STRAY_DELIMITER = "stray_delimiter"
    NO_VR = "vr_missing"
    OTHER_ENCODING = "items_in_another_encoding"
    UN_IN_BIG_ENDIAN = "un_in_big_endian"
    TEXT_FOR_SEQUENCE = "text_in_sequence"
    UID_LEADING_ZERO = "uid_leading_zero"
    DECIMAL_INTEGER = "decimal_integer_string"

    @property
    def sentence(self) -> str:
        """What it is and what was done, without patient data."""
        return _SENTENCES[self]


_SENTENCES = {
    Note.BYTES_BEHIND: "Zeros or a line end stand behind the data set: they are passed over.",
    Note.FILE_META_REPEATED: (
        "File Meta Information comes twice: the first one counts (PS3.10 7.1)."
    ),
    Note.LOW_GROUP: (
        "Elements of groups 0000 to 0007 stand in the data set: they are passed over and never"
        " copied into a result (PS3.5 7.1)."
    ),
    Note.OUT_OF_ORDER: "Elements are not in the order of their tags (PS3.5 7.1).",
    Note.REPEATED: "An element comes twice with one value (PS3.5 7.1).",
    Note.STRAY_DELIMITER: (
        "A delimiter has a length, or stands where the length tells the end (PS3.5 7.5.1)."
    ),
    Note.NO_VR: "An element has no value representation in explicit VR (PS3.5 7.1.2).",
    Note.OTHER_ENCODING: "A sequence is encoded in another way than its data set (PS3.5 6.2.2).",
    Note.UN_IN_BIG_ENDIAN: (
        "A sequence of unknown value representation stands in big endian: its length is written"
        " into the kept file, for readers find no end otherwise (PS3.5 6.2.2)."
    ),
    Note.TEXT_FOR_SEQUENCE: (
        "An element that the dictionary calls a sequence holds something else: it is taken as"
        " bytes and never copied into a result."
    ),
    Note.UID_LEADING_ZERO: (
        "A UID has a component with a leading zero (PS3.5 9.1): it is used exactly as it is."
    ),
    Note.DECIMAL_INTEGER: "Number of Frames is written with a decimal point (PS3.5 6.2).",
}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One image that was refused, could not be read, was cut off, or came without pixels.

    Args:
        series_instance_uid: The series it names; empty where its header could not say.
        image: Its SOP Instance UID, or else what tells it from other images of its sender: a path,
            the number of a part in a request.
        sop_instance_uid: Empty where nobody could say.
        association_id: Of the association, STOW request or folder scan that carried it.
    """

    series_instance_uid: str = ""
    image: str
    sop_instance_uid: str = ""
    association_id: str
    dimse_status: int
    reason: str

    def __post_init__(self) -> None:
        if not self.image:
            raise ValueError("a loss that nothing tells from another")


def images_refused(losses: Sequence[Loss], images: int) -> Reason:
    """How many of how many images were refused, and why, the most frequent reason first.

    Args:
        images: As many are kept.
    """
    whys = Counter(loss.reason for loss in losses).most_common()
    facts = {
        "count": len(losses),
        "of": len(losses) + images,
        "whys": [(number, why) for why, number in whys[:_MOST_REASONS]],
        "others": sum(number for _, number in whys[_MOST_REASONS:]),
    }
    return Reason(ReasonCode.IMAGES_REFUSED, facts)
