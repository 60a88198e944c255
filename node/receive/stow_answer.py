"""What a STOW-RS request is answered: the Store Instances Response as DICOM JSON or XML.

Source: PS3.18 10.5.3, Annex I; PS3.18 Annex F (JSON); PS3.19 A.1 (Native DICOM Model).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.domain.statuses import is_out_of_resources

JSON_TYPE = "application/dicom+json"
XML_TYPE = "application/dicom+xml"

# DICOM JSON is what clients parse without being asked to
ANSWER_TYPES = (JSON_TYPE, XML_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An instance that is kept, by this request or by one before."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(slots=True)
class Outcome:
    """What became of each part of one request, in the order of the parts."""

    stored: list[Stored] = field(default_factory=list)
    failed: list[InstanceRejected] = field(default_factory=list)

    @property
    def status(self) -> HTTPStatus:
        """The status of a request that was read to its end.

        Source: PS3.18 Table 10.5.3-1
        """
        if not self.failed:
            return HTTPStatus.OK
        if self.stored:
            return HTTPStatus.ACCEPTED
        if any(is_out_of_resources(failure.dimse_status) for failure in self.failed):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.CONFLICT

    @property
    def is_empty(self) -> bool:
        """Whether no part was dealt with."""
        return not self.stored and not self.failed


def store_instances_response(outcome: Outcome) -> Dataset:
    """The Store Instances Response Module; a sequence without items is left out.

    Retrieve URL is present and empty: what is stored cannot be retrieved from this service.

    Source: PS3.18 Table I.1-1
    """
    answer = Dataset()
    answer.RetrieveURL = ""
    identified = [failure for failure in outcome.failed if failure.sop_instance_uid]
    others = [failure for failure in outcome.failed if not failure.sop_instance_uid]
    if identified:
        answer.FailedSOPSequence = [_failed_item(failure) for failure in identified]
    if outcome.stored:
        answer.ReferencedSOPSequence = [_stored_item(stored) for stored in outcome.stored]
    if others:
        answer.OtherFailuresSequence = [_reason_item(failure) for failure in others]
    return answer


def render(answer: Dataset, media_type: str) -> bytes:
    """A data set in one of ``ANSWER_TYPES``."""
    if media_type == JSON_TYPE:
        return json.dumps(answer.to_json_dict(), separators=(",", ":")).encode()
    root = ElementTree.Element("NativeDicomModel", {"xml:space": "preserve"})
    _add_attributes(root, answer)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _stored_item(stored: Stored) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = stored.sop_class_uid
    item.ReferencedSOPInstanceUID = stored.sop_instance_uid
    item.RetrieveURL = ""
    return item


def _reason_item(failure: InstanceRejected) -> Dataset:
    item = Dataset()
    item.FailureReason = failure.dimse_status
    return item


def _failed_item(failure: InstanceRejected) -> Dataset:
    item = _reason_item(failure)
    item.ReferencedSOPClassUID = failure.sop_class_uid
    item.ReferencedSOPInstanceUID = failure.sop_instance_uid
    return item


def _add_attributes(parent: ElementTree.Element, dataset: Dataset) -> None:
    for element in dataset:
        attribute = ElementTree.SubElement(
            parent,
            "DicomAttribute",
            {
                "tag": f"{element.tag.group:04X}{element.tag.element:04X}",
                "vr": element.VR,
                "keyword": keyword_for_tag(element.tag),
            },
        )
        if element.VR == "SQ":
            for number, item in enumerate(element.value, start=1):
                _add_attributes(
                    ElementTree.SubElement(attribute, "Item", {"number": str(number)}), item
                )
        elif not element.is_empty:
            ElementTree.SubElement(attribute, "Value", {"number": "1"}).text = str(element.value)
