"""A DICOM Segmentation that a container wrote, read as labels on the source grid.

Every frame is taken where it says that it lies; nothing is inferred from the order of frames or
files. BINARY and LABELMAP are read; FRACTIONAL is refused, because where a probability becomes a
label is the model's to decide.

Source: PS3.3 A.51, C.8.20 (Segmentation), C.7.6.16 (functional groups), PS3.5 8.1.1 (one-bit pixels).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, SegmentationStorage

from node.domain.errors import JobRefused, SeriesUnusable
from node.domain.frames import Frame, frame_sources, frames_of
from node.domain.segment import Segment
from node.infer.container.grid import Canvas, SourceGrid
from node.infer.container.matching import match_segments
from node.infer.run_context import SeriesInput
from node.infer.volume import DECODE_ERRORS

Plane = NDArray[np.integer]

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage


def paint_segmentation(
    path: Path,
    inputs: Mapping[str, SeriesInput],
    grid: SourceGrid,
    segments: Sequence[Segment],
    canvas: Canvas,
) -> None:
    """Paint the segments of a file onto the source grid.

    Args:
        inputs: All series that the container was given; the file must be about one of them.
    Raises:
        JobRefused: It is no segmentation, is of another series, lies elsewhere or has segments that
            the model does not describe.
    """
    try:
        with warnings.catch_warnings():
            # what pydicom doubts is judged here by what it makes of it
            warnings.simplefilter("ignore")
            seg = dcmread(path)
            _require_segmentation(seg)
            _require_belonging(seg, inputs, grid)
            _paint(seg, match_segments(_described(seg), segments), grid, canvas)
    except (*DECODE_ERRORS, BytesLengthException, InvalidDicomError, SeriesUnusable) as error:
        raise refused(f"cannot be read as DICOM ({type(error).__name__})") from error


def _described(seg: Dataset) -> list[Dataset]:
    """Items of the Segment Sequence; in a label map number 0 may describe the background."""
    return [item for item in seg.get("SegmentSequence") or [] if int(item.SegmentNumber)]


def _require_segmentation(seg: FileDataset) -> None:
    sop_class = UID(str(seg.get("SOPClassUID", "")))
    if sop_class not in (SegmentationStorage, LABEL_MAP_STORAGE):
        raise refused(f"is no segmentation but {sop_class.name or 'of no class'}")
    kind = str(seg.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        raise refused(f"is a segmentation of type {kind or 'unknown'}, not BINARY or LABELMAP")


def _require_belonging(seg: Dataset, inputs: Mapping[str, SeriesInput], grid: SourceGrid) -> None:
    """The file is about what the container was given, and says so."""
    for keyword, noun in (("StudyInstanceUID", "study"), ("PatientID", "patient")):
        ours = {given.header.text(keyword) for given in inputs.values()}
        theirs = str(seg.get(keyword) or "").strip()
        # an ID beyond ASCII may have lost its character set on the way through other programs
        if ours != {""} and theirs not in ours and theirs.isascii() and "".join(ours).isascii():
            raise refused(f"is of another {noun} than its input")
    frame_of_reference = str(seg.get("FrameOfReferenceUID") or "").strip()
    if frame_of_reference and frame_of_reference != grid.frame_of_reference_uid:
        raise refused("has another Frame of Reference than its input")
    series = {given.header.text("SeriesInstanceUID") for given in inputs.values()}
    referenced = {
        str(item.get("SeriesInstanceUID") or "")
        for item in seg.get("ReferencedSeriesSequence") or []
    }
    if referenced - series:
        raise refused("refers to a series that is not its input")
    instances = _referenced_instances(seg)
    if instances - {uid for given in inputs.values() for uid in given.files}:
        raise refused("refers to images that are not its input")
    if not referenced and not instances:
        raise refused("does not say which series it is made of")


def _referenced_instances(seg: Dataset) -> set[str]:
    """SOP Instance UIDs of all images that the file says it was made of."""
    holders: list[Dataset] = [seg, *(seg.get("ReferencedSeriesSequence") or [])]
    groups = [
        *(seg.get("SharedFunctionalGroupsSequence") or []),
        *(seg.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    for group in groups:
        holders += group.get("DerivationImageSequence") or []
    return {
        str(reference.get("ReferencedSOPInstanceUID") or "")
        for holder in holders
        for keyword in ("SourceImageSequence", "ReferencedInstanceSequence")
        for reference in holder.get(keyword) or []
    } - {""}


def _paint(seg: FileDataset, label_of: Mapping[int, int], grid: SourceGrid, canvas: Canvas) -> None:
    if len(seg.get("PerFrameFunctionalGroupsSequence") or []) != int(seg.NumberOfFrames):
        raise refused("has another number of frames than it says")
    frames = frames_of(seg)
    is_binary = str(seg.SegmentationType) == "BINARY"
    numbers = _segment_numbers(seg) if is_binary else [None] * len(frames)
    planes = _bit_planes(seg, frames) if is_binary else iter_pixels(seg, raw=True)
    for frame, number, plane in zip(frames, numbers, planes, strict=True):
        if plane.shape != (frame.rows, frame.columns):
            raise refused("has a frame of another size than it says")
        window = grid.place_plane(frame)
        # in a label map 0 is background
        for value in np.unique(plane[plane != 0]).tolist() if number is None else [1]:
            segment_number = value if number is None else number
            if segment_number not in label_of:
                raise refused(f"has pixels of segment {segment_number}, which it does not describe")
            canvas.paint(window, plane == value, label_of[segment_number])


def _segment_numbers(seg: Dataset) -> Iterator[int | None]:
    for sources in frame_sources(seg):
        number = next(
            (s.ReferencedSegmentNumber for s in sources if "ReferencedSegmentNumber" in s), None
        )
        if number is None:
            raise refused("has a frame of no segment")
        yield int(number)


def _bit_planes(seg: FileDataset, frames: Sequence[Frame]) -> Iterator[Plane]:
    """Frames of one-bit pixels, which are packed without a gap between them."""
    if seg.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(seg, raw=True)
        return
    pixels = frames[0].rows * frames[0].columns
    octets = np.frombuffer(seg.PixelData, np.uint8)
    if octets.size * 8 < pixels * len(frames):
        raise refused("ends before its last frame")
    for number, frame in enumerate(frames):
        start = number * pixels
        bits = np.unpackbits(octets[start // 8 : (start + pixels + 7) // 8], bitorder="little")
        yield bits[start % 8 :][:pixels].reshape(frame.rows, frame.columns)


def refused(why: str) -> JobRefused:
    return JobRefused(f"the container's output {why}")
