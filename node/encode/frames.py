"""Frames: which ones a label volume needs, their bits, and their functional groups.

Source: PS3.5 8.1.1 and Annex D (bits of one-bit pixels run on from frame to frame, lowest first);
PS3.3 C.7.6.16.2 (macros), C.7.6.17 (dimension indices).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from node.domain.errors import JobFailed
from node.domain.result import LabelArray, LabelVolume, label_values_of, mask_of
from node.domain.segment import Segment
from node.encode.elements import Source, copied_element, element, encoded_dataset, item, sequence

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame to write: the voxels of one label value in one slice."""

    label_value: int
    slice_index: int


def values_in_slices(labels: LabelArray, *, overlapping: bool = False) -> list[frozenset[int]]:
    """The label values present in each slice, background left out."""
    seen = np.zeros(int(np.iinfo(labels.dtype).max) + 1, np.bool_)
    present = []
    for plane in labels:
        seen[:] = False
        seen[plane] = True
        stored: list[int] = np.flatnonzero(seen).tolist()
        present.append(
            frozenset(v for each in stored for v in label_values_of(each, overlapping=overlapping))
        )
    return present


def described_values(volume: LabelVolume, segments: Sequence[Segment]) -> list[frozenset[int]]:
    """The label values present in each slice, each of which one segment describes.

    Raises:
        JobFailed: One is described by none or two; permanent.
    """
    described = [segment.label_value for segment in segments]
    if len(set(described)) != len(described):
        raise JobFailed("two segments of the model describe one label value", permanent=True)
    present = values_in_slices(volume.labels, overlapping=volume.overlapping)
    unknown = sorted(frozenset[int]().union(*present) - set(described))
    if unknown:
        raise JobFailed(
            f"the result holds label {', '.join(map(str, unknown))}, which the model's"
            " labels do not describe",
            permanent=True,
        )
    return present


def occupied_planes(
    present: Sequence[frozenset[int]], label_values: Sequence[int]
) -> tuple[Plane, ...]:
    """Frames in order of segment, then slice; planes without a voxel are left out."""
    return tuple(
        Plane(value, index)
        for value in label_values
        for index, values in enumerate(present)
        if value in values
    )


def packed_bits(
    labels: LabelArray, planes: Sequence[Plane], *, overlapping: bool = False
) -> Iterator[bytes]:
    """The value of Pixel Data in pieces of about a megabyte, padded to even length at the end.

    Only one piece is in memory at a time: 104 segments need no more than one.
    """
    left_over: NDArray[np.bool_] = np.zeros(0, np.bool_)
    pieces: list[bytes] = []
    piece_bytes = total_bytes = 0
    for plane in planes:
        mask = mask_of(labels[plane.slice_index], plane.label_value, overlapping=overlapping)
        bits = mask.ravel()
        if left_over.size:
            bits = np.concatenate((left_over, bits))
        whole = bits.size - bits.size % 8
        pieces.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        left_over = bits[whole:]
        piece_bytes += whole // 8
        if piece_bytes >= _CHUNK_BYTES:
            yield b"".join(pieces)
            total_bytes += piece_bytes
            pieces, piece_bytes = [], 0
    tail = np.packbits(left_over, bitorder="little").tobytes()
    total_bytes += piece_bytes + len(tail)
    yield b"".join(pieces) + tail + b"\0" * (total_bytes % 2)


def packed_size_bytes(labels: LabelArray, planes: Sequence[Plane]) -> int:
    """Length of Pixel Data, even."""
    _, rows, columns = labels.shape
    bits = rows * columns * len(planes)
    whole = (bits + 7) // 8
    return int(whole + whole % 2)


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
