"""Does the object belong to this patient, study and source, and does it say who made it?

Attributes are named in faults, values never: they may be a patient's.
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
from node.domain.job import ResultIdentity
from node.domain.result import Provenance
from node.verify.reading import plain_text_of

_BINARY_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "AT", "OW", "OF", "OD", "OL"})
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
    if not (
        header.get("SOPClassUID") == meta.get("MediaStorageSOPClassUID") == SegmentationStorage
    ):
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
    if (header.get("ContentDate"), header.get("ContentTime")) != (
        provenance.content_date,
        provenance.content_time,
    ):
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
    if provenance.incomplete and "INCOMPLETE" not in plain_text_of(header, "ContentDescription"):
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
