"""Stored values: everything in a header that decides which number a pixel of a frame means.

Equal ones are one object: thousands of frames share a few. A Modality LUT is a table in place of slope
and intercept.

Source: PS3.3 C.11.1 (Modality LUT), C.11.1.1.1 (LUT Descriptor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isclose
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from node.domain.header import UNREADABLE, undecoded
from node.domain.pixels import PixelFormat, pixel_format_of
from node.domain.quantity import PET_CLASSES, RESCALE_IS_DUE, Quantity, Said, establish
from node.domain.sources import is_given, items, number, text, texts
from node.domain.uptake import Uptake, uptake_of

_LUT, _MAPPING = "ModalityLUTSequence", "RealWorldValueMappingSequence"
_SAME_NUMBERS = 1e-6
_MAX_ENTRIES = 1 << 16
_SIGN = 1 << 15


def _tags(keywords: str) -> tuple[BaseTag, ...]:
    return tuple(Tag(keyword) for keyword in keywords.split())


_RESCALE = frozenset(_tags("RescaleSlope RescaleIntercept"))
_PLAIN = _tags(
    "SOPClassUID Modality ImageType FrameType ComplexImageComponent MultienergyCTAcquisition "
    "SamplesPerPixel BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue "
    "PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType"
)
# an image with one of these is not plain: tables, PET, functional groups
_TABLES = _tags("ModalityLUTSequence RealWorldValueMappingSequence Units")
_GROUPS = _tags("PerFrameFunctionalGroupsSequence SharedFunctionalGroupsSequence")
_SEQUENCES = frozenset((*_TABLES, *_GROUPS))
_DECIDING = frozenset((*_PLAIN, *_TABLES, *_tags("LUTDescriptor MeasurementUnitsCodeSequence")))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValues:
    """How stored values become numbers of a quantity, apart from slope and intercept themselves.

    Args:
        lut: A Modality LUT, in place of slope and intercept.
        lut_fault: Why there is none although the header has its sequence.
        has_slope: Whether Rescale Slope has a value, readable or not; ``has_intercept`` alike.
        is_rescale_due: Whether the class requires both (type 1).
        quantity: Of the numbers; ``why`` it is unspecified.
        uptake: What makes SUV of activity in PET.
    """

    format: PixelFormat = field(default_factory=PixelFormat)
    lut: ModalityLut | None = None
    lut_fault: str = ""
    has_slope: bool = True
    has_intercept: bool = True
    is_rescale_due: bool = False
    quantity: Quantity = Quantity.UNSPECIFIED
    why: str = ""
    uptake: Uptake | None = None


PLAIN = StoredValues()


class StoredValuesReader:
    """Reads the frames of one instance; what they share is read once."""

    def __init__(self, instance: Dataset) -> None:
        # before anything is looked at: looking replaces undecoded elements
        self._plain = _plain_elements(instance)
        self._image = _Image(instance) if self._plain is None else None
        self._known: dict[tuple[int, ...], StoredValues] = {}

    def read(self, sources: Sequence[Dataset], slope: float, intercept: float) -> StoredValues:
        """The facts of one frame.

        Args:
            sources: As of ``frame_sources``.
            slope: And intercept: as read, with 1 and 0 in place of absent ones.
        """
        if self._image is None:
            return _of_plain(self._plain or ())
        # a frame may have a dozen groups, of which one or two tell anything here
        telling = [source for source in sources if not _DECIDING.isdisjoint(source.keys())]
        key = tuple(map(id, telling))  # shared groups are the same objects in every frame
        if key not in self._known:
            self._known[key] = _shared(self._image.read(telling, slope, intercept))
        return self._known[key]


class _Image:
    """What all frames of an instance share."""

    def __init__(self, instance: Dataset) -> None:
        self._format = pixel_format_of(instance)
        self._sop_class_uid = text((instance,), "SOPClassUID")
        self._modality = text((instance,), "Modality").upper()
        self._uptake = uptake_of(instance) if self._sop_class_uid in PET_CLASSES else None
        self._is_little_endian = instance.original_encoding[1] is not False

    def read(self, sources: Sequence[Dataset], slope: float, intercept: float) -> StoredValues:
        lut, fault, lut_type = self._lut(sources)
        has_slope = is_given(sources, "RescaleSlope")
        has_intercept = is_given(sources, "RescaleIntercept")
        mapped, otherwise = _mappings(sources, slope, intercept)
        said = Said(
            sop_class_uid=self._sop_class_uid,
            modality=self._modality,
            image_type=texts(sources, "FrameType") or texts(sources, "ImageType"),
            type_name="Rescale Type" if lut_type is None else "Modality LUT Type",
            # the type of a Modality LUT is type 1: without it nothing is known
            type=text(sources, "RescaleType") if lut_type is None else lut_type or "US",
            is_transformed=(has_slope and has_intercept) or lut is not None,
            is_multi_energy=text(sources, "MultienergyCTAcquisition").upper() == "YES",
            units=text(sources, "Units"),
            suv_type=text(sources, "SUVType"),
            mapped=mapped if lut_type is None else frozenset(),
            mapped_otherwise=otherwise if lut_type is None else mapped | otherwise,
            complex_component=text(sources, "ComplexImageComponent"),
        )
        established = establish(said)
        if lut and established.quantity is Quantity.HU and has_negative_numbers(lut):
            fault = "Modality LUT of HU with entries above 32767: it cannot hold negative numbers"
        return StoredValues(
            format=self._format,
            lut=lut,
            lut_fault=fault,
            has_slope=has_slope,
            has_intercept=has_intercept,
            is_rescale_due=self._sop_class_uid in RESCALE_IS_DUE,
            quantity=established.quantity,
            why=established.why,
            uptake=self._uptake,
        )

    def _lut(self, sources: Sequence[Dataset]) -> tuple[ModalityLut | None, str, str | None]:
        """The table, what is wrong with it, and its type; no type where there is no sequence."""
        # in functional groups the item itself is among the sources
        found = items(sources, _LUT) or [each for each in sources if "LUTDescriptor" in each]
        if not found:
            is_there = is_given(sources, _LUT)
            return (
                None,
                "Modality LUT Sequence malformed" if is_there else "",
                "" if is_there else None,
            )
        lut_type = text(found[:1], "ModalityLUTType")
        signed, little = self._format.is_signed, self._is_little_endian
        try:
            lut = modality_lut_of(found[0], is_signed=signed, is_little_endian=little)
        except LutMalformed as malformed:
            return None, f"Modality LUT Sequence malformed ({malformed})", lut_type
        return lut, "", lut_type


_Plain: TypeAlias = tuple[tuple[BaseTag, str | None, bytes, bool, bool], ...]


def _plain_elements(instance: Dataset) -> _Plain | None:
    """What decides in a classic image without sequences, undecoded; None for any other.

    Most images of a series agree in it byte for byte, so that it is decoded once.
    """
    there = undecoded(instance)
    if not _SEQUENCES.isdisjoint(there):
        return None
    elements = []
    for tag in _PLAIN:
        element = there.get(tag)
        if element is None:
            continue
        if not isinstance(element, RawDataElement) or element.value is None:
            return None
        # the numbers of a rescale differ between slices; here it counts that they are there
        value = element.value if tag not in _RESCALE else element.value and b"1"
        elements.append((tag, element.VR, value, element.is_implicit_VR, element.is_little_endian))
    return tuple(elements)


@lru_cache(maxsize=1024)
def _of_plain(elements: _Plain) -> StoredValues:
    instance = Dataset(
        {
            tag: RawDataElement(tag, vr, len(value), value, 0, is_implicit, is_little)
            for tag, vr, value, is_implicit, is_little in elements
        }
    )
    return _Image(instance).read((instance,), 1.0, 0.0)


@lru_cache(maxsize=1024)
def _shared(values: StoredValues) -> StoredValues:
    """The one object that stands for all equal ones."""
    return values


def _mappings(
    sources: Sequence[Dataset], slope: float, intercept: float
) -> tuple[frozenset[str], frozenset[str]]:
    """Units of Real World Value Mappings that give the same numbers, and of those that do not."""
    same: set[str] = set()
    other: set[str] = set()
    # in functional groups the item itself is among the sources
    in_groups = (each for each in sources if "MeasurementUnitsCodeSequence" in each)
    for mapping in (*items(sources, _MAPPING), *in_groups):
        code = items((mapping,), "MeasurementUnitsCodeSequence")
        unit = text(code[:1], "CodeValue")
        factor = number((mapping,), "RealWorldValueSlope")
        offset = number((mapping,), "RealWorldValueIntercept")
        is_same = (
            factor is not None
            and offset is not None
            and isclose(factor, slope, rel_tol=_SAME_NUMBERS)
            and isclose(offset, intercept, rel_tol=_SAME_NUMBERS, abs_tol=_SAME_NUMBERS)
        )
        (same if is_same else other).add(unit)
    return frozenset(same), frozenset(other)


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
