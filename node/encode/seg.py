"""A label volume as a DICOM Segmentation of type BINARY, behind one function.

highdicom makes the object for one small plane and so answers for the modules; then come ours, and the
source's own bytes. Frames are stamped from templates and their bits packed straight from the labels
(``node.encode.frames``), because a Python object per frame is what makes large segmentations slow.

Source: PS3.3 A.51, C.7.5.2 (Enhanced General Equipment), C.8.20.4 (segments), C.10.7.1.1 (CIELab
encoding), C.12.1 (SOP Common), C.12.2 (Common Instance Reference), 10.16 (Algorithm
Identification); PS3.10 7.1 (File Meta Information).
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.base import SOPClass
from highdicom.color import CIELabColor
from highdicom.content import PixelMeasuresSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from node.domain.carried import COPIED_KEYWORDS, NEVER_ABSENT_KEYWORDS
from node.domain.errors import JobRefused
from node.domain.job import ResultIdentity
from node.domain.result import EncodedFile, Provenance, Result
from node.domain.segment import PRIVATE_SCHEME, PRIVATE_SCHEME_UID, Code, Segment
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.encode.elements import (
    Source,
    attribute,
    copied_element,
    copied_elements,
    element,
    encoded_dataset,
    encoded_elements,
    sequence,
)
from node.encode.frames import (
    coded,
    described_rows,
    occupied_planes,
    packed_bits,
    packed_size_bytes,
    per_frame_groups,
    reference_to,
    shared_groups,
)

MANUFACTURER = "segnode"
LONG_STRING = 64
LONG_TEXT = 10240
IMPLAUSIBLE = "IMPLAUSIBLE"
"""In Series and Content Description of a result that no patient can have."""
RESEARCH_NOTICE = "For research use only, not for diagnostic use"

_LONGEST_VALUE = 0xFFFFFFFE  # bytes
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
    elements = _encoded_header(origin, described, result.provenance, identity, frames=len(planes))
    if volume.overlapping:
        elements[int(Tag("SegmentsOverlap"))] = attribute("SegmentsOverlap", b"YES")
    groups = per_frame_groups(origin, planes, numbers)
    elements[int(Tag("PerFrameFunctionalGroupsSequence"))] = groups
    body = b"".join(elements[tag] for tag in sorted(elements))
    pixel_bytes = packed_size_bytes(volume.labels, planes)
    head = _file_preface(identity.uid("sop")) + body + _pixel_data_header(pixel_bytes)

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


def _encoded_header(
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
    for index in (skeleton.DimensionOrganizationSequence[0], *skeleton.DimensionIndexSequence):
        index.DimensionOrganizationUID = identity.uid("dimension")
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
        # what the source says in all its instances is as true of the result
        source.uniform("BodyPartExamined"),
        source.uniform("PositionReferenceIndicator")
        or attribute("PositionReferenceIndicator", b""),
        *_lossy_compression(source),
    )
    elements.update({_tag_of(data): data for data in ours if data})
    empty = {int(Tag(keyword)): attribute(keyword, b"") for keyword in NEVER_ABSENT_KEYWORDS}
    return elements | empty | copied_elements(source.first, COPIED_KEYWORDS)


def _file_preface(sop_instance_uid: str) -> bytes:
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
    source: Source, segments: Sequence[Segment], provenance: Provenance, identity: ResultIdentity
) -> Dataset:
    """A SEG of one plane of 2 x 2 pixels, made by highdicom from a header without any patient."""
    series = sorted({str(instance.SeriesInstanceUID) for instance in source.instances})
    inputs = {"result_key": identity.key, "input_series": " ".join(series)}
    algorithm = _algorithm(provenance, inputs)
    return Segmentation(
        source_images=[_anonymous_plane(source)],
        pixel_array=np.ones((1, 2, 2), np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            _describe(number, segment, algorithm, provenance, identity)
            for number, segment in enumerate(segments, 1)
        ],
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
    marks = ["AI"]
    if provenance.research_use:
        marks.append("RESEARCH")
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
    kind = "RESEARCH" if provenance.research_use else "AI"
    if provenance.incomplete:  # what it replaces stands in the algorithm's parameters too
        notice = f"{kind}, INCOMPLETE INPUT: {provenance.incomplete}"
    elif replaced:
        notice = kind + replaced
    else:
        notice = RESEARCH_NOTICE if provenance.research_use else "AI segmentation"
    if provenance.implausible:
        notice = f"{IMPLAUSIBLE}, {notice}"
    if provenance.research_use:
        skeleton.ContentQualification = "RESEARCH"
    skeleton.ContentDescription = plain_text(notice)
    for moment in ("Series", "Content", "InstanceCreation"):
        setattr(skeleton, f"{moment}Date", provenance.content_date)
        setattr(skeleton, f"{moment}Time", provenance.content_time)


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
        items.append(references + attribute("SeriesInstanceUID", series_uid.encode()))
    return sequence("ReferencedSeriesSequence", *items)


def _lossy_compression(source: Source) -> list[bytes | None]:
    """A result of lossy pixels says so for ever (PS3.3 C.7.6.1.1.5)."""
    lossy = source.first_lossy()
    if lossy is None:
        return [attribute("LossyImageCompression", b"00")]
    instance, method = lossy
    named = copied_element(instance, "LossyImageCompressionMethod")
    if named is None and method:
        named = attribute("LossyImageCompressionMethod", method.encode())
    ratio = copied_element(instance, "LossyImageCompressionRatio")
    return [attribute("LossyImageCompression", b"01"), ratio, named]


def _tag_of(data: bytes) -> int:
    return int.from_bytes(data[:2], "little") << 16 | int.from_bytes(data[2:4], "little")


def plain_text(text: str, limit: int = LONG_STRING) -> str:
    """Text of ours in the default repertoire, cut to length.

    The Specific Character Set is the source's, whatever it is; ASCII reads the same in all of them.
    A backslash would separate values (PS3.5 6.2).
    """
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    clean = "".join(mark if mark.isprintable() else " " for mark in folded.replace("\\", "/"))
    return clean[:limit].strip()


def _describe(
    number: int,
    segment: Segment,
    algorithm: AlgorithmIdentificationSequence,
    provenance: Provenance,
    identity: ResultIdentity,
) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=plain_text(segment.name) or f"label {segment.label_value}",
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=identity.uid(f"tracking.{segment.label_value}"),
        tracking_id=plain_text(f"{provenance.model_name} {segment.name}"),
        anatomic_regions=[_concept(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )
    if provenance.research_use:
        description.SegmentDescription = RESEARCH_NOTICE
    if segment.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(segment.modifier)]
    if segment.region and segment.region_modifier:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_concept(segment.region_modifier)]
    return description


def _algorithm(provenance: Provenance, inputs: dict[str, str]) -> AlgorithmIdentificationSequence:
    marks = {
        "replaces": provenance.replaces,
        "incomplete_input": provenance.incomplete,
        "implausible": provenance.implausible,
    }
    facts = {
        "model_digest": provenance.model_digest,
        "weights_digest": provenance.weights_digest or "none",
        "config_digest": provenance.config_digest,
        "node_version": provenance.node_version,
        "revision": provenance.revision,
        **{name: mark for name, mark in marks.items() if mark},
        **inputs,
        **dict(sorted(provenance.parameters.items())),
    }
    identification = AlgorithmIdentificationSequence(
        name=plain_text(provenance.model_name),
        family=codes.DCM.ArtificialIntelligence,
        version=plain_text(provenance.model_version),
        source=plain_text(f"segnode {provenance.node_version}"),
    )
    parameters = "\r\n".join(f"{name}={value}" for name, value in facts.items())
    lines = (plain_text(line, LONG_TEXT) for line in parameters.split("\r\n"))
    identification[0].AlgorithmParameters = "\r\n".join(lines)[:LONG_TEXT]
    return identification


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(
        value=code.value, scheme_designator=code.scheme, meaning=plain_text(code.meaning)
    )


def _pixel_data_header(size_bytes: int) -> bytes:
    """Tag, VR and length of Pixel Data: OB, since pixels are of one bit (PS3.5 A.2)."""
    if size_bytes > _LONGEST_VALUE:
        raise JobRefused("the segmentation exceeds 4 GB of Pixel Data")
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size_bytes)
