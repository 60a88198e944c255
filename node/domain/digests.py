"""Digests that say whether two encodings hold the same instance.

Values are compared as their bytes in little endian, padding removed, in the order of their tags.
The value representation is left out, for implicit VR does not carry it; pixel data count as their
decoded frames. So transfer syntax, lengths, delimiters, group lengths and trailing padding make no
difference.

Source: PS3.5 7.1 (elements), 7.3 (byte order), 8.1 (pixel data)
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag

from node.domain.carried import is_text_for_sequence
from node.domain.frames import frames_of
from node.domain.header import vr_of

if TYPE_CHECKING:
    from hashlib import _Hash

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PIXEL_GROUP = 0x7FE0
_TRAILING_PADDING = 0xFFFCFFFC
_WIDTH = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_NUMBER = {
    "US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "UV": "<u8", "SV": "<i8",
    "FL": "<f4", "FD": "<f8",
}  # fmt: skip
# what else decides which number a stored value means, or where it lies
_MEANING = (
    "Modality",
    "PatientPosition",
    "FrameOfReferenceUID",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "BitsStored",
    "NumberOfFrames",
    "SliceThickness",
    "SpacingBetweenSlices",
)
# how the pixels are stored, not what they show
_PLANAR_CONFIGURATION = 0x00280006


def content_digest(instance: Dataset, file: BinaryIO | None = None) -> str:
    """Equal for two encodings of one instance, different for any other attribute or pixel.

    Args:
        file: The instance as a file, where its pixels should be read from that, frame by frame.
    """
    digest = hashlib.sha256()
    _add_data_set(digest, instance)
    _add_pixels(digest, instance, file)
    return digest.hexdigest()


def pixel_and_geometry_digest(instance: Dataset, file: BinaryIO | None = None) -> str:
    """Equal when pixels and their place in the patient are, whatever else the header says.

    Args:
        file: As for ``content_digest``.
    """
    digest = hashlib.sha256()
    for frame in frames_of(instance):
        digest.update(repr(frame).encode())
    for keyword in _MEANING:
        value = str(instance.get(keyword, "") or "").strip()
        digest.update(f"\x1e{keyword}={value}".encode())
    if not _has_pixels(instance):
        # an instance without pixels is its attributes
        _add_data_set(digest, instance)
    _add_pixels(digest, instance, file)
    return digest.hexdigest()


def _add_data_set(digest: _Hash, dataset: Dataset) -> None:
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or tag.group == _PIXEL_GROUP:
            continue
        if tag in (_PLANAR_CONFIGURATION, _TRAILING_PADDING):
            continue
        element = dataset.get_item(tag)
        digest.update(b"\x1d%08X" % int(tag))
        items = _items(dataset, tag, element)
        if items is None:
            digest.update(_canonical(element))
            continue
        for item in items:
            digest.update(b"\x1c(")
            _add_data_set(digest, item)
            digest.update(b")")


def _items(
    dataset: Dataset, tag: BaseTag, element: DataElement | RawDataElement
) -> list[Dataset] | None:
    is_sequence = element.VR == "SQ" or (element.VR in (None, "UN") and vr_of(tag) == "SQ")
    if not is_sequence and not isinstance(element, DataElement):
        # private sequences of implicit VR have no dictionary; undefined length tells them
        is_sequence = element.length == 0xFFFFFFFF
    if not is_sequence or is_text_for_sequence(dataset, tag, "SQ"):
        return None
    value = dataset[tag].value
    return list(value) if not isinstance(value, str | bytes) else None


def _canonical(element: DataElement | RawDataElement) -> bytes:
    if isinstance(element, RawDataElement):
        value: bytes = element.value or b""
        width = _WIDTH.get(element.VR or "", 1)
        if not element.is_little_endian and width > 1:
            value = (
                np.frombuffer(value[: len(value) // width * width], f">u{width}")
                .astype(f"<u{width}")
                .tobytes()
            )
        return value.rstrip(b" \0")
    return _as_stored(element).rstrip(b" \0")


def _as_stored(element: DataElement) -> bytes:
    """A value that pydicom decoded already (Pixel Representation, say) as its bytes would be."""
    decoded = element.value
    if isinstance(decoded, bytes):
        return decoded
    values = list(decoded) if isinstance(decoded, MultiValue | list) else [decoded]
    number = _NUMBER.get(element.VR)
    if number is not None and all(isinstance(value, int | float) for value in values):
        return np.array(values, number).tobytes()
    return "\\".join(map(str, values)).strip().encode("utf-8", "surrogateescape")


def _has_pixels(instance: Dataset) -> bool:
    return any(keyword in instance for keyword in _PIXEL_KEYWORDS)


def _add_pixels(digest: _Hash, instance: Dataset, file: BinaryIO | None) -> None:
    source = instance if file is None else file
    for frame in iter_pixels(source, raw=True) if _has_pixels(instance) else ():
        digest.update(b"\x1f%d,%d" % frame.shape[:2])
        digest.update(np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<")).tobytes())
