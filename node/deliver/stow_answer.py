"""What a STOW-RS answer says about one instance.

The Store Instances Response Module lists instances that were stored and that were not; the HTTP
status alone says neither for a given instance.

Source: PS3.18 10.5.3, Annex I; RFC 9110 section 15 (status).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from node.deliver.destination import blocked, classify_dimse
from node.domain.delivery import DeliveryClass, Outcome

REFERENCED_SOP_SEQUENCE = "00081199"
FAILED_SOP_SEQUENCE = "00081198"
REFERENCED_SOP_INSTANCE_UID = "00081155"
FAILURE_REASON = "00081197"
WARNING_REASON = "00081196"

OK, ACCEPTED, CONFLICT = 200, 202, 409

_HTTP_WORDS = {
    400: "the request is malformed to it",
    401: "credentials are missing or wrong",
    403: "this node is not allowed to store there",
    404: "nothing answers STOW-RS at this URL",
    409: "it did not store the object",
    413: "the object is too large for it",
    415: "it does not take this media type",
}
_DONE_OR_LATER = (DeliveryClass.WARNED, DeliveryClass.RETRY, DeliveryClass.REFUSED)


def tells(status: int) -> bool:
    """Whether a body under this HTTP status is asked what became of the object."""
    return status in (OK, ACCEPTED, CONFLICT)


def judge_answer(
    status: int, body: bytes, sop_instance_uid: str, retry_after_s: float | None = None
) -> Outcome:
    """The class of an answer for one instance.

    A failure listed in the body outweighs any HTTP status; 200 without a word about the instance is
    taken with a warning, 202 without one is no proof of anything.
    """
    if not tells(status):
        return classify_http(status, retry_after_s)
    answer = _response_module(body)
    failure = _item_of(answer, FAILED_SOP_SEQUENCE, sop_instance_uid)
    if failure is not None:
        return _failed(status, _number(failure, FAILURE_REASON))
    if status == CONFLICT:
        return classify_http(status)
    stored = _item_of(answer, REFERENCED_SOP_SEQUENCE, sop_instance_uid)
    if stored is not None:
        return _stored(status, _number(stored, WARNING_REASON))
    if status == OK:
        sentence = "the destination answered 200 without naming the object; not read back"
        return Outcome(kind=DeliveryClass.WARNED, sentence=sentence, status=status)
    return classify_http(status)


def classify_http(status: int, retry_after_s: float | None = None) -> Outcome:
    """The class of an HTTP status that says by itself that nothing was stored.

    Redirects are not followed: a result must not travel to a host that nobody configured.
    """
    if status in (408, 429) or status >= 500:
        return Outcome(
            kind=DeliveryClass.RETRY,
            sentence=f"the destination cannot take the object now (HTTP {status})",
            status=status,
            retry_after_s=retry_after_s,
            destination_sick=True,
        )
    if 300 <= status < 400:
        sentence = "the destination redirects elsewhere, which is not followed"
        return blocked(f"{sentence} (HTTP {status})", status)
    if 400 <= status < 500:
        words = _HTTP_WORDS.get(status, "it refused the request")
        return blocked(f"the destination did not take the object: {words} (HTTP {status})", status)
    sentence = f"the destination's answer says nothing about the object (HTTP {status})"
    return Outcome(kind=DeliveryClass.REFUSED, sentence=sentence, status=status)


def _failed(status: int, reason: int | None) -> Outcome:
    if not reason:  # "failed, reason success" contradicts itself
        sentence = f"the destination lists the object as failed, without a reason (HTTP {status})"
        return Outcome(kind=DeliveryClass.REFUSED, sentence=sentence, status=status)
    outcome = classify_dimse(reason)
    if status == CONFLICT and outcome.kind not in _DONE_OR_LATER:
        return blocked(f"{outcome.sentence}, HTTP {status}", reason)
    return outcome


def _stored(status: int, warning: int | None) -> Outcome:
    if not warning:
        return Outcome(kind=DeliveryClass.SENT, sentence="stored", status=status)
    sentence = f"stored by the destination with a warning (0x{warning:04X})"
    return Outcome(kind=DeliveryClass.WARNED, sentence=sentence, status=warning)


def _response_module(body: bytes) -> Mapping[str, Any]:
    """The DICOM JSON object of an answer; empty where there is none (XML, HTML, nothing)."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]  # some servers wrap the one object in an array
    return answer if isinstance(answer, dict) else {}


def _item_of(
    answer: Mapping[str, Any], sequence: str, sop_instance_uid: str
) -> Mapping[str, Any] | None:
    for item in _values(answer, sequence):
        uids = list(_values(item, REFERENCED_SOP_INSTANCE_UID)) if isinstance(item, dict) else []
        if uids and str(uids[0]).strip("\0 ") == sop_instance_uid:
            return dict(item)
    return None


def _number(item: Mapping[str, Any], tag: str) -> int | None:
    for value in _values(item, tag):
        if isinstance(value, int) and 0 <= value <= 0xFFFF:
            return value
    return None


def _values(item: Mapping[str, Any], tag: str) -> Iterator[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    yield from values if isinstance(values, list) else ()
