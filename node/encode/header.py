"""Everything of a SEG but its frames: highdicom's modules, then ours, then the source's own bytes.

Source: PS3.3 A.51, C.7.5.2 (Enhanced General Equipment), C.12.1 (SOP Common), C.12.2 (Common
Instance Reference), PS3.10 7.1 (File Meta Information).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from highdicom.base import SOPClass
from highdicom.content import PixelMeasuresSequence
from highdicom.seg import Segmentation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from node.domain.carried import COPIED_KEYWORDS, NEVER_ABSENT_KEYWORDS
from node.domain.job import ResultIdentity
from node.domain.result import Provenance
from node.domain.segment import PRIVATE_SCHEME, PRIVATE_SCHEME_UID, Segment
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.encode.elements import (
    copied_element,
    copied_elements,
    element,
    encoded_dataset,
    encoded_elements,
    sequence,
)
from node.encode.frames import coded, reference_to, shared_groups
from node.encode.segments import IMPLAUSIBLE, RESEARCH_NOTICE, describe_segments, plain_text
from node.encode.source import Source

MANUFACTURER = "segnode"

# of the skeleton: not true of the whole object, made here instead, or of no use to a reader
_NOT_FROM_SKELETON = [
    "SpecificCharacterSet",
    "SourceImageSequence",
    "DimensionOrganizationType",
    "PixelData",
    "PerFrameFunctionalGroupsSequence",
]
_EQUIPMENT_KEYWORDS = [
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
]


def read_tables() -> None:
    """Have highdicom read the tables now that it reads at its first object: half a second of JSON."""
    SOPClass(
        study_instance_uid="2.25.1",
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.1",
        sop_class_uid=SegmentationStorage,
        instance_number=1,
        modality="SEG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def encoded_header(
    source: Source,
    segments: Sequence[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
    *,
    frames: int,
) -> dict[int, bytes]:
    """All top-level elements but per-frame groups and pixels, by tag."""
    skeleton = _skeleton(source, segments, provenance, identity)
    skeleton.SoftwareVersions = [
        plain_text(provenance.node_version),
        plain_text(f"{provenance.model_name} {provenance.model_version}"),
    ]
    _describe_series(skeleton, provenance)
    _describe_dimensions(skeleton, identity.uid("dimension"))
    _identify_private_codes(skeleton, segments)
    skeleton.NumberOfFrames = frames
    skeleton.Rows, skeleton.Columns = source.stack.grid.shape[1:]
    skeleton.BurnedInAnnotation = "NO"
    for keyword in (*_NOT_FROM_SKELETON, *COPIED_KEYWORDS):
        if keyword in skeleton:
            delattr(skeleton, keyword)
    elements = dict(encoded_elements(skeleton))
    ours = (
        _contributing_equipment(source, provenance),
        _referenced_series(source),
        shared_groups(source),
        *_from_all_instances(source),
        *_lossy_compression(source),
    )
    elements.update({_tag_of(data): data for data in ours if data})
    empty = {int(Tag(keyword)): _empty(keyword) for keyword in NEVER_ABSENT_KEYWORDS}
    return elements | empty | copied_elements(source.first, COPIED_KEYWORDS)


def file_preface(sop_instance_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information."""
    meta = Dataset()
    meta.add_new(0x00020001, "OB", b"\0\1")
    meta.add_new(0x00020002, "UI", SegmentationStorage)
    meta.add_new(0x00020003, "UI", sop_instance_uid)
    meta.add_new(0x00020010, "UI", ExplicitVRLittleEndian)
    meta.add_new(0x00020012, "UI", IMPLEMENTATION_CLASS_UID)
    meta.add_new(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME)
    content = encoded_dataset(meta)
    length = element(0x00020000, "UL", len(content).to_bytes(4, "little"))
    return b"\0" * 128 + b"DICM" + length + content


