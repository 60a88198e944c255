"""Functional groups: what all frames share, and the templates that single frames are stamped from.

Source: PS3.3 C.7.6.16.2 (macros), C.7.6.17 (dimension indices).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import isfinite

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from node.encode.elements import copied_element, element, encoded_dataset, item, sequence
from node.encode.source import Source

_DECIMAL_STRING = 16
_SEGMENTATION = PydicomCode("113076", "DCM", "Segmentation")  # CID 7203; DCM has two of this name


class FrameTemplates:
    """Encoded parts of per-frame items; a frame is four of them joined.

    Args:
        source: Where positions and references come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._derivations: dict[int, bytes] = {}
        self._positions: dict[int, bytes] = {}
        self._segments: list[bytes] = []
        # the index values are the last bytes of Frame Content: two UL, segment and place
        content = element(Tag("DimensionIndexValues"), "UL", b"\0" * 8)
        self._content = sequence("FrameContentSequence", content)[:-8]
        self._purpose = element(Tag("SpatialLocationsPreserved"), "CS", b"YES") + sequence(
            "PurposeOfReferenceCodeSequence",
            encoded_dataset(coded(codes.DCM.SourceImageForImageProcessingOperation)),
        )
        self._derivation_code = sequence(
            "DerivationCodeSequence", encoded_dataset(coded(_SEGMENTATION))
        )

    def prepare(self, slices: Sequence[int], segments: int) -> None:
        """Encode the parts that these slices and Segment Numbers 1 to ``segments`` need."""
        for index in slices:
            self._derivations[index] = self._derivation(index)
            self._positions[index] = self._position(index)
        self._segments = [
            sequence(
                "SegmentIdentificationSequence",
                element(Tag("ReferencedSegmentNumber"), "US", struct.pack("<H", number)),
            )
            for number in range(segments + 1)
        ]

    def frame(self, slice_index: int, segment_number: int, place: int) -> bytes:
        """One item: Derivation Image, Frame Content, Plane Position, Segment Identification."""
        return b"".join(
            (
                self._derivations[slice_index],
                self._content,
                struct.pack("<II", segment_number, place),
                self._positions[slice_index],
                self._segments[segment_number],
            )
        )

    def _derivation(self, slice_index: int) -> bytes:
        frame = self._source.stack.frames[slice_index]
        instance = self._source.by_uid[frame.sop_instance_uid]
        source_image = reference_to(instance, frame.frame_number) + self._purpose
        return sequence(
            "DerivationImageSequence",
            sequence("SourceImageSequence", source_image) + self._derivation_code,
        )

    def _position(self, slice_index: int) -> bytes:
        frame = self._source.stack.frames[slice_index]
        value = decimal_strings(frame.position_mm or ())
        holder = plane_holder(self._source, slice_index, "PlanePositionSequence")
        position = _as_in_source(holder, "ImagePositionPatient", value)
        return sequence("PlanePositionSequence", position)


def reference_to(instance: Dataset, frame_number: int | None = None) -> bytes:
    """The SOP Instance Reference macro, with the frame of a multi-frame instance (10-3, 10-11)."""
    parts = [
        element(Tag("ReferencedSOPClassUID"), "UI", str(instance.SOPClassUID).encode()),
        element(Tag("ReferencedSOPInstanceUID"), "UI", str(instance.SOPInstanceUID).encode()),
    ]
    if frame_number is not None:
        parts.append(element(Tag("ReferencedFrameNumber"), "IS", str(frame_number).encode()))
    return b"".join(parts)


def shared_groups(source: Source) -> bytes:
    """The Shared Functional Groups Sequence: orientation and pixel measures of the source."""
    frame = source.stack.frames[0]
    orientation = _as_in_source(
        plane_holder(source, 0, "PlaneOrientationSequence"),
        "ImageOrientationPatient",
        decimal_strings(frame.orientation or ()),
    )
    between_slices = source.stack.grid.spacing_mm[0]
    measures = b"".join(
        (
            element(Tag("SliceThickness"), "DS", _thickness(source, between_slices)),
            element(Tag("SpacingBetweenSlices"), "DS", decimal_strings((between_slices,))),
            _as_in_source(
                plane_holder(source, 0, "PixelMeasuresSequence"),
                "PixelSpacing",
                decimal_strings(frame.pixel_spacing_mm or ()),
            ),
        )
    )
    groups = sequence("PlaneOrientationSequence", orientation)
    groups += sequence("PixelMeasuresSequence", measures)
    return element(Tag("SharedFunctionalGroupsSequence"), "SQ", item(groups))


def plane_holder(source: Source, slice_index: int, macro: str) -> Dataset:
    """The data set that holds an attribute of a plane: the instance, or a functional group."""
    frame = source.stack.frames[slice_index]
    instance = source.by_uid[frame.sop_instance_uid]
    if frame.frame_number is None:
        return instance
    per_frame = instance.get("PerFrameFunctionalGroupsSequence") or []
    own = list(per_frame[frame.frame_number - 1 : frame.frame_number])
    for group in [*own, *(instance.get("SharedFunctionalGroupsSequence") or [])]:
        if group.get(macro):
            holder: Dataset = group[macro].value[0]
            return holder
    return instance


def decimal_strings(numbers: Sequence[float]) -> bytes:
    """Numbers as DS of at most 16 characters each."""
    return "\\".join(format_number_as_ds(float(number)) for number in numbers).encode()


def _as_in_source(holder: Dataset, keyword: str, otherwise: bytes) -> bytes:
    """An element exactly as the source wrote it, or its value anew where that breaks DS."""
    copied = copied_element(holder, keyword)
    if copied is not None and copied[4:6] == b"DS":
        texts = copied[8:].split(b"\\")
        if all(len(text.strip(b" \0")) <= _DECIMAL_STRING for text in texts):
            return copied
    return element(Tag(keyword), "DS", otherwise)


def _thickness(source: Source, between_slices_mm: float) -> bytes:
    """The slice thickness of all slices, or their distance where it is absent or differs."""
    texts = set()
    for index in range(len(source.stack.frames)):
        holder = plane_holder(source, index, "PixelMeasuresSequence")
        texts.add(copied_element(holder, "SliceThickness"))
    text = texts.pop() if len(texts) == 1 else None
    try:
        thickness = float(text[8:].strip(b" \0")) if text is not None else 0.0
    except ValueError:
        thickness = 0.0
    usable = isfinite(thickness) and thickness > 0
    return decimal_strings((thickness if usable else between_slices_mm,))


def coded(code: PydicomCode) -> Dataset:
    """A coded concept as an item (PS3.3 8.8)."""
    concept = Dataset()
    concept.CodeValue = code.value
    concept.CodingSchemeDesignator = code.scheme_designator
    concept.CodeMeaning = code.meaning
    return concept
