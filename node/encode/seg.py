"""A label volume as a DICOM Segmentation of type BINARY, behind one function.

highdicom makes the object for one small plane and so answers for the modules; frames are stamped
from templates and their bits packed straight from the labels, because a Python object per frame is
what makes large segmentations slow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from node.domain.errors import JobRefused
from node.domain.result import EncodedFile, Result
from node.encode.elements import Source, attribute
from node.encode.frames import (
    described_rows,
    occupied_planes,
    packed_bits,
    packed_size_bytes,
    per_frame_groups,
)
from node.encode.header import encoded_header, file_preface

_LONGEST_VALUE = 0xFFFFFFFE


def encode_seg(result: Result) -> tuple[EncodedFile, ...]:
    """Labels as one SEG in the study of their source; none where nothing was found.

    Its pixels are made while it is written: never more than a few megabytes are held. Segments are
    numbered in their order; those without a voxel are left out.

    Source: PS3.3 A.51 and C.8.20
    """
    volume, identity = result.volume, result.identity
    present = described_rows(volume, result.segments)
    found = frozenset[int]().union(*present)
    if not found:
        return ()
    described = [segment for segment in result.segments if segment.label_value in found]
    numbers = {segment.label_value: number for number, segment in enumerate(described, 1)}
    planes = occupied_planes(present, list(numbers))
    origin = Source.of(result.source, volume.stack)
    elements = encoded_header(origin, described, result.provenance, identity, frames=len(planes))
    if volume.overlapping:
        elements[int(Tag("SegmentsOverlap"))] = attribute("SegmentsOverlap", b"YES")
    groups = per_frame_groups(origin, planes, numbers)
    elements[int(Tag("PerFrameFunctionalGroupsSequence"))] = groups
    body = b"".join(elements[tag] for tag in sorted(elements))
    pixel_bytes = packed_size_bytes(volume.labels, planes)
    head = file_preface(identity.uid("sop")) + body + _pixel_data_header(pixel_bytes)

    def chunks() -> Iterator[bytes | memoryview]:
        yield head
        yield from packed_bits(volume, planes, result.threads)

    encoded = EncodedFile(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=identity.uid("sop"),
        series_instance_uid=identity.uid("series"),
        summary={
            "frames": len(planes),
            "segments": {str(number): value for value, number in numbers.items()},
        },
        chunks=chunks,
    )
    return (encoded,)


def _pixel_data_header(size_bytes: int) -> bytes:
    """Tag, VR and length of Pixel Data: OB, since pixels are of one bit (PS3.5 A.2)."""
    if size_bytes > _LONGEST_VALUE:
        raise JobRefused("the segmentation exceeds 4 GB of Pixel Data")
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size_bytes)
