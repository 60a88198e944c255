"""Frames: which ones a label volume needs, their bits, and their functional groups.

Source: PS3.5 8.1.1 and Annex D (bits of one-bit pixels run on from frame to frame, lowest first);
PS3.3 C.7.6.16.2 (macros), C.7.6.17 (dimension indices).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
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


Rows = tuple[int, int]  # the first, and the one behind the last


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame to write: the voxels of one label value in one slice, all of them in some rows."""

    label_value: int
    slice_index: int
    rows: Rows


def rows_in_slices(volume: LabelVolume) -> list[dict[int, Rows]]:
    """The label values present in each slice, background left out, with rows that hold them."""
    values = [
        label_values_of(stored, overlapping=volume.overlapping)
        for stored in volume.counts.values.tolist()
    ]
    present = []
    for voxels, rows in zip(volume.counts.voxels, volume.counts.rows.tolist(), strict=True):
        found: dict[int, Rows] = {}
        for place in np.flatnonzero(voxels).tolist():
            first, stop = rows[place]
            for value in values[place]:
                known = found.get(value, (first, stop))
                found[value] = min(first, known[0]), max(stop, known[1])
        present.append(found)
    return present


def described_rows(volume: LabelVolume, segments: Sequence[Segment]) -> list[dict[int, Rows]]:
    """As ``rows_in_slices``, label values each of which one segment describes.

    Raises:
        JobRefused: One is described by none or two.
    """
    described = [segment.label_value for segment in segments]
    if len(set(described)) != len(described):
        raise JobRefused("two segments of the model describe one label value")
    present = rows_in_slices(volume)
    unknown = sorted(frozenset[int]().union(*present) - set(described))
    if unknown:
        raise JobRefused(
            f"the result holds label {', '.join(map(str, unknown))}, which the model's"
            " labels do not describe"
        )
    return present


def occupied_planes(
    present: Sequence[Mapping[int, Rows]], label_values: Sequence[int]
) -> tuple[Plane, ...]:
    """Frames in order of segment, then slice; planes without a voxel are left out."""
    return tuple(
        Plane(value, index, rows[value])
        for value in label_values
        for index, rows in enumerate(present)
        if value in rows
    )


def packed_bits(
    volume: LabelVolume, planes: Sequence[Plane], threads: int = 1
) -> Iterator[bytes | memoryview]:
    """The value of Pixel Data in pieces of about a megabyte, padded to even length at the end.

    Pieces are packed by threads while earlier ones are written: one for each is in memory, and one
    more.
    """
    _, rows, columns = volume.labels.shape
    at_once = max(1, _CHUNK_BYTES // (rows * columns)) * 8  # so that each piece begins with a byte
    parts = (planes[at : at + at_once] for at in range(0, len(planes), at_once))
    with ThreadPoolExecutor(threads) as pool:
        packing = deque(pool.submit(_packed, volume, part) for part in islice(parts, threads))
        while packing:
            piece = packing.popleft().result()
            packing.extend(pool.submit(_packed, volume, part) for part in islice(parts, 1))
            yield piece.data
    if -(-rows * columns * len(planes) // 8) % 2:
        yield b"\0"


def _packed(volume: LabelVolume, planes: Sequence[Plane]) -> NDArray[np.uint8]:
    """The bits of some frames, end to end, the last byte filled with zeros.

    Where frames begin with a byte, only rows that hold the label are looked at: few, of an organ.
    """
    _, rows, columns = volume.labels.shape
    if rows * columns % 8:
        eights = (planes[at : at + 8] for at in range(0, len(planes), 8))
        masks = ([_mask(volume, plane, 0, rows) for plane in eight] for eight in eights)
        return np.concatenate([np.packbits(mask, bitorder="little") for mask in masks])
    packed = np.zeros((len(planes), rows * columns // 8), np.uint8)
    for frame, plane in zip(packed, planes, strict=True):
        first = plane.rows[0] // 8 * 8  # eight rows are whole bytes
        octets = np.packbits(_mask(volume, plane, first, plane.rows[1]), bitorder="little")
        start = first * columns // 8
        frame[start : start + octets.size] = octets
    return packed.reshape(-1)


def _mask(volume: LabelVolume, plane: Plane, first: int, stop: int) -> NDArray[np.bool_]:
    rows = volume.labels[plane.slice_index, first:stop]
    return mask_of(rows, plane.label_value, overlapping=volume.overlapping)


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
