"""Do pixels, segments and dimensions describe what the labels hold?

Source: PS3.3 C.8.20.2 to C.8.20.4 (Segmentation), C.7.6.17 (dimensions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.domain.grid import Stack
from node.domain.job import ResultIdentity
from node.domain.result import Provenance
from node.domain.segment import Code, Segment
from node.verify.reading import SegFile, code_of, plain_text_of

_PIXEL_FACTS = {
    "SegmentationType": "BINARY",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 1,
    "BitsStored": 1,
    "HighBit": 0,
    "PixelRepresentation": 0,
}
_DIMENSIONS = (
    (Tag("ReferencedSegmentNumber"), Tag("SegmentIdentificationSequence")),
    (Tag("ImagePositionPatient"), Tag("PlanePositionSequence")),
)


def pixel_faults(
    file: SegFile, shape: tuple[int, int, int], frames: int, *, overlapping: bool
) -> Iterator[str]:
    """One-bit pixels of the source's size, as many frames as the labels need."""
    header = file.header
    facts = {**_PIXEL_FACTS, "SegmentsOverlap": "YES" if overlapping else "NO"}
    for keyword, value in facts.items():
        if header.get(keyword) != value:
            yield f"{keyword} is not {value}"
    if (header.get("Rows"), header.get("Columns")) != shape[1:]:
        yield f"Rows and Columns are not {shape[1]} x {shape[2]}"
    said = header.get("NumberOfFrames")
    if said != len(file.frames):
        yield f"NumberOfFrames is {said}, functional groups describe {len(file.frames)} frames"
    if len(file.frames) != frames:
        yield f"{len(file.frames)} frames, the labels need {frames}"
    bits = shape[1] * shape[2] * frames
    wanted = (bits + 7) // 8
    wanted += wanted % 2
    if len(file.bits) != wanted:
        yield f"Pixel Data has {len(file.bits)} bytes, {frames} frames need {wanted}"
    elif any(file.bits[(bits + 7) // 8 :]) or (bits % 8 and file.bits[bits // 8] >> bits % 8):
        yield "bits after the last frame are not zero"


def segment_faults(
    header: Dataset,
    segments: Sequence[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
) -> Iterator[str]:
    """Segments 1 to n are those of the labels, in order, with codes, colour and algorithm.

    Args:
        segments: Those that have a voxel, in order.
    """
    items = list(header.get("SegmentSequence") or [])
    numbers = [item.get("SegmentNumber") for item in items]
    if numbers != list(range(1, len(segments) + 1)):
        yield f"Segment Numbers are {numbers}, not 1 to {len(segments)}"
    for number, (item, segment) in enumerate(zip(items, segments, strict=False), 1):
        for fault in (
            *_item_faults(item, segment),
            *_code_faults(item, segment),
            *_origin_faults(item, provenance, identity.uid(f"tracking.{segment.label_value}")),
        ):
            yield f"segment {number}: {fault}"


def _origin_faults(item: Dataset, provenance: Provenance, tracking_uid: str) -> Iterator[str]:
    """Who drew the segment: the algorithm with its digests, and the tracking identifiers."""
    if not item.get("TrackingID") or item.get("TrackingUID") != tracking_uid:
        yield "TrackingID or TrackingUID is not that of the job"
    algorithm = (item.get("SegmentationAlgorithmIdentificationSequence") or [Dataset()])[0]
    if code_of(algorithm, "AlgorithmFamilyCodeSequence") != "DCM:123110":
        yield "the algorithm is not coded as artificial intelligence"
    for keyword in ("AlgorithmName", "AlgorithmVersion", "AlgorithmSource"):
        if not plain_text_of(algorithm, keyword):
            yield f"{keyword} is absent"
    parameters = plain_text_of(algorithm, "AlgorithmParameters")
    digests = (provenance.model_digest, provenance.weights_digest, provenance.config_digest)
    if not all(digest in parameters for digest in digests):
        yield "AlgorithmParameters lack a digest of model, weights or configuration"
    if provenance.incomplete and f"incomplete_input={provenance.incomplete}" not in parameters:
        yield "AlgorithmParameters do not say of how many images it was made"
    if ("\nimplausible=" in parameters) is not bool(provenance.implausible):
        yield "AlgorithmParameters do not tell as the result is whether it is implausible"


def _item_faults(item: Dataset, segment: Segment) -> Iterator[str]:
    label = plain_text_of(item, "SegmentLabel")
    if not 0 < len(label) <= 64:
        yield f"SegmentLabel has {len(label)} characters, not 1 to 64"
    elif _is_plain(segment.name) and label != segment.name[:64].strip():
        yield "SegmentLabel is not the name of the label"
    if item.get("SegmentAlgorithmType") != "AUTOMATIC" or not item.get("SegmentAlgorithmName"):
        yield "SegmentAlgorithmType is not AUTOMATIC, or SegmentAlgorithmName is absent"
    if len(item.get("RecommendedDisplayCIELabValue") or ()) != 3:
        yield "RecommendedDisplayCIELabValue is absent"


def _is_plain(name: str) -> bool:
    """Whether a Segment Label can hold the name as it is; others are written in ASCII."""
    return name.isascii() and name.isprintable() and "\\" not in name


def _code_faults(item: Dataset, segment: Segment) -> Iterator[str]:
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    regions = item.get("AnatomicRegionSequence") or [Dataset()]
    coded: tuple[tuple[Dataset, str, Code | None], ...] = (
        (item, "SegmentedPropertyCategoryCodeSequence", segment.category),
        (item, "SegmentedPropertyTypeCodeSequence", segment.type),
        (kinds[0], "SegmentedPropertyTypeModifierCodeSequence", segment.modifier),
        (item, "AnatomicRegionSequence", segment.region),
        (
            regions[0],
            "AnatomicRegionModifierSequence",
            segment.region_modifier if segment.region else None,
        ),
    )
    for holder, keyword, code in coded:
        if code_of(holder, keyword) != (f"{code.scheme}:{code.value}" if code else ""):
            yield f"{keyword} is not that of the label"


def geometry_faults(file: SegFile, stack: Stack) -> Iterator[str]:
    """The Frame of Reference and the slice distance are the source's."""
    header = file.header
    frame_of_reference = str(header.get("FrameOfReferenceUID", "") or "")
    if not frame_of_reference:
        yield "FrameOfReferenceUID is absent"
    elif frame_of_reference != stack.grid.frame_of_reference_uid:
        yield "FrameOfReferenceUID is not the source's"
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    measures = (shared.get("PixelMeasuresSequence") or [Dataset()])[0]
    between = measures.get("SpacingBetweenSlices")
    spacing_mm = stack.grid.spacing_mm[0]
    if between is None or abs(float(between) - spacing_mm) > 1e-3 * spacing_mm:
        yield f"SpacingBetweenSlices is not {spacing_mm:g} mm"
    thickness = measures.get("SliceThickness")
    if thickness is None or not float(thickness) > 0:
        yield "SliceThickness is absent or not positive"


def dimension_faults(header: Dataset) -> Iterator[str]:
    """Frames are indexed by segment, then position, within one Dimension Organization."""
    organizations = header.get("DimensionOrganizationSequence") or []
    uids = {str(item.get("DimensionOrganizationUID", "")) for item in organizations}
    indices = header.get("DimensionIndexSequence") or []
    pointers = tuple(
        (item.get("DimensionIndexPointer"), item.get("FunctionalGroupPointer")) for item in indices
    )
    if pointers != _DIMENSIONS:
        yield "DimensionIndexSequence does not name segment, then position"
    if len(uids) != 1 or any(str(i.get("DimensionOrganizationUID")) not in uids for i in indices):
        yield "DimensionIndexSequence belongs to no Dimension Organization of the object"
