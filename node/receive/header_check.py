"""What the top level of a data set must say before the instance is kept.

Values are read from where the walk found them: nothing is decoded twice and no pixel is touched.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_description

from node.domain.errors import InstanceRejected
from node.domain.pixels import BITS_ALLOCATED, native_length_fits
from node.domain.received import Note, Received, patient_key
from node.domain.statuses import CANNOT_UNDERSTAND, PIXELS_CONTRADICT_HEADER
from node.domain.uids import has_leading_zero, is_uid
from node.receive.syntaxes import IMAGE_SOP_CLASSES, NATIVE_SYNTAXES, can_be_input
from node.receive.walk import PIXEL_DATA, Buffer, Structure

SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
_PATIENT_ID = 0x00100020
_META_TRANSFER_SYNTAX_UID = 0x00020010
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLUMNS, _BITS_ALLOCATED = 0x00280010, 0x00280011, 0x00280100
_FLOAT_PIXEL_DATA = {0x7FE00008: 32, 0x7FE00009: 64}


# PS3.5 6.2 has no decimal point in IS; pydicom, dcmtk and GDCM read one with zeros behind it
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}(\.0*)?")


@dataclass(frozen=True, slots=True)
class TopLevel:
    """Reads values of the top level of a walked data set."""

    data: Buffer
    structure: Structure

    def bytes(self, tag: int) -> bytes:
        """The encoded value; empty where the element is absent."""
        element = self.structure.elements.get(tag)
        if element is None:
            return b""
        return bytes(self.data[element.offset : element.offset + element.length])

    def text(self, tag: int) -> str:
        """A value of the default character repertoire, padding removed."""
        return self.bytes(tag).rstrip(b" \0").lstrip(b" ").decode("latin-1")

    def unsigned_short(self, tag: int) -> int | None:
        """A US value; None where absent."""
        value = self.bytes(tag)
        if not value:
            return None
        order = "<" if self.structure.encoding.is_little_endian else ">"
        try:
            return int(struct.unpack_from(f"{order}H", value)[0])
        except struct.error:
            raise _no_number(tag) from None

    def integer_string(self, tag: int) -> int | None:
        """An IS value, "1.0" too as readers have it; None where absent or empty."""
        text = self.text(tag)
        if not text:
            return None
        if not _INTEGER.fullmatch(text):
            raise _no_number(tag)
        return int(text.partition(".")[0])


def check_header(
    top: TopLevel,
    transfer_syntax_uid: str,
    *,
    size_bytes: int,
    received_sha256: str,
    max_pixel_bytes: int,
) -> Received:
    """Identity and pixel facts of a walked data set.

    Args:
        size_bytes: Of the data set as received.
        max_pixel_bytes: What the pixels may come to when they are decoded.
    Raises:
        InstanceRejected: 0xC000, a UID is absent or malformed; 0xC010, the pixel data are not what
            the header declares.
    Source: PS3.5 9.1, PS3.3 C.7.6.3
    """
    uids = read_uids(top)
    wrong = [tag for tag, uid in uids.items() if not is_uid(uid)]
    if wrong:
        raise InstanceRejected(
            "UIDs are absent or malformed: "
            + ", ".join(f"({t >> 16:04X},{t & 0xFFFF:04X})" for t in wrong),
            dimse_status=CANNOT_UNDERSTAND,
            offending_tags=wrong,
        )
    if top.text(_META_TRANSFER_SYNTAX_UID) not in ("", transfer_syntax_uid):
        # readers take group 0002 at the start of a data set for the end of the one before it
        raise InstanceRejected(
            "the data set names another transfer syntax than it came with",
            dimse_status=CANNOT_UNDERSTAND,
            offending_tags=[_META_TRANSFER_SYNTAX_UID],
        )
    has_pixels = _check_pixels(top, transfer_syntax_uid, max_pixel_bytes)
    notes = _notes(top, uids)
    sop_class_uid = uids[SOP_CLASS_UID]
    if not has_pixels and Note.BYTES_BEHIND in notes and sop_class_uid in IMAGE_SOP_CLASSES:
        raise _contradiction("zeros stand where the pixel data belong", PIXEL_DATA)
    return Received(
        sop_class_uid=uids[SOP_CLASS_UID],
        sop_instance_uid=uids[SOP_INSTANCE_UID],
        study_instance_uid=uids[STUDY_INSTANCE_UID],
        series_instance_uid=uids[SERIES_INSTANCE_UID],
        transfer_syntax_uid=transfer_syntax_uid,
        received_sha256=received_sha256,
        size_bytes=size_bytes,
        patient_key=patient_key(top.bytes(_PATIENT_ID), uids[STUDY_INSTANCE_UID]),
        is_input=has_pixels and can_be_input(sop_class_uid, top.text(_PHOTOMETRIC)),
        notes=notes,
    )


def _notes(top: TopLevel, uids: Mapping[int, str]) -> tuple[Note, ...]:
    """What of structure and values the Standard does not allow."""
    notes = set(top.structure.notes)
    if any(has_leading_zero(uid) for uid in uids.values()):
        notes.add(Note.UID_LEADING_ZERO)
    if "." in top.text(_FRAMES):
        notes.add(Note.DECIMAL_INTEGER)
    return tuple(sorted(notes))


def read_uids(top: TopLevel) -> Mapping[int, str]:
    """The four UIDs that name an instance and its place, as they stand."""
    tags = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
    return {tag: top.text(tag) for tag in tags}


def _no_number(tag: int) -> InstanceRejected:
    return _contradiction(f"{dictionary_description(tag)} is no number", tag)


def _contradiction(reason: str, *tags: int) -> InstanceRejected:
    return InstanceRejected(
        f"the pixel data are not what the header declares: {reason}",
        dimse_status=PIXELS_CONTRADICT_HEADER,
        offending_tags=tags,
    )


def _check_pixels(top: TopLevel, transfer_syntax_uid: str, max_pixel_bytes: int) -> bool:
    """Whether the instance has integer pixel data, all of which agree with the header."""
    elements = top.structure.elements
    present = [tag for tag in (PIXEL_DATA, *_FLOAT_PIXEL_DATA) if tag in elements]
    if not present:
        # sound objects exist that describe pixels and bring none: stored, never an input
        return False
    tag = present[0]
    bits = _declared_bits(top, _FLOAT_PIXEL_DATA.get(tag))
    if (bits + 7) // 8 > max_pixel_bytes:
        raise _contradiction("more pixels than this node takes", _ROWS, _COLUMNS)
    fragments = top.structure.fragments if tag == PIXEL_DATA else None
    if transfer_syntax_uid in NATIVE_SYNTAXES or tag != PIXEL_DATA:
        if fragments is not None:
            raise _contradiction("encapsulated under a native transfer syntax", tag)
        length = elements[tag].length
        if not native_length_fits(length, bits, top.integer_string(_FRAMES) or 1):
            due = (bits + 7) // 8
            raise _contradiction(f"{length} bytes where {due} are declared", tag)
    elif fragments is None:
        raise _contradiction("native under a transfer syntax that encapsulates", tag)
    elif sum(1 for f in fragments if f.length) < (top.integer_string(_FRAMES) or 1):
        raise _contradiction("fewer fragments than frames", tag)
    return tag == PIXEL_DATA


def _declared_bits(top: TopLevel, float_bits: int | None) -> int:
    """How many bits of pixels the header declares."""
    rows, columns = top.unsigned_short(_ROWS), top.unsigned_short(_COLUMNS)
    frames = top.integer_string(_FRAMES)
    samples = top.unsigned_short(_SAMPLES)
    bits = float_bits or top.unsigned_short(_BITS_ALLOCATED)
    if not rows or not columns:
        raise _contradiction("Rows or Columns absent or zero", _ROWS, _COLUMNS)
    if (frames is not None and frames < 1) or samples == 0:
        raise _contradiction("no frames or no samples", _FRAMES, _SAMPLES)
    if bits not in BITS_ALLOCATED:
        raise _contradiction(f"Bits Allocated {bits}", _BITS_ALLOCATED)
    # PS3.3 C.7.6.3.1.2: two chrominance samples are shared by two pixels
    shared = top.text(_PHOTOMETRIC) in ("YBR_FULL_422", "YBR_PARTIAL_422")
    return rows * columns * (frames or 1) * (2 if shared else samples or 1) * bits
