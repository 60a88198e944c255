"""What this node does on the network, said by the tables and functions that it really uses.

Source: PS3.2 (conformance), PS3.4 Annex B, PS3.18 10.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage

from node.deliver import all_kinds
from node.deliver.destination import Destination
from node.domain import statuses
from node.domain.pixels import BITS_READ
from node.domain.quantity import RESCALE_IS_DUE, Quantity
from node.domain.received import Note
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.pipeline.accept import dimse_settings
from node.pipeline.build import Plan
from node.pipeline.forms import FORMS
from node.receive import dimse
from node.receive.dimse_transfer import VERIFICATION_SOP_CLASS_UID
from node.receive.dimse_upper_layer import Refusal
from node.receive.stow_parts import BodyLimits
from node.receive.syntaxes import IMAGE_SOP_CLASSES, storage_contexts


def conformance(plan: Plan, stow_prefix: str) -> dict[str, Any]:
    """The statement as JSON-ready values.

    Args:
        stow_prefix: Path below which STOW-RS is served.
    """
    scp = dimse_settings(plan.config)
    contexts = storage_contexts()
    return {
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME,
        "ae_titles": list(scp.ae_titles),
        "scp": {
            "max_pdu_bytes": scp.max_pdu_bytes,
            "max_associations": scp.max_associations,
            "max_associations_per_peer": scp.max_associations_per_peer,
            "negotiation_timeout_s": scp.negotiation_timeout_s,
            "idle_timeout_s": scp.idle_timeout_s,
            "verification": VERIFICATION_SOP_CLASS_UID,
            "storage": [
                {"uid": uid, "name": UID(uid).name, "is_input": uid in IMAGE_SOP_CLASSES}
                for uid in contexts
            ],
            "transfer_syntaxes": [
                {"uid": uid, "name": UID(uid).name}
                for uid in dict.fromkeys(uid for each in contexts.values() for uid in each)
            ],
            "statuses": _failures(),
            "on_refused": plan.policy.on_refused.value,
            "notes": [{"event": note.value, "meaning": note.sentence} for note in Note],
            "rejections": _rejections(),
        },
        "values": {
            "rescale_is_due": [
                {"uid": uid, "name": UID(uid).name}
                for uid in sorted(RESCALE_IS_DUE, key=lambda uid: UID(uid).name)
            ],
            "quantities": [
                quantity.value for quantity in Quantity if quantity is not Quantity.UNSPECIFIED
            ],
            "bits_allocated": list(BITS_READ),
            "models": {
                model.name: {
                    role: [quantity.value for quantity in given.quantities]
                    for role, given in model.inputs.items()
                }
                for model in plan.models.values()
            },
        },
        "stow": {
            "path": f"{stow_prefix}/studies[/{{StudyInstanceUID}}]",
            "max_request_bytes": BodyLimits().max_request_bytes,
            "max_parts": BodyLimits().max_parts,
        },
        "scu": {
            "sop_class": {"uid": str(SegmentationStorage), "name": SegmentationStorage.name},
            "forms": [form.name for form in FORMS.values() if form.is_dicom],
            "transfer_syntaxes": [
                {"uid": str(uid), "name": uid.name}
                for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
            ],
            "kinds": {name: _kind(kind) for name, kind in all_kinds().items()},
        },
    }


def as_markdown(statement: Mapping[str, Any]) -> str:
    """The statement as a document."""
    return "\n".join(
        [*_header(statement), *_scp(statement["scp"], statement["values"]), *_rest(statement), ""]
    )


def _failures() -> list[dict[str, str]]:
    """Failure statuses of C-STORE, which are the Failure Reasons of STOW-RS too."""
    named = {name: value for name, value in vars(statuses).items() if name.isupper()}
    return [
        {"status": f"0x{value:04X}", "meaning": _words(name)}
        for name, value in sorted(named.items(), key=lambda item: item[1])
        if value != statuses.SUCCESS
    ]


def _rejections() -> list[dict[str, Any]]:
    """PS3.8 Table 9-21: what A-ASSOCIATE-RJ says."""
    named = {name: value for name, value in vars(dimse).items() if isinstance(value, Refusal)}
    return [
        {
            "result": refusal.result,
            "source": refusal.source,
            "reason": refusal.reason,
            "meaning": _words(name),
        }
        for name, refusal in named.items()
    ]


def _words(name: str) -> str:
    return name.lower().replace("_", " ").replace(" ae ", " AE ").replace("uid", "UID")


def _kind(kind: type[Destination]) -> dict[str, Any]:
    """What a kind of destination says of itself."""
    return {
        "service": kind.service,
        "carries": "any file" if kind.carries_any_file else "DICOM objects",
        "timeouts_s": kind.timeouts_s(),
        "answers": {
            sort: [
                {"answer": answer, "class": outcome.kind.value, "meaning": outcome.sentence}
                for answer, outcome in answers.items()
            ]
            for sort, answers in kind.answers().items()
        },
    }


def _header(statement: Mapping[str, Any]) -> Iterator[str]:
    yield "# DICOM conformance statement"
    yield ""
    yield "Printed by `segnode conformance` from the tables that the node really uses."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| AE titles | {', '.join(statement['ae_titles'])} |"
    yield f"| Implementation Class UID | {statement['implementation_class_uid']} |"
    yield f"| Implementation Version Name | {statement['implementation_version_name']} |"


def _scp(scp: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    inputs = [each for each in scp["storage"] if each["is_input"]]
    others = [each for each in scp["storage"] if not each["is_input"]]
    yield from _section("Storage SCP and Verification SCP")
    yield "| | |"
    yield "| --- | --- |"
    yield f"| Maximum PDU length | {scp['max_pdu_bytes']} bytes |"
    yield f"| Associations at once | {scp['max_associations']} |"
    yield f"| of one peer | {scp['max_associations_per_peer']} |"
    yield f"| Negotiation timeout | {scp['negotiation_timeout_s']:g} s |"
    yield f"| Idle timeout | {scp['idle_timeout_s']:g} s |"
    yield from _section("Transfer syntaxes, in order of preference")
    yield from _uids(scp["transfer_syntaxes"])
    yield from _section(f"SOP classes that can be inputs of models ({len(inputs)})")
    yield from _uids(inputs)
    yield from _section(f"SOP classes that are stored and are no inputs ({len(others)})")
    yield from _uids(others)
    yield from _values(values)
    yield from _section("C-STORE failure statuses (and Failure Reasons of STOW-RS)")
    yield "| status | meaning |"
    yield "| --- | --- |"
    for each in scp["statuses"]:
        yield f"| {each['status']} | {each['meaning']} |"
    yield ""
    yield "An image that is answered with one of these, is cut off or comes without its pixel data counts as"
    yield "missing from its series until it arrives well. Such a series, once it would have been complete:"
    yield f"`{scp['on_refused']}`. A result that is made of a part says so in Content Description and in"
    yield "Algorithm Parameters (`incomplete_input=15 of 24 images`)."
    yield from _section("Taken although the Standard does not allow it, and noted as an event")
    yield "| event | meaning |"
    yield "| --- | --- |"
    for each in scp["notes"]:
        yield f"| `{each['event']}` | {each['meaning']} |"
    yield from _section("Association rejections")
    yield "| result | source | reason | meaning |"
    yield "| --- | --- | --- | --- |"
    for each in scp["rejections"]:
        yield f"| {each['result']} | {each['source']} | {each['reason']} | {each['meaning']} |"


def _values(values: Mapping[str, Any]) -> Iterator[str]:
    yield from _section("Pixel values of inputs")
    bits = ", ".join(str(each) for each in values["bits_allocated"])
    yield f"Grayscale with Bits Allocated {bits}. Rescale Slope and Intercept, in enhanced objects of each"
    yield "frame, or a Modality LUT are applied; a Real World Value Mapping tells the unit only. Rescale Slope"
    yield "and Intercept, or a Modality LUT, must be there in each image of:"
    yield ""
    yield from _uids(values["rescale_is_due"])
    yield ""
    yield f"Quantities that are told apart: {', '.join(values['quantities'])}."
    yield "A series whose quantity is not one that its model takes is parked:"
    yield ""
    yield "| model | input | takes |"
    yield "| --- | --- | --- |"
    for model, inputs in values["models"].items():
        for role, quantities in inputs.items():
            yield f"| {model} | {role} | {', '.join(quantities) or 'any'} |"


def _rest(statement: Mapping[str, Any]) -> Iterator[str]:
    stow, scu = statement["stow"], statement["scu"]
    yield from _section("STOW-RS origin server")
    yield "| | |"
    yield "| --- | --- |"
    yield f"| Path | POST {stow['path']} |"
    yield '| Media type | multipart/related; type="application/dicom", or one application/dicom |'
    yield f"| Largest request | {stow['max_request_bytes']} bytes, {stow['max_parts']} parts |"
    yield from _section("Destinations of results")
    yield f"SOP class: {scu['sop_class']['name']} `{scu['sop_class']['uid']}`, as "
    yield f"{', '.join(scu['forms'])}, in"
    yield f"{', '.join(each['name'] for each in scu['transfer_syntaxes'])}."
    yield ""
    yield "| kind | service | carries | timeouts |"
    yield "| --- | --- | --- | --- |"
    for name, kind in scu["kinds"].items():
        times = ", ".join(f"{what} {time:g} s" for what, time in kind["timeouts_s"].items())
        yield f"| {name} | {kind['service']} | {kind['carries']} | {times or 'none'} |"
    yield ""
    yield "What follows from an answer: `sent` and `warned` end a delivery, `retry` repeats it for days,"
    yield "`refused` repeats it five times, `blocked` waits for a person or another configuration."
    for kind in scu["kinds"].values():
        for sort, answers in kind["answers"].items():
            yield ""
            yield f"| {sort} | class | meaning |"
            yield "| --- | --- | --- |"
            for each in answers:
                yield f"| {each['answer']} | {each['class']} | {each['meaning']} |"


def _section(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def _uids(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| name | UID |"
    yield "| --- | --- |"
    for each in entries:
        yield f"| {each['name']} | `{each['uid']}` |"
