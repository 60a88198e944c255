"""Notes: what the Standard does not allow, the node takes all the same, and an operator may know.

Each is something that dcmtk, GDCM and pydicom read alike, so that taking it cannot mean another
image than the sender's (docs/receiving.md holds the table, a test runs those readers over it).
"""

from __future__ import annotations

from enum import StrEnum


class Note(StrEnum):
    """What was unusual about a data set; the values are the kinds of event rows."""

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
