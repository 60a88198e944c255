"""Frames: which ones a label volume needs, their bits, and their functional groups.

Source: PS3.5 8.1.1 and Annex D (bits of one-bit pixels run on from frame to frame, lowest first);
PS3.3 C.7.6.16.2 (macros), C.7.6.17 (dimension indices).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.valuerep import format_number_as_ds

from node.domain.errors import JobRefused
from node.domain.result import LabelArray, LabelVolume, label_values_of, mask_of
from node.domain.segment import Segment
from node.encode.elements import Source, attribute, copied_element, encoded_dataset, sequence

_CHUNK_BYTES = 1 << 20
_DECIMAL_STRING = 16
_SEGMENTATION = PydicomCode("113076", "DCM", "Segmentation")  # CID 7203; DCM has two of this name


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
        JobRefused: One is described by none or two.
    """
    described = [segment.label_value for segment in segments]
    if len(set(described)) != len(described):
        raise JobRefused("two segments of the model describe one label value")
    present = values_in_slices(volume.labels, overlapping=volume.overlapping)
    unknown = sorted(frozenset[int]().union(*present) - set(described))
    if unknown:
        raise JobRefused(
            f"the result holds label {', '.join(map(str, unknown))}, which the model's"
            " labels do not describe"
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
    return int(-(-bits // 16) * 2)


def per_frame_groups(
    source: Source, planes: Sequence[Plane], segment_numbers: Mapping[int, int]
) -> bytes:
    """The Per-Frame Functional Groups Sequence: one item per plane, four parts joined.

    Parts are encoded once per slice or segment, not once per frame.

    Args:
        segment_numbers: Label value -> Segment Number.
    """
    slices = sorted({plane.slice_index for plane in planes})
    places = {index: place for place, index in enumerate(slices, 1)}
    parts = dict(zip(slices, _parts_of_slices(source, slices), strict=True))
    segments = {
        value: sequence(
            "SegmentIdentificationSequence",
            attribute("ReferencedSegmentNumber", struct.pack("<H", number)),
        )
        for value, number in segment_numbers.items()
    }

    def frame(plane: Plane) -> bytes:
        before, after = parts[plane.slice_index]
        indices = segment_numbers[plane.label_value], places[plane.slice_index]
        return before + struct.pack("<II", *indices) + after + segments[plane.label_value]

    return sequence("PerFrameFunctionalGroupsSequence", *map(frame, planes))


def _parts_of_slices(source: Source, slices: Sequence[int]) -> Iterator[tuple[bytes, bytes]]:
    """What stands before and behind the index values: derivation and content, position."""
    purpose = attribute("SpatialLocationsPreserved", b"YES") + sequence(
        "PurposeOfReferenceCodeSequence",
        encoded_dataset(coded(codes.DCM.SourceImageForImageProcessingOperation)),
    )
    derivation_code = sequence("DerivationCodeSequence", encoded_dataset(coded(_SEGMENTATION)))
    # the index values are the last bytes of Frame Content: two UL, segment and place
    content = sequence("FrameContentSequence", attribute("DimensionIndexValues", b"\0" * 8))[:-8]
    macro = "PlanePositionSequence"
    for index in slices:
        frame = source.stack.frames[index]
        image = reference_to(source.by_uid[frame.sop_instance_uid], frame.frame_number) + purpose
        images = sequence("SourceImageSequence", image)
        derivation = sequence("DerivationImageSequence", images + derivation_code)
        position = _as_in_source(source, index, macro, "ImagePositionPatient", frame.position_mm)
        yield derivation + content, sequence(macro, position)


def reference_to(instance: Dataset, frame_number: int | None = None) -> bytes:
    """The SOP Instance Reference macro, with the frame of a multi-frame instance (10-3, 10-11)."""
    parts = [
        attribute("ReferencedSOPClassUID", str(instance.SOPClassUID).encode()),
        attribute("ReferencedSOPInstanceUID", str(instance.SOPInstanceUID).encode()),
    ]
    if frame_number is not None:
        parts.append(attribute("ReferencedFrameNumber", str(frame_number).encode()))
    return b"".join(parts)


def shared_groups(source: Source) -> bytes:
    """The Shared Functional Groups Sequence: orientation and pixel measures of the source."""
    first = source.stack.frames[0]
    between_slices = source.stack.grid.spacing_mm[0]
    orientation = _as_in_source(
        source, 0, "PlaneOrientationSequence", "ImageOrientationPatient", first.orientation
    )
    measures = (
        attribute("SliceThickness", _thickness(source, between_slices))
        + attribute("SpacingBetweenSlices", decimal_strings((between_slices,)))
        + _as_in_source(source, 0, "PixelMeasuresSequence", "PixelSpacing", first.pixel_spacing_mm)
    )
    groups = sequence("PlaneOrientationSequence", orientation)
    groups += sequence("PixelMeasuresSequence", measures)
    return sequence("SharedFunctionalGroupsSequence", groups)


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


def _as_in_source(
    source: Source, slice_index: int, macro: str, keyword: str, numbers: Sequence[float] | None
) -> bytes:
    """An element exactly as the source wrote it, or its value anew where that breaks DS."""
    copied = copied_element(plane_holder(source, slice_index, macro), keyword)
    if copied is not None and copied[4:6] == b"DS":
        texts = copied[8:].split(b"\\")
        if all(len(text.strip(b" \0")) <= _DECIMAL_STRING for text in texts):
            return copied
    return attribute(keyword, decimal_strings(numbers or ()))


def _thickness(source: Source, between_slices_mm: float) -> bytes:
    """The slice thickness of all slices, or their distance where it is absent or differs."""
    texts = {
        copied_element(plane_holder(source, index, "PixelMeasuresSequence"), "SliceThickness")
        for index in range(len(source.stack.frames))
    }
    text = texts.pop() if len(texts) == 1 else None
    try:
        thickness = float((text or b"")[8:].strip(b" \0"))
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
