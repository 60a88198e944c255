"""Does the header belong to this patient, study, source and job, and describe what the labels hold?

Attributes are named in faults, values never: they may be a patient's.

Source: PS3.3 C.8.20.2 to C.8.20.4 (Segmentation), C.7.6.17 (dimensions), C.12.2 (references).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from node.domain.carried import (
    COPIED_KEYWORDS,
    NEVER_ABSENT_KEYWORDS,
    is_carried,
    is_text_for_sequence,
)
from node.domain.grid import Stack
from node.domain.job import ResultIdentity
from node.domain.result import LabelVolume, Provenance
from node.domain.segment import Code, Segment
from node.verify.reading import SegFile, code_of, plain_text_of

_BINARY_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "AT", "OW", "OF", "OD", "OL"})
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
_ENHANCED_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)


def identity_faults(
    header: Dataset, identity: ResultIdentity, provenance: Provenance
) -> Iterator[str]:
    """The object is a SEG of this job, in explicit little endian, marked and signed."""
    meta = header.file_meta
    if meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian:
        yield "the transfer syntax is not Explicit VR Little Endian"
    sop_class_uids = header.get("SOPClassUID"), meta.get("MediaStorageSOPClassUID")
    if sop_class_uids != (SegmentationStorage, SegmentationStorage):
        yield "the SOP Class is not Segmentation Storage"
    sop_uid = identity.uid("sop")
    if not (header.get("SOPInstanceUID") == meta.get("MediaStorageSOPInstanceUID") == sop_uid):
        yield "the SOP Instance UID is not that of the job"
    if header.get("SeriesInstanceUID") != identity.uid("series"):
        yield "the Series Instance UID is not that of the job"
    if header.get("Modality") != "SEG":
        yield "the Modality is not SEG"
    if header.get("SeriesNumber") != provenance.series_number:
        yield "the Series Number is not that of the job"
    for keyword in _ENHANCED_EQUIPMENT:
        if not header.get(keyword):
            yield f"{keyword} is absent or empty"
    content_at = header.get("ContentDate"), header.get("ContentTime")
    if content_at != (provenance.content_date, provenance.content_time):
        yield "the content date and time are not those of the job"
    description = plain_text_of(header, "SeriesDescription")
    if not 0 < len(description) <= 64:
        yield f"SeriesDescription has {len(description)} characters, not 1 to 64"
    if provenance.research_use and "RESEARCH" not in description:
        yield "SeriesDescription lacks the research-use mark"
    content = plain_text_of(header, "ContentDescription")
    for keyword, text in (("SeriesDescription", description), ("ContentDescription", content)):
        if ("IMPLAUSIBLE" in text) is not bool(provenance.implausible):
            yield f"{keyword} is marked as implausible where the result is not, or the reverse"
    if provenance.research_use and header.get("ContentQualification") != "RESEARCH":
        yield "ContentQualification is not RESEARCH"
    if provenance.incomplete and "INCOMPLETE" not in content:
        yield "ContentDescription does not say that images are missing"
    if _has_private(header):
        yield "a private attribute is in the object"


def patient_faults(header: Dataset, source: Sequence[Dataset]) -> list[str]:
    """Patient and study attributes equal those of a source instance, byte for byte.

    Args:
        source: The instance of the first slice first; instances may differ where a name was
            corrected in some, so the object must equal one of them in everything.
    """
    faults: list[str] = []
    for number, instance in enumerate(source):
        differing = [
            keyword for keyword in COPIED_KEYWORDS if not _equal_in(header, instance, keyword)
        ]
        if not differing:
            return []
        if number == 0:
            faults = [f"{keyword} differs from the source" for keyword in differing]
    return faults


def reference_faults(header: Dataset, source: Sequence[Dataset]) -> Iterator[str]:
    """Every source instance is referenced once, and nothing else (PS3.3 C.12.2)."""
    named = [
        (
            str(series.get("SeriesInstanceUID", "")),
            str(instance.get("ReferencedSOPClassUID", "")),
            str(instance.get("ReferencedSOPInstanceUID", "")),
        )
        for series in header.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedInstanceSequence") or []
    ]
    wanted = {(str(i.SeriesInstanceUID), str(i.SOPClassUID), str(i.SOPInstanceUID)) for i in source}
    if len(set(named)) != len(named):
        yield "ReferencedSeriesSequence names an instance twice"
    if missing := wanted - set(named):
        yield f"ReferencedSeriesSequence lacks {len(missing)} of {len(wanted)} source instances"
    if extra := set(named) - wanted:
        yield f"ReferencedSeriesSequence names {len(extra)} instances that are not in the source"


def lossy_faults(header: Dataset, source: Sequence[Dataset]) -> Iterator[str]:
    """A lossy source makes a lossy result (PS3.3 C.7.6.1.1.5)."""
    lossy = any(instance.get("LossyImageCompression") == "01" for instance in source)
    said = header.get("LossyImageCompression")
    if said not in ("00", "01"):
        yield "LossyImageCompression is absent"
    elif lossy and said != "01":
        yield "LossyImageCompression hides that the source was compressed with loss"


def _equal_in(header: Dataset, instance: Dataset, keyword: str) -> bool:
    tag = Tag(keyword)
    if tag not in instance or is_text_for_sequence(instance, tag, _known_vr(tag)):
        if keyword in NEVER_ABSENT_KEYWORDS:
            return tag in header and not header[tag].value
        return tag not in header
    return tag in header and _same(header, instance, tag)


def _same(ours: Dataset, theirs: Dataset, tag: BaseTag) -> bool:
    """Equal as undecoded bytes where both are that, else as decoded values."""
    a: DataElement | RawDataElement = ours.get_item(tag)
    b: DataElement | RawDataElement = theirs.get_item(tag)
    if isinstance(a, RawDataElement) and isinstance(b, RawDataElement):
        vr = a.VR or _known_vr(tag)
        if vr != "SQ" and (vr not in _BINARY_NUMBERS or a.is_little_endian == b.is_little_endian):
            return (a.value or b"").rstrip(b" \0") == (b.value or b"").rstrip(b" \0")
    first, second = _decoded(a, ours), _decoded(b, theirs)
    if first.VR == "SQ" and second.VR == "SQ":
        return _same_items(list(first.value or ()), list(second.value or ()))
    return bool(first.value == second.value) or (first.is_empty and second.is_empty)


def _same_items(ours: list[Dataset], theirs: list[Dataset]) -> bool:
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        tags = {
            tag
            for tag in b.keys()  # noqa: SIM118
            if is_carried(tag) and not is_text_for_sequence(b, tag, _known_vr(tag))
        }
        if set(a.keys()) != tags or not all(_same(a, b, tag) for tag in tags):
            return False
    return True


def _decoded(found: DataElement | RawDataElement, holder: Dataset) -> DataElement:
    if isinstance(found, DataElement):
        return found
    character_set = getattr(holder, "_character_set", None) or "iso8859"
    return convert_raw_data_element(found, encoding=character_set, ds=holder)


def _known_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _has_private(dataset: Dataset) -> bool:
    """Whether a private attribute is anywhere in it."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset would decode every element
        if tag.is_private:
            return True
        found = dataset.get_item(tag)
        vr = found.VR or _known_vr(tag)
        if vr == "SQ" and tag != Tag("PerFrameFunctionalGroupsSequence"):
            items = _decoded(found, dataset).value or ()
            if any(_has_private(nested) for nested in items):
                return True
    return False