def _skeleton(
    source: Source,
    segments: Sequence[Segment],
    provenance: Provenance,
    identity: ResultIdentity,
) -> Dataset:
    """A SEG of one plane of 2 x 2 pixels, made by highdicom from a header without any patient."""
    series = sorted({str(instance.SeriesInstanceUID) for instance in source.instances})
    inputs = {"result_key": identity.key, "input_series": " ".join(series)}
    return Segmentation(
        source_images=[_anonymous_plane(source)],
        pixel_array=np.ones((1, 2, 2), np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=describe_segments(list(segments), provenance, identity, inputs),
        series_instance_uid=identity.uid("series"),
        series_number=provenance.series_number,
        sop_instance_uid=identity.uid("sop"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=plain_text(provenance.node_version),
        device_serial_number=plain_text(provenance.config_digest) or "none",
        content_label="SEGMENTATION",
        content_creator_name="AI^SEGNODE",
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=(1.0, 1.0), slice_thickness=1.0, spacing_between_slices=1.0
        ),
    )


def _anonymous_plane(source: Source) -> Dataset:
    """A CT slice of nobody that satisfies highdicom's checks of its source."""
    plane = Dataset()
    plane.SOPClassUID = CTImageStorage
    plane.SOPInstanceUID = source.stack.frames[0].sop_instance_uid
    plane.Modality = "CT"
    plane.StudyInstanceUID = plane.SeriesInstanceUID = "2.25.1"
    for keyword in NEVER_ABSENT_KEYWORDS:
        setattr(plane, keyword, None)
    plane.FrameOfReferenceUID = source.stack.grid.frame_of_reference_uid
    plane.PositionReferenceIndicator = None
    plane.Rows = plane.Columns = 2
    plane.PixelSpacing = [1, 1]
    plane.SliceThickness = 1
    plane.ImagePositionPatient = [0, 0, 0]
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    plane.LossyImageCompression = "00"
    return plane


def _describe_series(skeleton: Dataset, provenance: Provenance) -> None:
    """Names and times of series and content; nothing of the clock of this machine."""
    marks = ["AI", *(["RESEARCH"] if provenance.research_use else [])]
    if provenance.implausible:
        marks.append(IMPLAUSIBLE)
    mark = f"({', '.join(marks)})"
    revision = f", revision {provenance.revision}" if provenance.revision > 1 else ""
    replaced = f", replaces {provenance.replaces}" if provenance.replaces else ""
    name = plain_text(
        f"{provenance.model_name} {provenance.model_version}", 64 - len(f" {mark}{revision}")
    )
    description = f"{name} {mark}{revision}"
    if len(description) + len(replaced) <= 64:
        description += replaced
    skeleton.SeriesDescription = description
    notice = RESEARCH_NOTICE if provenance.research_use else "AI segmentation"
    if replaced:
        notice = f"RESEARCH{replaced}" if provenance.research_use else f"AI{replaced}"
    if provenance.incomplete:  # what it replaces stands in the algorithm's parameters too
        mark = "RESEARCH" if provenance.research_use else "AI"
        notice = f"{mark}, INCOMPLETE INPUT: {provenance.incomplete}"
    if provenance.implausible:
        notice = f"{IMPLAUSIBLE}, {notice}"
    if provenance.research_use:
        skeleton.ContentQualification = "RESEARCH"
    skeleton.ContentDescription = notice if len(notice) <= 64 else plain_text(notice)
    for moment in ("Series", "Content", "InstanceCreation"):
        setattr(skeleton, f"{moment}Date", provenance.content_date)
        setattr(skeleton, f"{moment}Time", provenance.content_time)


def _describe_dimensions(skeleton: Dataset, organization_uid: str) -> None:
    skeleton.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization_uid
    for index in skeleton.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization_uid


def _identify_private_codes(skeleton: Dataset, segments: Sequence[Segment]) -> None:
    """Whose the private codes are, where there are any (PS3.3 8.2, C.12.1)."""
    schemes = {code.scheme for segment in segments for code in segment.codes if code}
    if PRIVATE_SCHEME not in schemes:
        return
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeUID = PRIVATE_SCHEME_UID
    scheme.CodingSchemeName = "Structures of segnode models without a published code"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    skeleton.CodingSchemeIdentificationSequence = [scheme]


def _contributing_equipment(source: Source, provenance: Provenance) -> bytes:
    """The scanner, as it named itself, and this node."""
    items = []
    scanner = copied_elements(source.first, _EQUIPMENT_KEYWORDS)
    manufacturer = scanner.get(int(Tag("Manufacturer")), b"")
    if manufacturer[8:].strip(b" \0"):
        purpose = Dataset()
        purpose.PurposeOfReferenceCodeSequence = [coded(codes.DCM.AcquisitionEquipment)]
        scanner.update(encoded_elements(purpose))
        items.append(b"".join(scanner[tag] for tag in sorted(scanner)))
    node = Dataset()
    node.Manufacturer = node.ManufacturerModelName = MANUFACTURER
    node.SoftwareVersions = plain_text(provenance.node_version)
    node.ContributionDateTime = provenance.content_date + provenance.content_time
    node.ContributionDescription = plain_text(f"Segmentation by {provenance.model_name}")
    node.PurposeOfReferenceCodeSequence = [coded(codes.DCM.ProcessingEquipment)]
    items.append(encoded_dataset(node))
    return sequence("ContributingEquipmentSequence", *items)


def _referenced_series(source: Source) -> bytes:
    """Every input instance by series, those without a segmented frame too."""

    def series_of(instance: Dataset) -> str:
        return str(instance.SeriesInstanceUID)

    items = []
    for series_uid, instances in groupby(sorted(source.instances, key=series_of), key=series_of):
        references = sequence("ReferencedInstanceSequence", *map(reference_to, instances))
        uid = element(Tag("SeriesInstanceUID"), "UI", series_uid.encode())
        items.append(references + uid)
    return sequence("ReferencedSeriesSequence", *items)


def _from_all_instances(source: Source) -> list[bytes | None]:
    """What the source says in all its instances and is as true of the result."""
    indicator = source.uniform("PositionReferenceIndicator")
    return [
        source.uniform("BodyPartExamined"),
        indicator or _empty("PositionReferenceIndicator"),
    ]


def _lossy_compression(source: Source) -> list[bytes | None]:
    """A result of lossy pixels says so for ever (PS3.3 C.7.6.1.1.5)."""
    lossy = source.first_lossy()
    if lossy is None:
        return [element(Tag("LossyImageCompression"), "CS", b"00")]
    instance, method = lossy
    named = copied_element(instance, "LossyImageCompressionMethod")
    if named is None and method:
        named = element(Tag("LossyImageCompressionMethod"), "CS", method.encode())
    ratio = copied_element(instance, "LossyImageCompressionRatio")
    return [element(Tag("LossyImageCompression"), "CS", b"01"), ratio, named]


def _empty(keyword: str) -> bytes:
    blank = Dataset()
    setattr(blank, keyword, None)
    return encoded_dataset(blank)


def _tag_of(data: bytes) -> int:
    return int.from_bytes(data[:2], "little") << 16 | int.from_bytes(data[2:4], "little")
