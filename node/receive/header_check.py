"""What the top level of a data set must say before the instance is kept; no pixel is touched."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import Any

from pydicom.datadict import dictionary_description

from node.domain.errors import InstanceRejected, Status
from node.domain.pixels import BITS_ALLOCATED, native_length_fits
from node.domain.received import IMAGE_SOP_CLASSES, Note, Received, can_be_input, patient_key
from node.domain.uids import has_leading_zero, is_uid
from node.receive.syntaxes import NATIVE_SYNTAXES
from node.receive.walk import PIXEL_DATA, Structure

# the four UIDs that name an instance and its place, as ``Received`` has them
UID_TAGS = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
}
_PATIENT_ID = 0x00100020
_META_TRANSFER_SYNTAX_UID = 0x00020010
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLUMNS, _BITS_ALLOCATED = 0x00280010, 0x00280011, 0x00280100
_FLOAT_PIXEL_DATA = {0x7FE00008: 32, 0x7FE00009: 64}
# PS3.5 6.2 has no decimal point in IS; pydicom, dcmtk and GDCM read one with zeros behind it
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}(\.0*)?")


def read_uids(top: Structure) -> dict[str, Any]:
    """The UIDs of ``UID_TAGS`` as they stand."""
    return {name: top.text(tag) for name, tag in UID_TAGS.items()}


def check_header(top: Structure, known: Received, *, max_pixel_bytes: int) -> Received:
    """Identity and pixel facts of a walked data set.

    Args:
        known: What was learnt before: all but patient, input and notes.
        max_pixel_bytes: What the pixels may come to when they are decoded.
    Raises:
        InstanceRejected: 0xC000, a UID is absent or malformed; 0xC010, the pixel data are not what
            the header declares.
    Source: PS3.5 9.1, PS3.3 C.7.6.3
    """
    uids = {tag: getattr(known, name) for name, tag in UID_TAGS.items()}
    wrong = [tag for tag, uid in uids.items() if not is_uid(uid)]
    if wrong:
        raise InstanceRejected(
            "UIDs are absent or malformed: "
            + ", ".join(f"({t >> 16:04X},{t & 0xFFFF:04X})" for t in wrong),
            dimse_status=Status.CANNOT_UNDERSTAND,
            offending_tags=wrong,
        )
    if top.text(_META_TRANSFER_SYNTAX_UID) not in ("", known.transfer_syntax_uid):
        # readers take group 0002 at the start of a data set for the end of the one before it
        raise InstanceRejected(
            "the data set names another transfer syntax than it came with",
            dimse_status=Status.CANNOT_UNDERSTAND,
            offending_tags=[_META_TRANSFER_SYNTAX_UID],
        )
    has_pixels = _check_pixels(top, known.transfer_syntax_uid, max_pixel_bytes)
    notes = set(top.notes)
    if any(map(has_leading_zero, uids.values())):
        notes.add(Note.UID_LEADING_ZERO)
    if "." in top.text(_FRAMES):
        notes.add(Note.DECIMAL_INTEGER)
    is_image = known.sop_class_uid in IMAGE_SOP_CLASSES
    if not has_pixels and Note.BYTES_BEHIND in notes and is_image:
        raise _contradiction("zeros stand where the pixel data belong", PIXEL_DATA)
    return replace(
        known,
        patient_key=patient_key(top.value(_PATIENT_ID), known.study_instance_uid),
        is_input=has_pixels and can_be_input(known.sop_class_uid, top.text(_PHOTOMETRIC)),
        notes=tuple(sorted(notes)),
    )


def _unsigned_short(top: Structure, tag: int) -> int | None:
    """A US value; None where absent."""
    value = top.value(tag)
    if not value:
        return None
    order = "<" if top.encoding.is_little_endian else ">"
    try:
        return int(struct.unpack_from(f"{order}H", value)[0])
    except struct.error:
        raise _no_number(tag) from None


def _integer_string(top: Structure, tag: int) -> int | None:
    """An IS value, "1.0" too as readers have it; None where absent or empty."""
    text = top.text(tag)
    if not text:
        return None
    if not _INTEGER.fullmatch(text):
        raise _no_number(tag)
    return int(text.partition(".")[0])


def _no_number(tag: int) -> InstanceRejected:
    return _contradiction(f"{dictionary_description(tag)} is no number", tag)


def _contradiction(reason: str, *tags: int) -> InstanceRejected:
    return InstanceRejected(
        f"the pixel data are not what the header declares: {reason}",
        dimse_status=Status.PIXELS_CONTRADICT_HEADER,
        offending_tags=tags,
    )


def _check_pixels(top: Structure, transfer_syntax_uid: str, max_pixel_bytes: int) -> bool:
    """Whether the instance has integer pixel data, all of which agree with the header."""
    elements = top.elements
    present = [tag for tag in (PIXEL_DATA, *_FLOAT_PIXEL_DATA) if tag in elements]
    if not present:
        # sound objects exist that describe pixels and bring none: stored, never an input
        return False
    tag = present[0]
    bits = _declared_bits(top, _FLOAT_PIXEL_DATA.get(tag))
    if (bits + 7) // 8 > max_pixel_bytes:
        raise _contradiction("more pixels than this node takes", _ROWS, _COLUMNS)
    fragments = top.fragments if tag == PIXEL_DATA else None
    if transfer_syntax_uid in NATIVE_SYNTAXES or tag != PIXEL_DATA:
        if fragments is not None:
            raise _contradiction("encapsulated under a native transfer syntax", tag)
        length = elements[tag].length
        if not native_length_fits(length, bits, _integer_string(top, _FRAMES) or 1):
            due = (bits + 7) // 8
            raise _contradiction(f"{length} bytes where {due} are declared", tag)
    elif fragments is None:
        raise _contradiction("native under a transfer syntax that encapsulates", tag)
    elif sum(1 for f in fragments if f.length) < (_integer_string(top, _FRAMES) or 1):
        raise _contradiction("fewer fragments than frames", tag)
    return tag == PIXEL_DATA


def _declared_bits(top: Structure, float_bits: int | None) -> int:
    """How many bits of pixels the header declares."""
    rows, columns = _unsigned_short(top, _ROWS), _unsigned_short(top, _COLUMNS)
    frames = _integer_string(top, _FRAMES)
    samples = _unsigned_short(top, _SAMPLES)
    bits = float_bits or _unsigned_short(top, _BITS_ALLOCATED)
    if not rows or not columns:
        raise _contradiction("Rows or Columns absent or zero", _ROWS, _COLUMNS)
    if (frames is not None and frames < 1) or samples == 0:
        raise _contradiction("no frames or no samples", _FRAMES, _SAMPLES)
    if bits not in BITS_ALLOCATED:
        raise _contradiction(f"Bits Allocated {bits}", _BITS_ALLOCATED)
    # PS3.3 C.7.6.3.1.2: two chrominance samples are shared by two pixels
    shared = top.text(_PHOTOMETRIC) in ("YBR_FULL_422", "YBR_PARTIAL_422")
    return rows * columns * (frames or 1) * (2 if shared else samples or 1) * bits
