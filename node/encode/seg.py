"""A label volume as a DICOM Segmentation of type BINARY, behind one function.

highdicom makes the object for one small plane and so answers for the modules; frames are stamped
from templates and their bits packed straight from the labels, because a Python object per frame is
what makes large segmentations slow.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from node.domain.errors import JobFailed
from node.domain.job import ResultIdentity
from node.domain.result import EncodedFile, LabelVolume, Provenance
from node.domain.segment import Segment
from node.encode.elements import Source, element, item
from node.encode.frames import (
    FrameTemplates,
    Plane,
    described_values,
    occupied_planes,
    packed_bits,
    packed_size_bytes,
)
from node.encode.header import encoded_header, file_preface

_PER_FRAME = int(Tag("PerFrameFunctionalGroupsSequence"))
_SEGMENTS_OVERLAP = int(Tag("SegmentsOverlap"))
_PIXEL_DATA = int(Tag("PixelData"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedObject:
    """One result object: everything but its pixels as bytes, its pixels made while it is written.

    Writing it twice gives the same bytes; nothing larger than a few megabytes is held meanwhile.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    size_bytes: int
    segment_labels: dict[int, int] = field(default_factory=dict)
    """Segment Number -> label value, as stored with the result."""
    frames: int
    _head: bytes
    _volume: LabelVolume
    _planes: tuple[Plane, ...]

    def chunks(self) -> Iterator[bytes]:
        """The Part 10 file, piece by piece."""
        yield self._head
        yield from packed_bits(
            self._volume.labels, self._planes, overlapping=self._volume.overlapping
        )

    def to_bytes(self) -> bytes:
        """The Part 10 file at once, for small objects and tests."""
        return b"".join(self.chunks())

    def sha256(self) -> str:
        """Digest of the file; it makes the pixels once more, so hash while writing where you can."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def encode(
    volume: LabelVolume,
    source: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
) -> tuple[EncodedFile, ...]:
    """One object, or, where nothing was found, none; see ``encode_seg``."""
    made = encode_seg(volume, source, segments, provenance, identity)
    if made is None:
        return ()
    return (
        EncodedFile(
            sop_class_uid=made.sop_class_uid,
            sop_instance_uid=made.sop_instance_uid,
            series_instance_uid=made.series_instance_uid,
            summary={
                "frames": made.frames,
                "segments": {str(n): value for n, value in made.segment_labels.items()},
            },
            chunks=made.chunks,
        ),
    )


def encode_seg(
    volume: LabelVolume,
    source: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
) -> EncodedObject | None:
    """Encode labels as a SEG in the study of their source; None means that nothing was found.

    Args:
        source: Headers of all input instances in any order, pixel data not needed, as they were
            read: an element that was looked at before has lost its original bytes.
        segments: What label values mean, in the order of Segment Numbers; those without a voxel
            are left out.
    Raises:
        JobFailed: The labels and what describes them, or their source, do not belong together;
            permanent.
    Source: PS3.3 A.51 and C.8.20
    """
    present = described_values(volume, segments)
    found = frozenset[int]().union(*present)
    if not found:
        return None
    described = [segment for segment in segments if segment.label_value in found]
    planes = occupied_planes(present, [segment.label_value for segment in described])
    origin = Source.of(source, volume.stack)
    elements = encoded_header(origin, described, provenance, identity, frames=len(planes))
    if volume.overlapping:
        elements[_SEGMENTS_OVERLAP] = element(_SEGMENTS_OVERLAP, "CS", b"YES")
    elements[_PER_FRAME] = _per_frame_groups(planes, described, FrameTemplates(origin))
    preface = file_preface(identity.uid("sop"))
    body = b"".join(elements[tag] for tag in sorted(elements))
    pixel_bytes = packed_size_bytes(volume.labels, planes)
    head = preface + body + _pixel_data_header(pixel_bytes)
    return EncodedObject(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=identity.uid("sop"),
        series_instance_uid=identity.uid("series"),
        size_bytes=len(head) + pixel_bytes,
        segment_labels={n: segment.label_value for n, segment in enumerate(described, 1)},
        frames=len(planes),
        _head=head,
        _volume=volume,
        _planes=planes,
    )


def _per_frame_groups(
    planes: Sequence[Plane], described: Sequence[Segment], templates: FrameTemplates
) -> bytes:
    """The Per-Frame Functional Groups Sequence: one item per plane, stamped."""
    numbers = {segment.label_value: number for number, segment in enumerate(described, 1)}
    slices = sorted({plane.slice_index for plane in planes})
    places = {slice_index: place for place, slice_index in enumerate(slices, 1)}
    templates.prepare(slices, len(described))
    return element(
        _PER_FRAME,
        "SQ",
        b"".join(
            item(
                templates.frame(
                    plane.slice_index, numbers[plane.label_value], places[plane.slice_index]
                )
            )
            for plane in planes
        ),
    )


def _pixel_data_header(size_bytes: int) -> bytes:
    """Tag, VR and length of Pixel Data: OB, since pixels are of one bit (PS3.5 A.2)."""
    if size_bytes > 0xFFFFFFFE:
        raise JobFailed("the segmentation exceeds 4 GB of Pixel Data", permanent=True)
    return struct.pack("<HH2sHI", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF, b"OB", 0, size_bytes)
