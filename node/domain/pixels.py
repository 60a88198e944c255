"""Stored pixels: their bits, their length and their padding, judged by one function for all.

The ingest, the gate and the reader ask here, so that what one of them takes the next can read.

Source: PS3.3 C.7.6.3.1 (Image Pixel), C.7.5.1.1.2 (Pixel Padding Value and Range Limit), PS3.5 8.1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.domain.reasons import Reason, ReasonCode
from node.domain.sources import integer, is_filled

# PS3.3 C.7.6.3.1.1 asks for 1 or a multiple of 8; wider than 64 no array can be
BITS_ALLOCATED = frozenset((1, 8, 16, 24, 32, 40, 48, 56, 64))
BITS_READ = (8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """How one stored value lies in its cell; None where an attribute is absent or malformed.

    Args:
        padding: Lowest and highest stored value that is padding and no part of the image.
        padding_fault: What is wrong with the attributes that tell it.
    """

    samples: int | None = 1
    bits_allocated: int | None = 16
    bits_stored: int | None = 16
    high_bit: int | None = 15
    pixel_representation: int | None = 0
    padding: tuple[int, int] | None = None
    padding_fault: str = ""

    @property
    def is_signed(self) -> bool:
        """Whether stored values are two's complement."""
        return self.pixel_representation == 1

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value that fits into the bits stored; (0, 0) for bad bits."""
        bits = self.bits_stored or 0
        if bits < 1:
            return 0, 0
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.is_signed else (0, (1 << bits) - 1)

    def faults(self) -> Iterator[Reason]:
        """What makes stored values undecidable; each reason names the attribute."""
        for name, value in (
            ("Bits Allocated", self.bits_allocated),
            ("Bits Stored", self.bits_stored),
            ("High Bit", self.high_bit),
            ("Pixel Representation", self.pixel_representation),
        ):
            if value is None:
                yield Reason(ReasonCode.PIXEL_BITS_ABSENT, {"attribute": name})
        allocated, stored, high = self.bits_allocated, self.bits_stored, self.high_bit
        if allocated is not None and allocated not in BITS_READ:
            yield _contradicts(allocated=allocated)
        if self.samples not in (None, 1):
            yield _contradicts(samples=self.samples)
        if stored is not None and not 1 <= stored <= (allocated or stored):
            yield _contradicts(stored=stored, allocated=allocated)
        elif stored is not None and high is not None and high != stored - 1:
            yield _contradicts(high=high, stored=stored)
        if self.pixel_representation not in (None, 0, 1):
            yield _contradicts(representation=self.pixel_representation)
        if self.padding_fault:
            yield Reason(ReasonCode.PADDING_MALFORMED, {"fault": self.padding_fault})


def _contradicts(**attributes: int | None) -> Reason:
    return Reason(ReasonCode.PIXEL_BITS_CONTRADICT, attributes)


def pixel_format_of(instance: Dataset) -> PixelFormat:
    """The bits and the padding that an image declares; nothing in it raises."""
    representation = integer(instance, "PixelRepresentation")
    padding, fault = _padding(instance, is_signed=representation == 1)
    samples = integer(instance, "SamplesPerPixel")
    return PixelFormat(
        samples=1 if samples is None else samples,
        bits_allocated=integer(instance, "BitsAllocated"),
        bits_stored=integer(instance, "BitsStored"),
        high_bit=integer(instance, "HighBit"),
        pixel_representation=representation,
        padding=padding,
        padding_fault=fault,
    )


def native_length_fits(length_bytes: int, declared_bits: int, frames: int) -> bool:
    """Whether native pixel data can hold the frames declared.

    Some writers pad; what could be one frame more than declared does not fit.
    """
    due = (declared_bits + 7) // 8
    return 0 <= length_bytes - due < max(2, due // frames)


def _padding(instance: Dataset, *, is_signed: bool) -> tuple[tuple[int, int] | None, str]:
    value, limit = "PixelPaddingValue", "PixelPaddingRangeLimit"
    has_value, has_limit = is_filled(instance, value), is_filled(instance, limit)
    if not has_value:
        return None, "Pixel Padding Range Limit without Pixel Padding Value" if has_limit else ""
    first = _cell(instance, value, is_signed=is_signed)
    last = _cell(instance, limit, is_signed=is_signed) if has_limit else first
    if first is None or last is None:
        return None, "Pixel Padding Value or Range Limit malformed"
    return (min(first, last), max(first, last)), ""


def _cell(instance: Dataset, keyword: str, *, is_signed: bool) -> int | None:
    """Two bytes as Pixel Representation says, whatever value representation the writer named."""
    element = instance.get_item(keyword)
    value = element.value
    if isinstance(value, bytes):
        if len(value) != 2:
            return None
        order = "little" if getattr(element, "is_little_endian", True) else "big"
        cell = int.from_bytes(value, order)  # type: ignore[arg-type]
    elif isinstance(value, int):
        cell = value & 0xFFFF
    else:
        return None
    return cell - 0x10000 if is_signed and cell >= 0x8000 else cell
