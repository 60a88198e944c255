"""``segnode conformance``: what this node does on the network, said by the tables that it really uses.

Source: PS3.2 (conformance), PS3.4 Annex B, PS3.18 10.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage

from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, print_json
from node.deliver import all_kinds
from node.deliver.destination import Destination
from node.domain.errors import Status
from node.domain.pixels import BITS_READ
from node.domain.quantity import RESCALE_IS_DUE, Quantity
from node.domain.received import IMAGE_SOP_CLASSES, Note
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.pipeline.accept import dimse_settings
from node.pipeline.build import Plan, plan
from node.pipeline.forms import FORMS
from node.receive import dimse
from node.receive.dimse_messages import VERIFICATION_SOP_CLASS_UID
from node.receive.scp.negotiation import Refusal
from node.receive.syntaxes import storage_contexts
from node.tls import VERSIONS
from node.web.app import DEFAULT_STOW_PREFIX


def conformance(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the DICOM conformance statement, made from the tables that the node really uses."""
    statement = _statement(plan(config))
    if as_json:
        print_json(statement)
    else:
        typer.echo(_as_markdown(statement), nl=False)


def _statement(plan: Plan) -> dict[str, Any]:
    scp = dimse_settings(plan.config)
    contexts = storage_contexts()
    return {
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME,
        "ae_titles": list(scp.ae_titles),
        "scp": {
            "max_pdu_bytes": scp.limits.max_pdu_bytes,
            "max_associations": scp.max_associations,
            "max_associations_per_peer": scp.max_associations_per_peer,
            "negotiation_timeout_s": scp.limits.negotiation_timeout_s,
            "idle_timeout_s": scp.limits.idle_timeout_s,
            "slowest_bytes_s": scp.limits.slowest_bytes_s,
            "slowest_over_s": scp.limits.slowest_over_s,
            "verification": VERIFICATION_SOP_CLASS_UID,
            "storage": [{**_named(uid), "is_input": uid in IMAGE_SOP_CLASSES} for uid in contexts],
            "transfer_syntaxes": [
                _named(uid)
                for uid in dict.fromkeys(uid for each in contexts.values() for uid in each)
            ],
            "statuses": _failures(),
            "on_refused": plan.policy.on_refused.value,
            "notes": [{"event": note.value, "meaning": note.sentence} for note in Note],
            "rejections": _rejections(),
        },
        "tls": {"profile": "BCP 195 (PS3.15 B.12)", "versions": list(VERSIONS)},
        "values": {
            "rescale_is_due": [
                _named(uid) for uid in sorted(RESCALE_IS_DUE, key=lambda uid: UID(uid).name)
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
            "path": f"{DEFAULT_STOW_PREFIX}/studies[/{{StudyInstanceUID}}]",
            "max_request_bytes": plan.config.web.limits.max_stow_bytes,
            "max_parts": plan.config.web.limits.max_stow_parts,
        },
        "scu": {
            "sop_class": _named(SegmentationStorage),
            "forms": [form.name for form in FORMS.values() if form.is_dicom],
            "transfer_syntaxes": [
                _named(uid) for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
            ],
            "kinds": {name: _kind(kind) for name, kind in all_kinds().items()},
        },
    }


def _failures() -> list[dict[str, str]]:
    """Failure statuses of C-STORE, which are the Failure Reasons of STOW-RS too."""
    return [
        {"status": f"0x{status:04X}", "meaning": _words(status.name)}
        for status in sorted(Status)
        if status is not Status.SUCCESS
    ]


def _rejections() -> list[dict[str, Any]]:
    """PS3.8 Table 9-21: what A-ASSOCIATE-RJ says."""
    keys = ("result", "source", "reason")
    return [
        {key: getattr(refusal, key) for key in keys} | {"meaning": _words(name)}
        for name, refusal in vars(dimse).items()
        if isinstance(refusal, Refusal)
    ]


def _named(uid: str) -> dict[str, str]:
    return {"uid": str(uid), "name": UID(uid).name}


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


def _as_markdown(statement: Mapping[str, Any]) -> str:
    scp, values = statement["scp"], statement["values"]
    stow, scu, tls = statement["stow"], statement["scu"], statement["tls"]
    inputs = [each for each in scp["storage"] if each["is_input"]]
    others = [each for each in scp["storage"] if not each["is_input"]]
    notes = [{**each, "event": f"`{each['event']}`"} for each in scp["notes"]]
    takes = [
        {"model": model, "input": role, "takes": ", ".join(quantities) or "any"}
        for model, roles in values["models"].items()
        for role, quantities in roles.items()
    ]
    kinds = [
        {"kind": name, **kind, "timeouts": _timeouts(kind["timeouts_s"])}
        for name, kind in scu["kinds"].items()
    ]
    answers = "\n\n".join(
        _table(({**each, sort: each["answer"]} for each in given), sort, "class", "meaning")
        for kind in scu["kinds"].values()
        for sort, given in kind["answers"].items()
    )
    sop_class = f"{scu['sop_class']['name']} `{scu['sop_class']['uid']}`, as "
    return f"""\
# DICOM conformance statement

Printed by `segnode conformance` from the tables that the node really uses.

| | |
| --- | --- |
| AE titles | {", ".join(statement["ae_titles"])} |
| Implementation Class UID | {statement["implementation_class_uid"]} |
| Implementation Version Name | {statement["implementation_version_name"]} |

## Storage SCP and Verification SCP

| | |
| --- | --- |
| Maximum PDU length | {scp["max_pdu_bytes"]} bytes |
| Associations at once | {scp["max_associations"]} |
| of one peer | {scp["max_associations_per_peer"]} |
| Negotiation timeout | {scp["negotiation_timeout_s"]:g} s |
| Idle timeout | {scp["idle_timeout_s"]:g} s |
| Slowest message | {scp["slowest_bytes_s"]:g} bytes/s over {scp["slowest_over_s"]:g} s |

## Transfer syntaxes, in order of preference

{_uids(scp["transfer_syntaxes"])}

## SOP classes that can be inputs of models ({len(inputs)})

{_uids(inputs)}

## SOP classes that are stored and are no inputs ({len(others)})

{_uids(others)}

## Pixel values of inputs

Grayscale with Bits Allocated {", ".join(map(str, values["bits_allocated"]))}. Rescale Slope and Intercept, in enhanced objects of each
frame, or a Modality LUT are applied; a Real World Value Mapping tells the unit only. Rescale Slope
and Intercept, or a Modality LUT, must be there in each image of:

{_uids(values["rescale_is_due"])}

Quantities that are told apart: {", ".join(values["quantities"])}.
A series whose quantity is not one that its model takes is parked:

{_table(takes, "model", "input", "takes")}

## C-STORE failure statuses (and Failure Reasons of STOW-RS)

{_table(scp["statuses"], "status", "meaning")}

An image that is answered with one of these, is cut off or comes without its pixel data counts as
missing from its series until it arrives well. Such a series, once it would have been complete:
`{scp["on_refused"]}`. A result that is made of a part says so in Content Description and in
Algorithm Parameters (`incomplete_input=15 of 24 images`).

## Taken although the Standard does not allow it, and noted as an event

{_table(notes, "event", "meaning")}

## Association rejections

{_table(scp["rejections"], "result", "source", "reason", "meaning")}

## Security profiles

{tls["profile"]}, where the configuration has `tls`: {", ".join(tls["versions"])}, for DIMSE and HTTP, as
server and as client. Certificates of callers: required, optional or none. No other profile is claimed.

User identity (PS3.7 D.3.3.7): username, and username and passcode, as SCP for peers that have one, and as SCU.
A positive response is given where it is asked for and the user was verified. Kerberos, SAML and JWT are not supported.

## STOW-RS origin server

| | |
| --- | --- |
| Path | POST {stow["path"]} |
| Media type | multipart/related; type="application/dicom", or one application/dicom |
| Largest request | {stow["max_request_bytes"]} bytes, {stow["max_parts"]} parts |

## Destinations of results

SOP class: {sop_class}
{", ".join(scu["forms"])}, in
{", ".join(each["name"] for each in scu["transfer_syntaxes"])}.

{_table(kinds, "kind", "service", "carries", "timeouts")}

What follows from an answer: `sent` and `warned` end a delivery, `retry` repeats it for days,
`refused` repeats it five times, `blocked` waits for a person or another configuration.

{answers}
"""


def _timeouts(timeouts_s: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {time:g} s" for what, time in timeouts_s.items()) or "none"


def _uids(entries: Iterable[Mapping[str, Any]]) -> str:
    return _table(({**each, "UID": f"`{each['uid']}`"} for each in entries), "name", "UID")


def _table(rows: Iterable[Mapping[str, Any]], *titles: str) -> str:
    """Rows below titles, which are also their keys."""
    cells = [titles, ["---"] * len(titles), *([row[title] for title in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells)
