"""Modality LUT: a table in place of slope and intercept.

Source: PS3.3 C.11.1 (Modality LUT), C.11.1.1.1 (LUT Descriptor).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.domain.header import UNREADABLE

_MAX_ENTRIES = 1 << 16
_SIGN = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityLut:
    """A table of output values.

    Args:
        first: The stored value that the first entry is for; what lies below gets it too, and what
            lies above the last entry gets the last.
        entries: int32, little endian.
    """

    first: int
    entries: bytes

    def apply(self, stored: NDArray[np.integer]) -> NDArray[np.int32]:
        table = np.frombuffer(self.entries, "<i4")
        index = stored.astype(np.int64)
        index -= self.first
        np.clip(index, 0, len(table) - 1, out=index)
        return table[index]


class LutMalformed(ValueError):
    """The Modality LUT Sequence holds no table that could be applied; the message says why."""


def modality_lut_of(item: Dataset, *, is_signed: bool, is_little_endian: bool) -> ModalityLut:
    """The table of an item of the Modality LUT Sequence.

    Args:
        is_signed: Pixel Representation of the image, which the first value mapped follows.
        is_little_endian: Byte order of 16-bit words in LUT Data.
    Raises:
        LutMalformed: The descriptor and the data do not go together.
    """
    count, first, bits = _descriptor(item, is_signed=is_signed, little=is_little_endian)
    if not 8 <= bits <= 16:
        raise LutMalformed(f"LUT entries of {bits} bits")
    values = _entries(item, count, bits, little=is_little_endian)
    if values.max() >= 1 << bits:
        raise LutMalformed(f"LUT entries above {bits} bits")
    return ModalityLut(first=first, entries=values.astype("<i4").tobytes())


def has_negative_numbers(lut: ModalityLut) -> bool:
    """Whether entries look like negative numbers, which the table cannot hold: it is unsigned."""
    return bool((np.frombuffer(lut.entries, "<i4") >= _SIGN).any())


def _descriptor(item: Dataset, *, is_signed: bool, little: bool) -> tuple[int, int, int]:
    """Number of entries, first value mapped, bits of an entry."""
    try:
        element = item.get_item("LUTDescriptor")
        if isinstance(element.value, bytes):
            words = np.frombuffer(element.value, "<u2" if little else ">u2").tolist()
        else:
            words = [int(value) & 0xFFFF for value in element.value]
        count, first, bits = words
    except (KeyError, *UNREADABLE):
        raise LutMalformed("LUT Descriptor absent or malformed") from None
    if is_signed and first >= _SIGN:
        first -= 1 << 16
    return count or _MAX_ENTRIES, first, bits


def _entries(item: Dataset, count: int, bits: int, *, little: bool) -> NDArray[np.int64]:
    try:
        value = item.get_item("LUTData").value
        if isinstance(value, bytes):
            return _from_bytes(value, count, bits, little=little)
        listed = np.array([int(each) & 0xFFFF for each in np.atleast_1d(value)], np.int64)
    except (KeyError, *UNREADABLE):
        raise LutMalformed("LUT Data absent or malformed") from None
    if len(listed) != count:
        raise LutMalformed(f"{len(listed)} LUT entries where {count} are declared")
    return listed


def _from_bytes(value: bytes, count: int, bits: int, *, little: bool) -> NDArray[np.int64]:
    if len(value) == 2 * count:
        return np.frombuffer(value, "<u2" if little else ">u2").astype(np.int64)
    if bits == 8 and len(value) in (count, count + 1):
        packed = np.frombuffer(value, np.uint8)
        if not little and len(value) % 2 == 0:  # two entries in a word, the first in its low byte
            packed = packed.reshape(-1, 2)[:, ::-1].reshape(-1)
        return packed[:count].astype(np.int64)
    raise LutMalformed(f"{len(value)} bytes of LUT Data for {count} entries")
