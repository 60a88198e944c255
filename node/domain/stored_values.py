"""Stored values: everything in a header that decides which number a pixel of a frame means.

Equal ones are one object: thousands of frames share a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isclose

from pydicom.dataset import Dataset

from node.domain.modality_lut import (
    LutMalformed,
    ModalityLut,
    has_negative_numbers,
    modality_lut_of,
)
from node.domain.pixels import PixelFormat, pixel_format_of
from node.domain.quantity import (
    PET_CLASSES,
    RESCALE_IS_DUE,
    Established,
    Quantity,
    Said,
    establish,
)
from node.domain.sources import is_given, items, number, text, texts
from node.domain.uptake import Uptake, uptake_of

_LUT, _MAPPING = "ModalityLUTSequence", "RealWorldValueMappingSequence"
_SAME_NUMBERS = 1e-6


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


@dataclass(frozen=True, slots=True)
class _Image:
    """What all frames of an instance share."""

    format: PixelFormat
    sop_class_uid: str
    modality: str
    uptake: Uptake | None


class StoredValuesReader:
    """Reads the frames of one instance; what they share is read once."""

    def __init__(self, instance: Dataset) -> None:
        sop_class_uid = str(instance.get("SOPClassUID", "") or "").strip()
        is_pet = sop_class_uid in PET_CLASSES
        self._image = _Image(
            format=pixel_format_of(instance),
            sop_class_uid=sop_class_uid,
            modality=text((instance,), "Modality").upper(),
            uptake=uptake_of(instance) if is_pet else None,
        )
        self._is_little_endian = instance.original_encoding[1] is not False

    def read(self, sources: Sequence[Dataset], slope: float, intercept: float) -> StoredValues:
        """The facts of one frame.

        Args:
            sources: As of ``frame_sources``.
            slope: And intercept: as read, with 1 and 0 in place of absent ones.
        """
        image = self._image
        lut, fault, lut_type = self._lut(sources)
        has_slope = is_given(sources, "RescaleSlope")
        has_intercept = is_given(sources, "RescaleIntercept")
        is_transformed = (has_slope and has_intercept) or lut is not None
        established = self._establish(sources, lut_type, is_transformed, slope, intercept)
        if not fault and established.quantity is Quantity.HU and lut and has_negative_numbers(lut):
            fault = "Modality LUT of HU with entries above 32767: it cannot hold negative numbers"
        return _shared(
            StoredValues(
                format=image.format,
                lut=lut,
                lut_fault=fault,
                has_slope=has_slope,
                has_intercept=has_intercept,
                is_rescale_due=image.sop_class_uid in RESCALE_IS_DUE,
                quantity=established.quantity,
                why=established.why,
                uptake=image.uptake,
            )
        )

    def _lut(self, sources: Sequence[Dataset]) -> tuple[ModalityLut | None, str, str | None]:
        """The table, what is wrong with it, and its type; no type where there is no sequence."""
        found = items(sources, _LUT)
        if not found:
            return None, "", None
        lut_type = text(found[:1], "ModalityLUTType")
        try:
            lut = modality_lut_of(
                found[0],
                is_signed=self._image.format.is_signed,
                is_little_endian=self._is_little_endian,
            )
        except LutMalformed as malformed:
            return None, f"Modality LUT Sequence malformed ({malformed})", lut_type
        return lut, "", lut_type

    def _establish(
        self,
        sources: Sequence[Dataset],
        lut_type: str | None,
        is_transformed: bool,
        slope: float,
        intercept: float,
    ) -> Established:
        mapped, otherwise = _mappings(sources, slope, intercept)
        has_lut = lut_type is not None
        return establish(
            Said(
                sop_class_uid=self._image.sop_class_uid,
                modality=self._image.modality,
                image_type=texts(sources, "FrameType") or texts(sources, "ImageType"),
                type_name="Modality LUT Type" if has_lut else "Rescale Type",
                # the type of a Modality LUT is type 1: without it nothing is known
                type=(lut_type or "US") if has_lut else text(sources, "RescaleType"),
                is_transformed=is_transformed,
                is_multi_energy=text(sources, "MultienergyCTAcquisition").upper() == "YES",
                units=text(sources, "Units"),
                suv_type=text(sources, "SUVType"),
                mapped=frozenset() if has_lut else mapped,
                mapped_otherwise=mapped | otherwise if has_lut else otherwise,
                complex_component=text(sources, "ComplexImageComponent"),
            )
        )


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
    for mapping in items(sources, _MAPPING):
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