def pixel_faults(file: SegFile, volume: LabelVolume, frames: int) -> Iterator[str]:
    """One-bit pixels of the source's size, as many frames as the labels need."""
    header = file.header
    _, rows, columns = volume.labels.shape
    facts = {**_PIXEL_FACTS, "SegmentsOverlap": "YES" if volume.overlapping else "NO"}
    for keyword, value in facts.items():
        if header.get(keyword) != value:
            yield f"{keyword} is not {value}"
    if (header.get("Rows"), header.get("Columns")) != (rows, columns):
        yield f"Rows and Columns are not {rows} x {columns}"
    said = header.get("NumberOfFrames")
    if said != len(file.frames):
        yield f"NumberOfFrames is {said}, functional groups describe {len(file.frames)} frames"
    if len(file.frames) != frames:
        yield f"{len(file.frames)} frames, the labels need {frames}"
    bits = rows * columns * frames
    wanted = (bits + 7) // 8
    wanted += wanted % 2
    if len(file.bits) != wanted:
        yield f"Pixel Data has {len(file.bits)} bytes, {frames} frames need {wanted}"
    elif any(file.bits[(bits + 7) // 8 :]) or (bits % 8 and file.bits[bits // 8] >> bits % 8):
        yield "bits after the last frame are not zero"


def segment_faults(
    header: Dataset, segments: Sequence[Segment], provenance: Provenance, identity: ResultIdentity
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
    algorithm = _first_item(item, "SegmentationAlgorithmIdentificationSequence")
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


def _first_item(holder: Dataset, keyword: str) -> Dataset:
    items: Sequence[Dataset] = holder.get(keyword) or [Dataset()]
    return items[0]


def _item_faults(item: Dataset, segment: Segment) -> Iterator[str]:
    label = plain_text_of(item, "SegmentLabel")
    # others are written in ASCII, without what would separate values
    can_be_label = (
        segment.name.isascii() and segment.name.isprintable() and "\\" not in segment.name
    )
    if not 0 < len(label) <= 64:
        yield f"SegmentLabel has {len(label)} characters, not 1 to 64"
    elif can_be_label and label != segment.name[:64].strip():
        yield "SegmentLabel is not the name of the label"
    if item.get("SegmentAlgorithmType") != "AUTOMATIC" or not item.get("SegmentAlgorithmName"):
        yield "SegmentAlgorithmType is not AUTOMATIC, or SegmentAlgorithmName is absent"
    if len(item.get("RecommendedDisplayCIELabValue") or ()) != 3:
        yield "RecommendedDisplayCIELabValue is absent"


def _code_faults(item: Dataset, segment: Segment) -> Iterator[str]:
    kind = _first_item(item, "SegmentedPropertyTypeCodeSequence")
    region = _first_item(item, "AnatomicRegionSequence")
    region_modifier = segment.region_modifier if segment.region else None
    coded: tuple[tuple[Dataset, str, Code | None], ...] = (
        (item, "SegmentedPropertyCategoryCodeSequence", segment.category),
        (item, "SegmentedPropertyTypeCodeSequence", segment.type),
        (kind, "SegmentedPropertyTypeModifierCodeSequence", segment.modifier),
        (item, "AnatomicRegionSequence", segment.region),
        (region, "AnatomicRegionModifierSequence", region_modifier),
    )
    for holder, keyword, code in coded:
        if code_of(holder, keyword) != (f"{code.scheme}:{code.value}" if code else ""):
            yield f"{keyword} is not that of the label"


def geometry_faults(header: Dataset, stack: Stack) -> Iterator[str]:
    """The Frame of Reference and the slice distance are the source's."""
    frame_of_reference = str(header.get("FrameOfReferenceUID", "") or "")
    if not frame_of_reference:
        yield "FrameOfReferenceUID is absent"
    elif frame_of_reference != stack.grid.frame_of_reference_uid:
        yield "FrameOfReferenceUID is not the source's"
    shared = _first_item(header, "SharedFunctionalGroupsSequence")
    measures = _first_item(shared, "PixelMeasuresSequence")
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
