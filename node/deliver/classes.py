"""What an answer means: every status of a destination in one of five classes.

Pure. Each class has one consequence for the outbox row (``node.domain.delivery.DeliveryClass``).

Source: PS3.4 B.2.3 and PS3.7 Annex C (C-STORE status), PS3.8 9.3.4 (A-ASSOCIATE-RJ),
PS3.18 10.5.3 and Annex I.2 (STOW-RS status and Failure Reason), RFC 9110 section 15 (HTTP).
"""

from __future__ import annotations

from enum import StrEnum

from node.domain.delivery import DeliveryClass, Outcome

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_SOP_CLASS = 0x0122  # C-STORE: SOP class not supported
NOT_AUTHORISED = 0x0124
RESOURCE_LIMITATION = 0x0213
ATTRIBUTE_LIST_ERROR = 0x0107  # a warning in PS3.7 Annex C
ATTRIBUTE_VALUE_OUT_OF_RANGE = 0x0116  # a warning in PS3.7 Annex C

_WARNING_WORDS = {
    0xB000: "it changed data elements",
    0xB006: "it discarded elements",
    0xB007: "it says that the data set does not match its SOP class",
}
_BLOCKING_WORDS = {
    NO_SUCH_SOP_CLASS: "it does not support the SOP class",
    NOT_AUTHORISED: "it does not authorise this node to store there",
}
_HTTP_WORDS = {
    400: "the request is malformed to it",
    401: "credentials are missing or wrong",
    403: "this node is not allowed to store there",
    404: "nothing answers STOW-RS at this URL",
    409: "it did not store the object",
    413: "the object is too large for it",
    415: "it does not take this media type",
}


class AssociationEnd(StrEnum):
    """How an association ended without an answer to the C-STORE."""

    UNREACHABLE = "unreachable"
    REJECTED_TRANSIENT = "rejected_transient"
    REJECTED_PERMANENT = "rejected_permanent"
    NO_CONTEXT = "no_context"
    ABORTED = "aborted"
    TIMED_OUT = "timed_out"


_ENDS = {
    AssociationEnd.UNREACHABLE: (DeliveryClass.RETRY, "no connection to the destination"),
    AssociationEnd.REJECTED_TRANSIENT: (
        DeliveryClass.RETRY,
        "the destination rejected the association for now",
    ),
    AssociationEnd.REJECTED_PERMANENT: (
        DeliveryClass.BLOCKED,
        "the destination rejected the association for good",
    ),
    AssociationEnd.NO_CONTEXT: (
        DeliveryClass.BLOCKED,
        "the destination accepted no presentation context for the SOP class of the result",
    ),
    AssociationEnd.ABORTED: (
        DeliveryClass.RETRY,
        "the association was aborted or the line was lost",
    ),
    AssociationEnd.TIMED_OUT: (DeliveryClass.RETRY, "the destination did not answer in time"),
}


def classify_association(end: AssociationEnd, detail: str = "") -> Outcome:
    """The class of an association that brought no C-STORE answer.

    Args:
        detail: What else is known, such as the reject reason; appended to the sentence.
    """
    kind, sentence = _ENDS[end]
    return Outcome(
        kind=kind,
        sentence=f"{sentence}: {detail}" if detail else sentence,
        destination_sick=kind is DeliveryClass.RETRY,
    )


def classify_dimse(status: int) -> Outcome:
    """The class of a C-STORE status, or of a STOW-RS Failure Reason, which is the same number.

    0111 (duplicate SOP instance) means that the destination holds an object of this UID. Result
    UIDs follow from the job, so that object can only be ours, sent by an attempt whose answer was
    lost. It has not been read back, so the end is a warning and not ``sent``.
    """
    kind, sentence = _dimse_kind(status)
    return Outcome(
        kind=kind,
        sentence=f"{sentence} (0x{status:04X})",
        status=status,
        destination_sick=kind is DeliveryClass.RETRY and status != PROCESSING_FAILURE,
    )


def _dimse_kind(status: int) -> tuple[DeliveryClass, str]:
    if status == SUCCESS:
        return DeliveryClass.SENT, "stored"
    if status == DUPLICATE_SOP_INSTANCE:
        return DeliveryClass.WARNED, "the destination says it holds this object; not read back"
    if status & 0xF000 == 0xB000 or status in (
        ATTRIBUTE_LIST_ERROR,
        ATTRIBUTE_VALUE_OUT_OF_RANGE,
    ):
        words = _WARNING_WORDS.get(status, "with a warning")
        return DeliveryClass.WARNED, f"stored by the destination; {words}"
    if status & 0xFF00 == 0xA700:
        return DeliveryClass.RETRY, "the destination is out of resources"
    if status in (PROCESSING_FAILURE, RESOURCE_LIMITATION):
        return DeliveryClass.RETRY, "the destination failed to process the object"
    if status & 0xFF00 == 0xA900:
        return DeliveryClass.BLOCKED, "the destination says it does not match its SOP class"
    if status & 0xFF00 in (0x0100, 0x0200):
        words = _BLOCKING_WORDS.get(status, "it cannot perform the operation")
        return DeliveryClass.BLOCKED, f"the destination refused: {words}"
    if status & 0xF000 == 0xC000:
        return DeliveryClass.REFUSED, "the destination cannot understand the object"
    # Not a C-STORE status of PS3.4 or PS3.7: a fault of the peer, which may or may not pass
    return DeliveryClass.REFUSED, "the destination answered with an unknown status"


def classify_http(status: int, retry_after_s: float | None = None) -> Outcome:
    """The class of an HTTP status that says by itself that nothing was stored.

    Bodies of 200, 202 and 409 are read per instance by ``stow_answer``. Redirects are not followed:
    a result must not travel to a host that nobody configured.
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
        sentence = f"the destination redirects elsewhere, which is not followed (HTTP {status})"
        return Outcome(kind=DeliveryClass.BLOCKED, sentence=sentence, status=status)
    if 400 <= status < 500:
        words = _HTTP_WORDS.get(status, "it refused the request")
        sentence = f"the destination did not take the object: {words} (HTTP {status})"
        return Outcome(kind=DeliveryClass.BLOCKED, sentence=sentence, status=status)
    sentence = f"the destination's answer says nothing about the object (HTTP {status})"
    return Outcome(kind=DeliveryClass.REFUSED, sentence=sentence, status=status)


def unknown_destination(name: str) -> Outcome:
    """The end of a row whose destination the configuration does not name any more."""
    return Outcome(
        kind=DeliveryClass.BLOCKED, sentence=f"the configuration has no destination {name!r}"
    )


def form_not_taken(name: str, form: str) -> Outcome:
    """The end of a row whose destination takes no files of this form any more."""
    return Outcome(
        kind=DeliveryClass.BLOCKED,
        sentence=f"the configuration says that {name!r} takes no {form}",
    )


def result_file_gone() -> Outcome:
    """The end of a row whose object is no longer on this node's disk."""
    return Outcome(
        kind=DeliveryClass.BLOCKED, sentence="the result's file is gone from this node's disk"
    )
