"""What is known of destinations in general: what each kind is, which one the sender is, what answers mean.

A kind is a frozen value of the configuration that sends and can be asked. The sender is known by how a
series came in: calling AE title and network address, or HTTP user. No tag of the data set has a say, or
anyone could have results sent anywhere by forging one.

Source: PS3.4 B.2.3 and PS3.7 Annex C (C-STORE status), PS3.18 Annex I.2 (Failure Reason).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import ClassVar, Self

from node.domain.delivery import (
    DEFAULT_FORMS,
    UNKNOWN_DESTINATION,
    DeliverableObject,
    DeliveryClass,
    Outcome,
)
from node.domain.errors import Status, is_out_of_resources
from node.domain.instance import Origin
from node.domain.peers import Peer, match_http_user, match_peer
from node.domain.settings import KeyName, Settings

_TIMEOUT = "_timeout_s"
_PEER_PREFIX = "peer:"

# statuses of peers; those that this node answers too are ``errors.Status``
_STORED_WITH_WARNING = (0x0107, 0x0116)  # attribute list error, attribute value out of range
_PROCESSING_FAILURE = 0x0110
_DUPLICATE_SOP_INSTANCE = 0x0111
_NOT_AUTHORIZED = 0x0124
_RESOURCE_LIMITATION = 0x0213
_WARNING_WORDS = {
    0xB000: "it changed data elements",
    0xB006: "it discarded elements",
    0xB007: "it says that the data set does not match its SOP class",
}
_BLOCKING_WORDS = {
    Status.SOP_CLASS_NOT_SUPPORTED: "it does not support the SOP class",
    _NOT_AUTHORIZED: "it does not authorise this node to store there",
}


class Health(StrEnum):
    """How an examination ended; ``warning`` is for what need not be wrong."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What came of asking: whether a destination would take results, whether a part of the node works."""

    health: Health
    sentence: str

    @classmethod
    def good(cls, sentence: str) -> Self:
        return cls(health=Health.GOOD, sentence=sentence)

    @classmethod
    def warning(cls, sentence: str) -> Self:
        return cls(health=Health.WARNING, sentence=sentence)

    @classmethod
    def bad(cls, sentence: str) -> Self:
        return cls(health=Health.BAD, sentence=sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination(Settings, ABC):
    """One place for results.

    A kind has, besides its own keys, ``kind: Literal[...]`` with the name it has in ``KINDS``.

    Args:
        forms: Forms of a result that it is sent.
    """

    needs: ClassVar[str]  # what the file must say, for the manual
    does: ClassVar[str]  # what becomes of a result, for the manual
    service: ClassVar[str]  # what it is on the network, for the conformance statement
    carries_any_file: ClassVar[bool] = False  # else DICOM objects only

    name: KeyName
    forms: tuple[str, ...] = DEFAULT_FORMS

    @abstractmethod
    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Send one object; what the peer does, down to silence, is an outcome."""

    @abstractmethod
    def probe(self) -> Probe:
        """Whether it would take results, without sending it one."""

    @classmethod
    def answers(cls) -> Mapping[str, Mapping[str, Outcome]]:
        """For the conformance statement: examples of answers and what they mean, by their sort."""
        return {}

    @classmethod
    def timeouts_s(cls) -> dict[str, float]:
        return {
            each.name.removesuffix(_TIMEOUT): each.default
            for each in fields(cls)
            if each.name.endswith(_TIMEOUT) and each.default is not MISSING
        }


# --- the sender ----------------------------------------------------------------------------------


def name_of_peer(peer: Peer) -> str:
    """Name of the destination that a peer without ``reply_to`` is: C-STORE to it."""
    return f"{_PEER_PREFIX}{peer.name}"


def sender_destination(peers: Mapping[str, Peer], origin: Origin) -> str:
    """Name of the destination that results for this origin go to, or ``UNKNOWN_DESTINATION``."""
    peer = peers.get(origin.peer) or match_http_user(peers.values(), origin.http_user)
    if peer is None and origin.calling_ae_title and origin.address:
        peer = match_peer(peers.values(), origin.calling_ae_title, origin.address)
    if peer is None:
        return UNKNOWN_DESTINATION
    return peer.reply_to or (name_of_peer(peer) if peer.is_reachable else UNKNOWN_DESTINATION)


def resolve_destinations(
    names: Iterable[str], peers: Mapping[str, Peer], origin: Origin
) -> tuple[str, ...]:
    """A rule's ``send`` list with ``sender`` resolved; what is named twice is served once."""
    resolved = (sender_destination(peers, origin) if n == "sender" else n for n in names)
    return tuple(dict.fromkeys(resolved))


# --- answers -------------------------------------------------------------------------------------


def is_warning(status: int) -> bool:
    """Whether the instance was stored with a reservation: Bxxx, and two of PS3.7 Annex C."""
    return status & 0xF000 == 0xB000 or status in _STORED_WITH_WARNING


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
        destination_sick=kind is DeliveryClass.RETRY and status != _PROCESSING_FAILURE,
    )


def _dimse_kind(status: int) -> tuple[DeliveryClass, str]:
    if status == Status.SUCCESS:
        return DeliveryClass.SENT, "stored"
    if status == _DUPLICATE_SOP_INSTANCE:
        return DeliveryClass.WARNED, "the destination says it holds this object; not read back"
    if is_warning(status):
        words = _WARNING_WORDS.get(status, "with a warning")
        return DeliveryClass.WARNED, f"stored by the destination; {words}"
    if is_out_of_resources(status):
        return DeliveryClass.RETRY, "the destination is out of resources"
    if status in (_PROCESSING_FAILURE, _RESOURCE_LIMITATION):
        return DeliveryClass.RETRY, "the destination failed to process the object"
    if status & 0xFF00 == Status.DOES_NOT_MATCH_SOP_CLASS:
        return DeliveryClass.BLOCKED, "the destination says it does not match its SOP class"
    if status & 0xFF00 in (0x0100, 0x0200):
        words = _BLOCKING_WORDS.get(status, "it cannot perform the operation")
        return DeliveryClass.BLOCKED, f"the destination refused: {words}"
    if status & 0xF000 == Status.CANNOT_UNDERSTAND:
        return DeliveryClass.REFUSED, "the destination cannot understand the object"
    # Not a C-STORE status of PS3.4 or PS3.7: a fault of the peer, which may or may not pass
    return DeliveryClass.REFUSED, "the destination answered with an unknown status"


def sick(sentence: str) -> Outcome:
    """Nothing else would have got through either: tried again when the destination is well."""
    return Outcome(kind=DeliveryClass.RETRY, sentence=sentence, destination_sick=True)


def blocked(sentence: str, status: int | None = None) -> Outcome:
    """Only a changed configuration or a person can help."""
    return Outcome(kind=DeliveryClass.BLOCKED, sentence=sentence, status=status)


def unknown_destination(name: str) -> Outcome:
    return blocked(f"the configuration has no destination {name!r}")


def form_not_taken(name: str, form: str) -> Outcome:
    return blocked(f"the configuration says that {name!r} takes no {form}")


def result_file_gone() -> Outcome:
    return blocked("the result's file is gone from this node's disk")
